// Command writer is the application on a volume in a guest: it writes
// checksummed files until it is told to end (SIGTERM), or reads them back.
//
//	writer write DIRECTORY RECORD   write files; at the end, what was written is recorded in the file
//	writer verify DIRECTORY RECORD  read the recorded files and compare
//
// Both print one line of JSON: the bytes, and of writing the longest stall.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/growvol/growvol/tests/csiclient"
)

// budget bounds what is written, so that it never fills a volume of 512 MiB;
// pause spreads it over time, so that growth meets writes under way.
const (
	budget = 64 << 20
	pause  = 2 * time.Millisecond
)

// outcome is what is printed.
type outcome struct {
	Bytes   int64 `json:"bytes"`
	StallMS int64 `json:"stall_ms,omitempty"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "writer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 3 {
		return errors.New("usage: writer write|verify DIRECTORY RECORD")
	}
	var o outcome
	var err error
	switch dir, record := args[1], args[2]; args[0] {
	case "write":
		o, err = write(ctx, dir, record)
	case "verify":
		o, err = verify(dir, record)
	default:
		err = fmt.Errorf("%q is neither write nor verify", args[0])
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(o)
}

func write(ctx context.Context, dir, record string) (outcome, error) {
	w := csiclient.StartWriter(context.WithoutCancel(ctx), dir, budget, pause)
	<-ctx.Done()
	if err := w.Stop(); err != nil {
		return outcome{}, err
	}
	o := outcome{Bytes: w.Bytes(), StallMS: w.TakeLongestStall().Milliseconds()}
	content, err := json.Marshal(w.Files())
	if err != nil {
		return o, err
	}
	return o, os.WriteFile(record, content, 0o600)
}

func verify(dir, record string) (outcome, error) {
	content, err := os.ReadFile(record)
	if err != nil {
		return outcome{}, err
	}
	var files []csiclient.WrittenFile
	if err := json.Unmarshal(content, &files); err != nil {
		return outcome{}, fmt.Errorf("%s: %w", record, err)
	}
	n, err := csiclient.VerifyFiles(dir, files)
	return outcome{Bytes: n}, err
}
