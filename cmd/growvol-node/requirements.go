package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/node/requirement"
	"github.com/growvol/growvol/pkg/volume"
)

// firstCheckTimeout bounds the check at the start; it takes milliseconds.
const firstCheckTimeout = 10 * time.Second

// filesystems is what the requirements ask of filesystem.System.
type filesystems interface {
	CheckGrowExt() error
	Propagates(path string) (bool, error)
}

// watchRequirements returns the check behind Probe: whether the node has what
// the plugin needs. It has run once, so that the log says at once what is
// missing.
func watchRequirements(ctx context.Context, c config, fs filesystems, connector volume.Connector, reg prometheus.Registerer, log *slog.Logger) (*requirement.Checker, error) {
	list := []requirement.Check{{Name: "state_dir", Run: func(context.Context) error { return checkStateDir(c.stateDir) }}}
	if checker, ok := connector.(volume.HealthChecker); ok {
		list = append(list, requirement.Check{Name: "backend", Run: checker.CheckHealth})
	}
	if c.requireShared {
		list = append(list, requirement.Check{Name: "shared_mounts", Run: func(context.Context) error { return checkShared(fs, c.kubeletDir) }})
	}
	if c.requireSysRes {
		list = append(list, requirement.Check{Name: "cap_sys_resource", Run: func(context.Context) error { return checkSysResource(fs) }})
	} else if err := fs.CheckGrowExt(); err != nil {
		log.WarnContext(ctx, "this node grows XFS and btrfs only", "cause", err)
	}
	r, err := requirement.NewChecker(reg, log, list...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, firstCheckTimeout)
	defer cancel()
	_ = r.CheckHealth(ctx) // it logs what is missing; Probe tells the rest
	return r, nil
}

// checkSysResource reports whether ext2, ext3 and ext4 can grow.
func checkSysResource(fs filesystems) error {
	err := fs.CheckGrowExt()
	if e, ok := errors.AsType[*volume.Error](err); ok && e.Kind == volume.KindPrecondition {
		return e.WithRemedy(e.Remedy + "; where only XFS and btrfs are to grow, give --require-sys-resource=false (chart: node.requireSysResource)")
	}
	return err
}

// checkShared reports whether mounts below the orchestrator's directory are
// seen outside of the plugin.
func checkShared(fs filesystems, dir string) error {
	shared, err := fs.Propagates(filepath.Join(dir, "plugins"))
	if err != nil || shared {
		return err
	}
	return volume.Errorf(volume.KindPrecondition, "mounts below %s would not be seen outside of this plugin: the mount that holds it is not shared", dir).
		WithRemedy("mount the orchestrator's directory into the plugin with mountPropagation: Bidirectional, and name it in --kubelet-dir")
}

// checkStateDir reports whether the directory is there and can be written to,
// or can be made.
func checkStateDir(dir string) error {
	for at := dir; ; at = filepath.Dir(at) {
		err := unix.Access(at, unix.W_OK|unix.X_OK)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return volume.Errorf(volume.KindPrecondition, "the state directory %s cannot be written to: %w", dir, &fs.PathError{Op: "access", Path: at, Err: err}).
				WithRemedy("mount a directory of the node's own disk there, read-write, or name another in --state-dir")
		}
	}
}

var _ filesystems = (*filesystem.System)(nil)
