package attachment

import (
	"net/http"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/must"
)

func TestAttachIsRecordedUntilDetach(t *testing.T) {
	r := newRig(t)
	info, err := r.attachment("locked").Attach(t.Context(), "n1", writer())
	if err != nil || info.ID != must.Value(r.pool.ImageID("locked"))(t) {
		t.Fatalf("got %+v, %v, want the image", info, err)
	}
	r.wantNodes("locked", "n1")
	m := r.mapOn("n1", "locked")
	must.Succeed(t, r.attach("locked", "n1", writer())) // repeated, also while mapped
	r.unmap("n1", m)
	for range 2 {
		must.Succeed(t, r.detach("locked", "n1"))
		r.wantNodes("locked")
	}
	must.Succeed(t, r.attach("locked", "n2", writer()))
	r.wantNodes("locked", "n2")
}

func TestAttachChecksOtherAttachments(t *testing.T) {
	readers := volume.Access{Mode: volume.AccessMultiNodeReaderOnly}
	reader := volume.Access{Mode: volume.AccessSingleNodeReaderOnly}
	block := volume.Access{Mode: volume.AccessSingleNodeWriter, Block: true}
	filesystem := volume.Access{Mode: volume.AccessMultiNodeMultiWriter}
	for name, c := range map[string]struct {
		first, second volume.Access
		node          string
		kind          volume.Kind
		isRefused     bool
	}{
		"other mode":           {writer(), sharedBlock(), "n1", volume.KindAlreadyExists, true},
		"block":                {writer(), block, "n1", volume.KindAlreadyExists, true},
		"two writers":          {writer(), writer(), "n2", volume.KindPrecondition, true},
		"writer, then shared":  {writer(), sharedBlock(), "n2", volume.KindPrecondition, true},
		"shared, then writer":  {sharedBlock(), writer(), "n2", volume.KindPrecondition, true},
		"two shared":           {sharedBlock(), sharedBlock(), "n2", 0, false},
		"two readers":          {readers, readers, "n2", 0, false},
		"shared filesystem":    {filesystem, sharedBlock(), "n2", volume.KindPrecondition, true},
		"single node readers":  {reader, readers, "n2", volume.KindPrecondition, true},
		"the same, repeatedly": {sharedBlock(), sharedBlock(), "n1", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			must.Succeed(t, r.attach("locked", "n1", c.first))
			err := r.attach("locked", c.node, c.second)
			if !c.isRefused {
				must.Succeed(t, err)
				return
			}
			volumetest.WantKind(t, err, c.kind, "n1", c.second.Mode.String())
			r.wantNodes("locked", "n1")
		})
	}
}

// A node, a virtual machine or a person may have the image mapped without an attachment.
func TestAttachRefusesAnImageInUse(t *testing.T) {
	r := newRig(t)
	m := r.mapOn("n1", "locked")
	err := r.attach("locked", "n2", writer())
	volumetest.WantKind(t, err, volume.KindPrecondition, m.Address, "n2", "rbd status rbd/locked")
	r.wantNodes("locked")
	must.Succeed(t, r.attach("locked", "n1", writer())) // as after ceph-csi, whose attachments are not recorded
	must.Succeed(t, r.attach("plain", "n2", sharedBlock()))
	r.mapOn("n1", "plain")
	must.Succeed(t, r.attach("plain", "n1", sharedBlock()))
}

func TestAttachFailsForWhatDoesNotExist(t *testing.T) {
	r := newRig(t)
	volumetest.WantKind(t, r.attach("missing", "n1", writer()), volume.KindNotFound)
	volumetest.WantKind(t, r.attach("locked", "n3", writer()), volume.KindNotFound, "n3", "--node-id")
	must.Succeed(t, r.detach("missing", "n1"))
	must.Succeed(t, r.detach("locked", "n3"))
	must.Succeed(t, r.detach("locked", ""))
}

func TestAttachFailsWithoutTheAPIServer(t *testing.T) {
	for code, kind := range map[int]volume.Kind{
		http.StatusForbidden: volume.KindDenied, http.StatusInternalServerError: volume.KindUnavailable,
	} {
		r := newRig(t)
		r.refuse(http.MethodGet, code)
		volumetest.WantKind(t, r.attach("locked", "n1", writer()), kind, "refused")
		r.wantNodes("locked")
	}
}

