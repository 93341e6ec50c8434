package node

import (
	"context"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// refreshingConnector is a fakeConnector that implements volume.DeviceRefresher.
type refreshingConnector struct {
	fakeConnector
	err       error
	refreshes int
}

func (c *refreshingConnector) RefreshDevice(context.Context, string) error {
	c.refreshes++
	return c.err
}

func newRefreshingNode(t *testing.T) (*testNode, *refreshingConnector) {
	t.Helper()
	b := newTestNode(t, mountCapability("ext4"))
	c := &refreshingConnector{fakeConnector: fakeConnector{b.machine}}
	b.opts.Connector = c
	return b, c
}

func TestExpandRefreshesTheDeviceFirst(t *testing.T) {
	b, c := newRefreshingNode(t)
	b.stageAndPublish(t, volume.GiB)
	if _, err := b.expand(t.Context(), volume.GiB); err != nil || c.refreshes != 1 {
		t.Errorf("error %v after %d refreshes, want success after 1", err, c.refreshes)
	}
	// A cluster that does not answer: the device is large enough all the same.
	c.err = volume.Errorf(volume.KindUnavailable, "no answer")
	if _, err := b.expand(t.Context(), volume.GiB); err != nil {
		t.Errorf("after a failed refresh: %v", err)
	}
}

func TestFencedNodeIsReported(t *testing.T) {
	b, c := newRefreshingNode(t)
	b.stageAndPublish(t, volume.GiB)
	wantHealthy(t, b)
	c.err = volume.Errorf(volume.KindPrecondition, "the client is on the blocklist: %w", volume.ErrFenced).
		WithRemedy("delete the pods")
	_, err := b.expand(t.Context(), volume.GiB)
	volumetest.WantKind(t, err, volume.KindPrecondition)
	condition := wantCondition(t, b, reasonFenced, csi.VolumeHealthErrorType_INACCESSIBLE)
	if !strings.Contains(condition.GetMessage(), "next step: delete the pods") {
		t.Errorf("the message %q lacks the next step", condition.GetMessage())
	}
	c.err = nil
	wantHealthy(t, b)
}
