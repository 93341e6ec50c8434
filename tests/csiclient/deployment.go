package csiclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/growvol/growvol/tests/guest"
)

// binVariable tells processes in a guest where the machine has built the
// plugins.
const binVariable = "GROWVOL_BIN"

// Main is guest.Main for tests that run the real plugins: it builds them
// first.
func Main(m interface{ Run() int }, opts guest.Options) int {
	if !guest.Inside() {
		bin, err := BuildPlugins(context.Background())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		opts.Env = append(opts.Env, binVariable+"="+bin)
	}
	return guest.Main(m, opts)
}

// BinDir returns the directory with the plugins that Main has built.
func BinDir() string { return os.Getenv(binVariable) }

// Deployment is a driver that runs: both plugins with the loop backend.
type Deployment struct {
	*Driver
	ControllerPlugin, NodePlugin *Plugin
	NodeHTTP                     string // address of the node plugin's /metrics and /healthz

	bin, dir string
	log      io.Writer
	flags    []string
	// NodeFlags are further options of the node plugin, from its next start on.
	NodeFlags []string
}

// Deploy starts both plugins of the bin directory. Their sockets, volumes,
// state and mounts are below dir.
func Deploy(ctx context.Context, bin, dir string, log io.Writer, flags ...string) (*Deployment, error) {
	d := &Deployment{bin: bin, dir: dir, log: log, flags: append([]string{"--loop-dir=" + filepath.Join(dir, "volumes"), "--node-id=node-1"}, flags...)}
	var err error
	if d.NodeHTTP, err = freeAddress(ctx); err != nil {
		return nil, err
	}
	if err := d.StartController(ctx); err != nil {
		return nil, err
	}
	if err := d.StartNode(ctx); err != nil {
		d.ControllerPlugin.Kill()
		return nil, err
	}
	return d, nil
}

// StartController starts the controller plugin, again if it was ended.
func (d *Deployment) StartController(ctx context.Context) (err error) {
	d.ControllerPlugin, err = StartPlugin(ctx, d.log, filepath.Join(d.bin, "growvol-controller"), d.ControllerSocket(), d.flags...)
	if err != nil || d.NodePlugin == nil {
		return err
	}
	return d.connect(ctx)
}

// StartNode starts the node plugin, again if it was ended.
func (d *Deployment) StartNode(ctx context.Context) (err error) {
	args := slices.Concat([]string{"--state-dir=" + filepath.Join(d.dir, "state"), "--http-endpoint=" + d.NodeHTTP}, d.flags, d.NodeFlags)
	d.NodePlugin, err = StartPlugin(ctx, d.log, filepath.Join(d.bin, "growvol-node"), d.NodeSocket(), args...)
	if err != nil {
		return err
	}
	return d.connect(ctx)
}

func (d *Deployment) connect(ctx context.Context) (err error) {
	d.Driver, err = Connect(ctx, d.ControllerPlugin, d.NodePlugin, filepath.Join(d.dir, "kubelet"))
	return err
}

// ControllerSocket is the path of the controller plugin's socket.
func (d *Deployment) ControllerSocket() string { return filepath.Join(d.dir, "controller.sock") }

// NodeSocket is the path of the node plugin's socket.
func (d *Deployment) NodeSocket() string { return filepath.Join(d.dir, "node.sock") }

// Kill ends both plugins at once, for a clean-up.
func (d *Deployment) Kill() {
	d.NodePlugin.Kill()
	d.ControllerPlugin.Kill()
}

// Stop ends both plugins as Kubernetes would.
func (d *Deployment) Stop() error { return errors.Join(d.NodePlugin.Stop(), d.ControllerPlugin.Stop()) }

// Leftovers lists what must be gone once every volume is deleted: volumes,
// snapshots, markers of formats, mounts, attached loop devices, mappings and
// their device nodes.
func (d *Deployment) Leftovers() ([]string, error) {
	var left []string
	for _, pattern := range []string{"volumes/volumes/*", "volumes/snapshots/*", "volumes/pending/*", "state/*"} {
		found, err := filepath.Glob(filepath.Join(d.dir, pattern))
		if err != nil {
			return nil, err
		}
		left = append(left, found...)
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	mapped, err := mappings()
	if err != nil {
		return nil, err
	}
	mounts, err := mountsBelow(d.dir)
	return slices.Concat(left, loops, mapped, mounts), err
}

// mappings lists the device-mapper devices of this machine, and what lies in
// /dev/mapper.
func mappings() ([]string, error) {
	devices, err := filepath.Glob("/sys/block/dm-*")
	if err != nil {
		return nil, err
	}
	nodes, err := filepath.Glob("/dev/mapper/*")
	if err != nil {
		return nil, err
	}
	return append(devices, slices.DeleteFunc(nodes, func(path string) bool { return path == "/dev/mapper/control" })...), nil
}
