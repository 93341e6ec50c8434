// Command cephbench measures the controller with the rbd backend on the real Ceph of tests/ceph:
// how many operations of the OSDs each call costs with a small and with a large number of volumes
// in the pool, how long expansions take, alone and many at once, and the memory of the controller.
// `make bench-ceph` runs it in the network namespace of the rig.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/growvol/growvol/tests/csiclient"
)

// options are those of the command line.
type options struct {
	dir        string
	controller string
	many       int
	features   string
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", "/var/tmp/growvol-ceph", "state directory of the rig")
	flag.StringVar(&o.controller, "controller", "bin/growvol-controller-ceph", "program to measure")
	flag.IntVar(&o.many, "many", 5000, "number of volumes in the second measurement; 0: only the first")
	flag.StringVar(&o.features, "features", "layering,exclusive-lock;layering",
		"image features of the classes to measure, separated by semicolons")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "cephbench:", err)
		os.Exit(1)
	}
}

// minVolumes is the number of volumes in the first measurement.
const minVolumes = 10

// run measures and prints tables. It removes what it has created, also after an error.
func run(ctx context.Context, out io.Writer, o options) (err error) {
	work, err := os.MkdirTemp("", "cephbench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	log, err := os.Create(filepath.Join(work, "controller.log"))
	if err != nil {
		return err
	}
	plugin, err := csiclient.StartPlugin(ctx, log, o.controller, filepath.Join(work, "csi.sock"),
		"--backend=rbd", "--ceph-config="+filepath.Join(o.dir, "config.json"), "--ceph-keys="+filepath.Join(o.dir, "keys"),
		"--ceph-name-prefix=bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plugin.Stop(), log.Close()) }()
	b := newBench(out, o, plugin)
	defer func() { err = errors.Join(err, b.removeVolumes(context.WithoutCancel(ctx))) }()

	if err := b.printMemory("after the start"); err != nil {
		return err
	}
	for _, count := range []int{minVolumes, o.many} {
		if count == 0 {
			break
		}
		if err := b.fill(ctx, count); err != nil {
			return err
		}
		for features := range strings.SplitSeq(o.features, ";") {
			if err := b.measureCalls(ctx, features); err != nil {
				return err
			}
		}
		if err := b.printMemory(fmt.Sprintf("with %d volumes", count)); err != nil {
			return err
		}
	}
	return errors.Join(b.measureExpansions(ctx), b.printMemory(fmt.Sprintf("after %d expansions at once", expansions)))
}
