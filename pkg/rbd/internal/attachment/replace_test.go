package attachment

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/rbd/noderecord"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/must"
)

// This file tests fences that others than this driver have made.

// A fence that others have made, and that ends soon, is replaced by one of this driver, which goes
// when the node is back.
func TestShortFenceOfOthersIsReplaced(t *testing.T) {
	r, m := attached(t, "locked")
	r.ceph.Fence(m.Address)
	r.kill("n1", m)
	volumetest.WantKind(t, r.detach("locked", "n1"), volume.KindPrecondition, m.Address) // it may end in an hour
	r.taint("n1")
	must.Succeed(t, r.detach("locked", "n1"))
	r.wantFenced("n1", m.Address)
	if end := must.Value(r.cluster.Blocklist())(t)[m.Address]; time.Until(end) < fenceDuration-time.Hour {
		t.Errorf("the fence ends at %s, want it to last %s", end, fenceDuration)
	}
	if !strings.Contains(r.log.String(), "by others than this driver") {
		t.Errorf("the log has no warning:\n%s", r.log.String())
	}
	r.restore("n1")
	r.unmap("n1", m)
	must.Succeed(t, r.attach("locked", "n1", writer()))
	r.wantFenced("n1")
}

// A fence of others that lasts long enough is used, and is not removed with the node's return.
func TestLongFenceOfOthersStays(t *testing.T) {
	r, m := attached(t, "locked")
	must.Succeed(t, r.cluster.Fence(m.Address, 2*fenceDuration))
	r.kill("n1", m)
	volumetest.WantKind(t, r.detach("locked", "n1"), volume.KindPrecondition, m.Address)
	r.taint("n1")
	r.ceph.ResetCalls()
	must.Succeed(t, r.detach("locked", "n1"))
	if calls := r.ceph.Calls(); calls["Cluster.Unfence"]+calls["Cluster.Fence"] > 0 || calls["Pool.AwaitMap"] == 0 {
		t.Errorf("made the calls %v, want the fence unchanged and verified", calls)
	}
	r.restore("n1")
	r.unmap("n1", m)
	must.Succeed(t, r.attach("locked", "n1", writer()))
	r.wantListed(m.Address)
}

// A fence that this driver made may have been removed, and another made by others: it stays.
func TestFenceThatOthersMadeSinceStays(t *testing.T) {
	r, m := attached(t, "locked")
	r.kill("n1", m)
	r.taint("n1")
	must.Succeed(t, r.detach("locked", "n1"))
	must.Succeed(t, r.cluster.Unfence(m.Address))
	r.ceph.Fence(m.Address)
	r.restore("n1")
	r.unmap("n1", m)
	must.Succeed(t, r.attach("locked", "n1", writer()))
	r.wantListed(m.Address)
	if text := r.api.Annotation("n1", noderecord.FencedAnnotation); text != "" {
		t.Errorf("the Node remembers the fences %s, want none", text)
	}
}

// Replacing a fence leaves the client without one for a moment: not while others use what it could
// write to.
func TestFenceOfOthersIsNotReplacedWhileItProtectsAnotherNode(t *testing.T) {
	for name, use := range map[string]func(*rig){
		"attached": func(r *rig) { must.Succeed(r.t, r.attach("plain", "n2", writer())) },
		"watched":  func(r *rig) { r.ceph.Map("rbd", "", "plain", fakeceph.MapOptions{}) },
	} {
		t.Run(name, func(t *testing.T) {
			r, m := attached(t, "locked")
			r.recordPlain("")
			r.ceph.Fence(m.Address)
			use(r)
			r.kill("n1", m)
			r.taint("n1")
			r.ceph.ResetCalls()
			volumetest.WantKind(t, r.detach("locked", "n1"), volume.KindPrecondition, "rbd/plain",
				"ceph osd blocklist rm "+m.Address)
			if n := r.ceph.Calls()["Cluster.Unfence"]; n > 0 {
				t.Error("the fence was removed")
			}
			r.wantNodes("locked", "n1")
			must.Succeed(t, r.cluster.Unfence(m.Address)) // what the message says
			must.Succeed(t, r.detach("locked", "n1"))
			r.wantFenced("n1", m.Address)
		})
	}
}

