package openstack

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/tests/csiclient"
)

// Rig is an OpenStack that runs on this machine.
type Rig struct {
	Dir   string // its state: clouds.yaml, cloud.conf, log/
	User  *Cloud // what the driver may; instances are booted in its project
	Admin *Cloud

	programs    string // directory of this package
	registering sync.Mutex
}

// Open opens the rig with this state directory. The user is an entry of its
// clouds.yaml: "test", whose project the tests of the plugins empty, or "csi".
func Open(ctx context.Context, dir, user string) (*Rig, error) {
	root, err := csiclient.ModuleRoot(ctx)
	if err != nil {
		return nil, err
	}
	r := &Rig{Dir: dir, programs: filepath.Join(root, "tests", "openstack")}
	if r.User, err = openCloud(ctx, dir, user); err != nil {
		return nil, err
	}
	r.Admin, err = openCloud(ctx, dir, "admin")
	return r, err
}

// Service disturbs a service of the rig, such as cinder-volume: the action is
// pause, continue, stop or start.
func (r *Rig) Service(ctx context.Context, action, name string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := output(ctx, filepath.Join(r.programs, "service"), action, name)
	return err
}

// Eventually repeats a reading until it holds, or fails, until the context's
// deadline; for five minutes, where it has none.
func Eventually(ctx context.Context, what string, holds func(context.Context) (bool, error)) error {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
	}
	start := time.Now()
	for {
		switch ok, err := holds(ctx); {
		case err != nil:
			return fmt.Errorf("%s: %w", what, err)
		case ok:
			return nil
		}
		if err := operation.Sleep(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("%s: not within %.0f s: %w", what, time.Since(start).Seconds(), err)
		}
	}
}

// output runs a program and returns what it wrote to standard output; an error
// shows what it wrote to standard error.
func output(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.WaitDelay = time.Second // for its children, which are not killed and may hold its output open
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w\n%s", err, exit.Stderr)
		}
		return "", fmt.Errorf("%s %q: %w", filepath.Base(program), args, err)
	}
	return string(out), nil
}
