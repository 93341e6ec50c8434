// Command growvol-fakecloud runs an OpenStack cloud without machines or disks, so that growvol can
// be tried without a real cloud. It prints a clouds.yaml with the clouds "csi", "appcred" and
// "admin" and the IDs of the servers to which volumes can be attached. It runs until it is
// interrupted.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/growvol/growvol/tests/fakecloud"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("growvol-fakecloud", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:0", "address to listen on")
	servers := flags.Int("servers", 2, "number of servers")
	workTime := flags.Duration("done", 300*time.Millisecond, "median time of the work that follows an answer")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	cloud, err := fakecloud.Listen(ctx, *listen, fakecloud.Options{Seed: 1})
	if err != nil {
		return err
	}
	defer cloud.Close()
	cloud.SetLatency(fakecloud.AnyCall, fakecloud.Latency{Work: fakecloud.LogNormal(*workTime, 0.3)})
	for range *servers {
		if _, err := fmt.Fprintf(stdout, "# server %s\n", cloud.AddServer("")); err != nil {
			return fmt.Errorf("standard output: %w", err)
		}
	}
	if _, err := io.WriteString(stdout, cloud.CloudsYAML()); err != nil {
		return fmt.Errorf("standard output: %w", err)
	}
	<-ctx.Done()
	return nil
}
