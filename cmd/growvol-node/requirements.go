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

// firstCheckTimeout bounds the first check, which normally takes milliseconds.
const firstCheckTimeout = 10 * time.Second

// filesystems is the part of *filesystem.System that the requirements use.
type filesystems interface {
	CheckGrowExt() error
	Propagates(path string) (bool, error)
}

// newRequirementChecker returns the checker behind Probe: it checks that the node has what
// the plugin needs. The checker has run once, so that the log shows at the start what is missing.
func newRequirementChecker(
	ctx context.Context, c config, system filesystems, connector volume.Connector,
	reg prometheus.Registerer, log *slog.Logger,
) *requirement.Checker {
	var checks []requirement.Check
	add := func(name string, run func(context.Context) error) {
		checks = append(checks, requirement.Check{Name: name, Run: run})
	}
	add("state_dir", func(context.Context) error { return checkStateDir(c.stateDir) })
	if checker, ok := connector.(volume.HealthChecker); ok {
		add("backend", checker.CheckHealth)
	}
	if c.requireShared {
		add("shared_mounts", func(context.Context) error { return checkSharedMounts(system, c.kubeletDir) })
	}
	if c.requireSysRes {
		add("cap_sys_resource", func(context.Context) error { return checkSysResource(system) })
	} else if err := system.CheckGrowExt(); err != nil {
		log.WarnContext(ctx, "mounted ext2, ext3 and ext4 possibly cannot be grown on this node", "cause", err)
	}
	checker := requirement.NewChecker(reg, log, checks...)
	ctx, cancel := context.WithTimeout(ctx, firstCheckTimeout)
	defer cancel()
	_ = checker.CheckHealth(ctx) // it logs what is missing; Probe returns the error
	return checker
}

// checkSysResource returns an error if the plugin cannot grow a mounted ext2, ext3 or ext4.
func checkSysResource(system filesystems) error {
	err := system.CheckGrowExt()
	if e, ok := errors.AsType[*volume.Error](err); ok && e.Kind == volume.KindPrecondition {
		return e.WithRemedy(e.Remedy + "; if only XFS and btrfs must grow on this node, set --require-sys-resource=false " +
			"(Helm value node.requireSysResource: false)")
	}
	return err
}

// checkSharedMounts returns an error unless a mount that the plugin makes below kubelet's directory
// dir would also appear outside of the plugin. It checks dir/plugins, where kubelet has volumes
// staged: if the mount that contains it is not shared, kubelet and the pods do not see the volumes.
func checkSharedMounts(system filesystems, dir string) error {
	propagates, err := system.Propagates(filepath.Join(dir, "plugins"))
	if err != nil || propagates {
		return err
	}
	return volume.Errorf(volume.KindPrecondition,
		"mounts below %s would not be visible outside of this plugin: the mount that holds it is not shared", dir).
		WithRemedy("mount kubelet's directory into the plugin's container with mountPropagation: Bidirectional, " +
			"and set --kubelet-dir to it (Helm value kubeletDir)")
}

// checkStateDir returns an error unless the directory can be written to or, if it does not exist,
// can be created.
func checkStateDir(dir string) error {
	for path := dir; ; path = filepath.Dir(path) {
		err := unix.Access(path, unix.W_OK|unix.X_OK)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
			return volume.Errorf(volume.KindPrecondition, "the state directory %s cannot be written to: %w",
				dir, &fs.PathError{Op: "access", Path: path, Err: err}).
				WithRemedy("mount a directory of the node's own disk there, read-write, or set --state-dir to another directory")
		}
	}
}

var _ filesystems = (*filesystem.System)(nil)