// librbd copies the metadata of an image to its clones.
func TestCloneIsNotAttached(t *testing.T) {
	r := newRig(t)
	must.Succeed(t, r.attach("locked", "n1", writer()))
	im := must.Value(r.pool.Open("locked", false))(t)
	must.Succeed(t, im.CreateSnapshot("s"))
	must.Succeed(t, im.Close())
	must.Succeed(t, r.pool.Clone(r.pool, "locked", "s", "clone", ceph.ImageOptions{}))
	r.wantNodes("clone")
	must.Succeed(t, r.attach("clone", "n2", writer()))
	r.wantNodes("clone", "n2")
	must.Succeed(t, r.attach("clone", "n2", writer()))
	must.Succeed(t, r.detach("clone", "n2"))
	must.Succeed(t, r.attach("clone", "n1", writer()))
	r.wantNodes("clone", "n1")
}

// Two controllers that attach at the same time see each other: at most one succeeds.
func TestConcurrentAttachmentsExcludeEachOther(t *testing.T) {
	r := newRig(t)
	r.ceph.Inject(fakeceph.Fault{Call: "Pool.SetMetadata", IsLast: true, Do: func() {
		must.Succeed(t, r.attach("locked", "n2", writer()))
	}})
	volumetest.WantKind(t, r.attach("locked", "n1", writer()), volume.KindPrecondition, "n2")
	r.wantNodes("locked", "n2")
}

func TestAttachKeepsTheErrnoOfCeph(t *testing.T) {
	for _, call := range []string{"Pool.Open", "Image.Info", "Image.Watchers", "Pool.Metadata", "Pool.SetMetadata"} {
		r := newRig(t)
		r.ceph.Inject(fakeceph.Fault{Call: call, Errno: unix.ETIMEDOUT})
		if err := r.attach("locked", "n1", writer()); err == nil || !strings.Contains(err.Error(), unix.ETIMEDOUT.Error()) {
			t.Errorf("%s: got %v, want ETIMEDOUT", call, err)
		}
		r.ceph.ClearFaults()
		r.wantNodes("locked")
	}
}

func TestRecordThatIsLostIsNoSuccess(t *testing.T) {
	r := newRig(t)
	id := must.Value(r.pool.ImageID("locked"))(t)
	r.ceph.Inject(fakeceph.Fault{Call: "Pool.Metadata", Nth: 2, IsLast: true, Do: func() {
		must.Succeed(t, r.pool.RemoveMetadata(id, keyPrefix+"n1"))
	}})
	volumetest.WantKind(t, r.attach("locked", "n1", writer()), volume.KindInternal, "n1")
}

// Without Kubernetes, a watcher cannot be told from another.
func TestAttachmentWithoutKubernetes(t *testing.T) {
	r := newRig(t)
	r.withoutKubernetes = true
	must.Succeed(t, r.attach("plain", "n1", writer()))
	m := r.ceph.Map("rbd", "", "plain", fakeceph.MapOptions{})
	must.Succeed(t, r.attach("plain", "n1", writer()))
	volumetest.WantKind(t, r.detach("plain", "n1"), volume.KindUnavailable, m.Address, "n1")
	must.Succeed(t, r.detach("plain", "n2"))
	r.wantNodes("plain", "n1")
	m.Unmap()
	must.Succeed(t, r.detach("plain", "n1"))
	r.wantNodes("plain")
	m = r.ceph.Map("rbd", "", "plain", fakeceph.MapOptions{})
	volumetest.WantKind(t, r.attach("plain", "n1", writer()), volume.KindPrecondition, m.Address)
	must.Succeed(t, r.attach("plain", "n1", sharedBlock()))
	must.Succeed(t, r.attach("plain", "n2", sharedBlock()))
	must.Succeed(t, r.detach("plain", "n1")) // one of them has it mapped
	volumetest.WantKind(t, r.detach("plain", "n2"), volume.KindUnavailable, m.Address)
}
