package node

import (
	"context"
	"testing"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// fakeLimiter records the last call.
type fakeLimiter struct {
	podUID string
	device blockdev.Device
	limits volume.IOLimits
}

func (f *fakeLimiter) LimitPod(_ context.Context, podUID string, d blockdev.Device, l volume.IOLimits) error {
	*f = fakeLimiter{podUID, d, l}
	return nil
}

func TestLimitsOfThePublishContextAreApplied(t *testing.T) {
	t.Parallel()
	limiter := new(fakeLimiter)
	limits := volume.IOLimits{WriteBPS: 1 << 20}
	dev := blockdev.Device{Major: 252}
	p := publishCall{
		Server: &Server{opts: Options{Limiter: limiter}}, limits: limits,
		target: "/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~csi/pv-1/mount",
	}
	if err := p.limitIO(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
	if want := (fakeLimiter{"uid-1", dev, limits}); *limiter != want {
		t.Errorf("got %+v, want %+v", *limiter, want)
	}
	p.target = "/mnt/x"
	volumetest.WantKind(t, p.limitIO(t.Context(), dev), volume.KindPrecondition, "/mnt/x")
	p.opts.Limiter = nil
	volumetest.WantKind(t, p.limitIO(t.Context(), dev), volume.KindPrecondition, "cannot limit")
	p.limits = volume.IOLimits{}
	if err := p.limitIO(t.Context(), dev); err != nil {
		t.Errorf("without limits: %v", err)
	}
}

func TestPodUIDIsReadFromTheTargetPath(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~csi/pv-1/mount":            "uid-1",
		"/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pv-1/uid-2": "uid-2",
		"/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/staging/pv-1/uid-2": "",
		"/pods/a/b/kubelet/pods/uid-3/volumes/kubernetes.io~csi/pv-1/mount":           "uid-3",
		"/tmp/target": "",
	} {
		if got := podUIDOf(target); got != want {
			t.Errorf("%s: got %q, want %q", target, got, want)
		}
	}
}
