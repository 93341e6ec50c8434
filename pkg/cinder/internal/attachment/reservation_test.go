package attachment

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func TestAttachRemovesAReservationThatNovaDoesNotKnow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		server := r.cloud.AddServer("")
		id := r.reservedVolume(server)
		if err := r.Attach(cindertest.Within(t, 3*time.Second), cindertest.AttachRequest(id, server)); err != nil {
			t.Fatal(err)
		}
		r.cloud.CheckAttached(t, id, server)
		if v, _ := r.cloud.Volume(id); len(v.Attachments) != 1 || v.Attachments[0].ID == reservation {
			t.Errorf("attachments %+v, want the new one only", v.Attachments)
		}
	})
}

// Nova may begin just after the first request.
func TestAttachAsksNovaAgainBeforeItRemovesAReservation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{})
		r.cloud.OnCall(fakecloud.AttachVolume, fakecloud.StaysReserved())
		err := r.Attach(cindertest.Within(t, time.Second), cindertest.AttachRequest(id, server))
		cindertest.CheckKind(t, err, volume.KindDeadline)
		r.cloud.OnCall(fakecloud.GetAttachment, fakecloud.Status(404, "Instance "+server+" is not attached to volume "+id))
		err = r.Attach(cindertest.Within(t, 2*time.Second), cindertest.AttachRequest(id, server))
		cindertest.CheckKind(t, err, volume.KindDeadline, state.Reserved)
		r.cloud.CheckCalls(t, fakecloud.DeleteAttachmentRecord, 0)
		r.cloud.Release(id)
		r.attach(t, cindertest.AttachRequest(id, server))
		r.cloud.CheckCalls(t, fakecloud.AttachVolume, 1)
	})
}

func TestAttachKeepsTheReservationsOfOtherServers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		server, other := r.cloud.AddServer(""), r.cloud.AddServer("")
		id := r.reservedVolume(other)
		err := r.Attach(cindertest.Within(t, time.Second), cindertest.AttachRequest(id, server))
		cindertest.CheckKind(t, err, volume.KindInProgress, state.Reserved, other, reservation)
		r.cloud.CheckCalls(t, fakecloud.DeleteAttachmentRecord, 0)

		bare := r.cloud.Add(fakecloud.Volume{Status: state.Reserved})
		err = r.Attach(cindertest.Within(t, time.Second), cindertest.AttachRequest(bare, server))
		cindertest.CheckKind(t, err, volume.KindInProgress, state.Reserved, "cloud operator")
	})
}
