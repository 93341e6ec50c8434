// Package cgroup limits the I/O of pods through the control groups of the kernel (version 2, file
// io.max; Linux, Documentation/admin-guide/cgroup-v2.rst).
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// DefaultRoot is where nodes mount the hierarchy of version 2.
const DefaultRoot = "/sys/fs/cgroup"

// System is the hierarchy of control groups of this node.
type System struct {
	Root string // DefaultRoot, that of the node and not of a container
}

const (
	ioMax       = "io.max"
	noLimit     = "max"
	retryPeriod = 100 * time.Millisecond
	// groupTimeout is how long LimitPod waits for the group: kubelet makes it when it starts the pod,
	// at about the time when it mounts the volumes.
	groupTimeout = 5 * time.Second
)

// LimitPod limits the I/O of a pod to a device, and reads the limits back. They replace those of
// an earlier call. Buffered writes count when the kernel writes them to the device. Kinds:
// Precondition (the node has version 1, or no controller for I/O), Unavailable (the pod has no
// group).
func (s System) LimitPod(ctx context.Context, podUID string, d blockdev.Device, l volume.IOLimits) error {
	if _, err := os.Stat(filepath.Join(s.Root, "cgroup.controllers")); err != nil {
		return volume.Errorf(volume.KindPrecondition,
			"the volume has limits of its I/O, but this node has no cgroup v2 at %s: %w", s.Root, err).
			WithRemedy("use nodes with cgroup v2, or remove the VolumeAttributesClass from the claim")
	}
	group, err := s.awaitGroup(ctx, podUID)
	if err != nil {
		return err
	}
	file := filepath.Join(group, ioMax)
	if err := os.WriteFile(file, []byte(d.Number().String()+" "+format(l)+"\n"), 0o600); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return volume.Errorf(volume.KindPrecondition,
				"the volume has limits of its I/O, but the pod's control group has no writable %s: %w", ioMax, err).
				WithRemedy("enable the controller io for " + filepath.Dir(group) + ": cgroup.subtree_control")
		}
		return volume.Errorf(volume.KindInternal, "cannot limit the I/O of the pod to %s: %w", d, err)
	}
	content, err := os.ReadFile(file) //nolint:gosec // below Root
	if err != nil {
		return volume.Errorf(volume.KindInternal, "cannot read back the limits of the pod: %w", err)
	}
	if got := find(string(content), d.Number()); got != l {
		return volume.Errorf(volume.KindInternal, "the limits of the I/O to %s were written as %q, but read back as %q",
			d, format(l), format(got))
	}
	return nil
}

// awaitGroup waits for the control group of a pod.
func (s System) awaitGroup(ctx context.Context, podUID string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, groupTimeout)
	defer cancel()
	for {
		for _, group := range s.candidates(podUID) {
			if info, err := os.Stat(group); err == nil && info.IsDir() {
				return group, nil
			}
		}
		if err := operation.Sleep(ctx, retryPeriod); err != nil {
			return "", volume.Errorf(volume.KindUnavailable,
				"the volume has limits of its I/O, but pod %s has no control group below %s: %w", podUID, s.Root, err).
				WithRemedy("no action needed: Kubernetes retries this automatically; if it lasts, check cgroupRoot of kubelet")
		}
	}
}

// candidates returns where kubelet puts the control group of a pod, for each class of quality and
// each driver (kubernetes, pkg/kubelet/cm/cgroup_manager_linux.go and
// pod_container_manager_linux.go).
func (s System) candidates(podUID string) []string {
	var all []string
	for _, class := range []string{"", "burstable", "besteffort"} {
		slice, dir := "kubepods", filepath.Join(s.Root, "kubepods.slice")
		if class != "" {
			slice += "-" + class
			dir = filepath.Join(dir, slice+".slice")
		}
		all = append(all,
			filepath.Join(dir, slice+"-pod"+strings.ReplaceAll(podUID, "-", "_")+".slice"),
			filepath.Join(s.Root, "kubepods", class, "pod"+podUID))
	}
	return all
}

// format returns the limits as io.max has them.
func format(l volume.IOLimits) string {
	text := func(n uint64) string {
		if n == 0 {
			return noLimit
		}
		return strconv.FormatUint(n, 10)
	}
	return fmt.Sprintf("rbps=%s wbps=%s riops=%s wiops=%s",
		text(l.ReadBPS), text(l.WriteBPS), text(l.ReadIOPS), text(l.WriteIOPS))
}

// find returns the limits of a device in the content of io.max, which has a line for each device
// with limits.
func find(content string, d blockdev.DeviceNumber) volume.IOLimits {
	var l volume.IOLimits
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != d.String() {
			continue
		}
		for _, field := range fields[1:] {
			key, value, _ := strings.Cut(field, "=")
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				continue // "max"
			}
			switch key {
			case "rbps":
				l.ReadBPS = n
			case "wbps":
				l.WriteBPS = n
			case "riops":
				l.ReadIOPS = n
			case "wiops":
				l.WriteIOPS = n
			}
		}
	}
	return l
}
