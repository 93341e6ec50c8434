// Command demo shows what growvol does: volumes grow while a program writes to
// them. It boots a User-Mode Linux guest, starts the two real plugins in it, and
// calls them as Kubernetes does. It needs no cloud and no cluster, and leaves
// nothing on the machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/guest"
)

// demoTimeout bounds the whole demo, which takes well under a minute.
const demoTimeout = 5 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// run parses the flags and runs the demo: on the machine it starts this program in a
// guest, and in the guest it shows the growth. It returns the exit code.
func run(ctx context.Context) (int, error) {
	bin := flag.String("bin", "bin", "directory with growvol-controller and growvol-node")
	fs := flag.String("fs", "ext4,xfs", "filesystems to grow: ext2, ext3, ext4, xfs, btrfs")
	flag.Parse()
	types, err := parseTypes(*fs)
	if err != nil {
		return 2, err
	}
	if guest.Inside() {
		return 0, show(ctx, *bin, types)
	}
	dir, err := filepath.Abs(*bin)
	if err != nil {
		return 1, err
	}
	for _, program := range []string{"growvol-controller", "growvol-node", "demo"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return 1, fmt.Errorf("%w (next step: run `make demo`, which builds it)", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	fmt.Println("Booting a Linux guest (User-Mode Linux) …")
	return guest.Run(ctx,
		guest.Command{Path: filepath.Join(dir, "demo"), Args: []string{"--bin=" + dir, "--fs=" + *fs}},
		guest.Options{Memory: 3 * volume.GiB, Shares: []guest.Share{{Host: dir}}, Stdout: os.Stdout, Stderr: os.Stderr})
}

// parseTypes parses the value of --fs.
func parseTypes(list string) ([]filesystem.Type, error) {
	var types []filesystem.Type
	for _, name := range strings.Split(list, ",") {
		t, err := filesystem.ParseType(name)
		if err != nil {
			return nil, err
		}
		types = append(types, t)
	}
	return types, nil
}
