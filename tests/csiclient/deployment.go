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

// binVariable is the environment variable with the directory of the built plugins, for
// the tests in a guest.
const binVariable = "GROWVOL_BIN"

// Main is guest.Main for tests that run the real plugins: it builds them first, on the
// machine.
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

// BinDir returns the directory of the plugins that Main has built.
func BinDir() string { return os.Getenv(binVariable) }

// Deployment is a running driver: both plugins with the loop backend.
type Deployment struct {
	*Driver
	ControllerPlugin, NodePlugin *Plugin
	// NodeHTTP is the address of the node plugin's /metrics and /healthz.
	NodeHTTP string
	// NodeFlags are further options of the node plugin, from its next start on.
	NodeFlags []string

	bin, dir string
	log      io.Writer
	flags    []string // of both plugins
}

// Deploy starts both plugins of the directory bin with the further flags. Their
// sockets, volumes, state and mounts are below dir; their logs go to log.
func Deploy(ctx context.Context, bin, dir string, log io.Writer, flags ...string) (*Deployment, error) {
	flags = append([]string{"--loop-dir=" + filepath.Join(dir, "volumes"), "--node-id=node-1"}, flags...)
	d := &Deployment{bin: bin, dir: dir, log: log, flags: flags}
	var err error
	if d.NodeHTTP, err = FreeAddress(ctx); err != nil {
		return nil, err
	}
	controller := filepath.Join(bin, "growvol-controller")
	if d.ControllerPlugin, err = StartPlugin(ctx, log, controller, d.ControllerSocket(), flags...); err != nil {
		return nil, err
	}
	if err := d.StartNode(ctx); err != nil {
		d.ControllerPlugin.Kill()
		return nil, err
	}
	return d, nil
}

// StartNode starts the node plugin. It also starts one again that was killed or
// stopped.
func (d *Deployment) StartNode(ctx context.Context) (err error) {
	own := []string{"--state-dir=" + filepath.Join(d.dir, "state"), "--http-endpoint=" + d.NodeHTTP}
	args := slices.Concat(own, d.flags, d.NodeFlags)
	d.NodePlugin, err = StartPlugin(ctx, d.log, filepath.Join(d.bin, "growvol-node"), d.NodeSocket(), args...)
	if err != nil {
		return err
	}
	d.Driver, err = connect(ctx, d.ControllerPlugin, d.NodePlugin, filepath.Join(d.dir, "kubelet"))
	return err
}

// ControllerSocket returns the path of the controller plugin's socket.
func (d *Deployment) ControllerSocket() string { return filepath.Join(d.dir, "controller.sock") }

// NodeSocket returns the path of the node plugin's socket.
func (d *Deployment) NodeSocket() string { return filepath.Join(d.dir, "node.sock") }

// Kill ends both plugins with SIGKILL.
func (d *Deployment) Kill() {
	d.NodePlugin.Kill()
	d.ControllerPlugin.Kill()
}

// Stop ends both plugins with SIGTERM, as Kubernetes does, and returns the errors of
// their exits.
func (d *Deployment) Stop() error { return errors.Join(d.NodePlugin.Stop(), d.ControllerPlugin.Stop()) }