// A short fence of others is not replaced if no record tells what else the client has.
func TestFenceOfTheLockHolderIsNotReplacedWithoutARecord(t *testing.T) {
	r, m := attached(t, "locked")
	r.ceph.Fence(m.Address)
	r.api.RemoveNode("n1")
	m.Lose()
	volumetest.WantKind(t, r.detach("locked", "n1"), volume.KindPrecondition, "ceph osd blocklist rm "+m.Address)
	must.Succeed(t, r.cluster.Unfence(m.Address))
	must.Succeed(t, r.detach("locked", "n1"))
	r.wantListed(m.Address)
}

// Two calls replace the same fence, for two images of the client. The second one finds the lasting
// fence of the first: the first image may be in use by another node already.
func TestFenceThatAnotherCallHasReplacedIsNotRemoved(t *testing.T) {
	r, m := attached(t, "locked")
	r.ceph.Fence(m.Address)
	r.kill("n1", m)
	r.taint("n1")
	isReplaced := false
	r.api.Before = func(_ http.ResponseWriter, request *http.Request) bool {
		if request.Method == http.MethodPatch && !isReplaced {
			isReplaced = true
			must.Succeed(t, r.cluster.Unfence(m.Address))
			must.Succeed(t, r.cluster.Fence(m.Address, fenceDuration))
			r.ceph.ResetCalls()
		}
		return false
	}
	must.Succeed(t, r.detach("locked", "n1"))
	if calls := r.ceph.Calls(); !isReplaced || calls["Cluster.Unfence"] > 0 {
		t.Errorf("got the calls %v after another call has replaced the fence (%t), want no Unfence", calls, isReplaced)
	}
	r.wantFenced("n1", m.Address)
}

// recordPlain adds the image "plain", or a snapshot of it, to what the first client of n1 has.
func (r *rig) recordPlain(snapshot string) {
	r.t.Helper()
	record := r.records["n1"]
	record.Clients[0].Images = append(record.Clients[0].Images, noderecord.Image{
		PoolID: r.pool.ID(), ID: must.Value(r.pool.ImageID("plain"))(r.t), Name: "rbd/plain", Snapshot: snapshot,
	})
	r.write("n1")
}

// If nothing tells who uses an image of the client, its fence stays.
func TestFenceOfOthersIsNotReplacedAfterAnError(t *testing.T) {
	r, m := attached(t, "locked")
	r.recordPlain("")
	r.ceph.Fence(m.Address)
	r.kill("n1", m)
	r.taint("n1")
	r.ceph.ResetCalls()
	r.ceph.Inject(fakeceph.Fault{Call: "Pool.OpenID", Errno: unix.EIO})
	if err := r.detach("locked", "n1"); err == nil || !strings.Contains(err.Error(), "cannot read who uses image") {
		t.Errorf("got %v, want that the users of an image cannot be read", err)
	}
	if calls := r.ceph.Calls(); calls["Cluster.Unfence"]+calls["Cluster.Fence"] > 0 {
		t.Errorf("got the calls %v, want the fence unchanged", calls)
	}
	r.wantNodes("locked", "n1")
}

// A snapshot cannot be written to, so that others may use its image.
func TestFenceOfOthersIsReplacedWhileItsSnapshotIsInUse(t *testing.T) {
	r, m := attached(t, "locked")
	r.recordPlain("s")
	must.Succeed(t, r.attach("plain", "n2", writer()))
	r.ceph.Fence(m.Address)
	r.kill("n1", m)
	r.taint("n1")
	must.Succeed(t, r.detach("locked", "n1"))
	r.wantFenced("n1", m.Address)
}
