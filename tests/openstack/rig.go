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
	Dir   string // state directory: clouds.yaml, cloud.conf, log/
	User  *Cloud // with the rights of the driver; Boot creates instances in this project
	Admin *Cloud

	programs    string // directory of this package
	registering sync.Mutex
}

// Open signs in to the rig with this state directory. The user is a cloud of its clouds.yaml:
// "test", whose project the tests of the plugins empty, or "csi".
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

// ControlService pauses, continues, stops or starts a service of the rig, such as cinder-volume.
func (r *Rig) ControlService(ctx context.Context, action, name string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := runProgram(ctx, filepath.Join(r.programs, "service"), action, name)
	return err
}

// WaitUntil calls holds until it returns true or an error. It waits until the deadline of ctx, or
// for five minutes if ctx has none. what is the condition, for the error.
func WaitUntil(ctx context.Context, what string, holds func(context.Context) (bool, error)) error {
	if _, ok := ctx.Deadline(); !ok {
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

// runProgram runs a program and returns its standard output. An error contains its standard error.
func runProgram(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.WaitDelay = 10 * time.Second // children of the program are not killed and may keep its output open
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
