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

func TestDetachTakesFourCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id, server := r.attachedVolume(t)
		r.detach(t, id, server)
		r.cloud.CheckState(t, id, state.Available)
		if n := r.cloud.Count(fakecloud.AnyCall); n > 4 {
			t.Errorf("%d calls, want 4: %v", n, r.cloud.Counts())
		}
		r.cloud.ClearRequests()
		r.detach(t, id, server)
		r.cloud.CheckCalls(t, fakecloud.DetachVolume, 0)
	})
}

func TestDetachSucceedsWhenServerOrVolumeIsGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.RemoveServer(server)
	r.detach(t, id, server)
	r.cloud.RemoveVolume(id)
	r.detach(t, id, server)
	r.detach(t, "no-such-volume", "")
}

// The pods of a node that is gone can move only when its volumes are detached.
func TestDetachFromAServerThatIsGoneFreesTheVolume(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.PurgeServer(server)
	r.detach(t, id, server)
	r.cloud.CheckState(t, id, state.Available)
	r.attach(t, cindertest.AttachRequest(id, r.cloud.AddServer("")))
}

func TestDetachSucceedsWhenTheServerVanishes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id, server := r.attachedVolume(t)
		r.cloud.OnCall(fakecloud.DetachVolume, fakecloud.Stuck())
		cindertest.CheckKind(t, r.Detach(cindertest.Within(t, time.Second), id, server), volume.KindDeadline, state.Detaching)
		r.cloud.PurgeServer(server)
		if err := r.Detach(cindertest.Within(t, 2*time.Second), id, server); err != nil {
			t.Fatal(err)
		}
		r.cloud.CheckState(t, id, state.Available)
	})
}

func TestDetachFromAServerThatIsGoneIsNoSuccessIfCinderKeepsIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.PurgeServer(server)
	r.cloud.OnCall(
		fakecloud.DeleteAttachmentRecord,
		fakecloud.Status(403, "Policy doesn't allow volume:attachment_delete to be performed."),
	)
	cindertest.CheckKind(
		t, r.Detach(t.Context(), id, server), volume.KindPrecondition, server+" does not exist", "cloud operator",
	)
	r.cloud.CheckState(t, id, state.InUse)
}

func TestDetachFailsWhenOnlyCinderHasTheAttachment(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server := r.cloud.AddServer("")
	id := r.cloud.Add(cindertest.OnlyInCinder(server))
	cindertest.CheckKind(
		t, r.Detach(t.Context(), id, server), volume.KindPrecondition, "Nova has no such attachment", server,
	)
	r.cloud.CheckCalls(t, fakecloud.DeleteAttachmentRecord, 0)
	r.cloud.CheckState(t, id, state.InUse)
}

func TestDetachWaitsUntilNovaForgetsTheAttachment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id, server := r.attachedVolume(t)
		r.cloud.OnCall(fakecloud.DetachVolume, fakecloud.StaysListed(2))
		r.detach(t, id, server)
		if n := r.cloud.Count(fakecloud.GetAttachment); n != 3 {
			t.Errorf("Nova was asked %d times, want 3", n)
		}
		r.attach(t, cindertest.AttachRequest(id, server))

		r.cloud.OnCall(fakecloud.DetachVolume, fakecloud.StaysListed(1000))
		cindertest.CheckKind(
			t, r.Detach(cindertest.Within(t, 5*time.Second), id, server), volume.KindDeadline, "Nova still has it", server,
		)
	})
}

func TestDetachJoinsARunningDetach(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id, server := r.attachedVolume(t)
		r.cloud.OnCall(fakecloud.DetachVolume, fakecloud.Stuck())
		cindertest.CheckKind(t, r.Detach(cindertest.Within(t, time.Second), id, server), volume.KindDeadline, state.Detaching)
		cindertest.CheckKind(t, r.Detach(cindertest.Within(t, time.Second), id, server), volume.KindDeadline, state.Detaching)
		cindertest.After(t, 200*time.Millisecond, func() { r.cloud.Release(id) })
		r.detach(t, id, server)
		r.cloud.CheckCalls(t, fakecloud.DetachVolume, 1)
	})
}

// The volume is in-use again, which is a settled state: the guest has kept the disk.
func TestDetachAsksOnceMoreWhenTheGuestRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id, server := r.attachedVolume(t)
		r.cloud.OnCall(fakecloud.DetachVolume, fakecloud.Fails())
		if err := r.Detach(cindertest.Within(t, 2*time.Second), id, server); err != nil {
			t.Fatal(err)
		}
		r.cloud.CheckDetached(t, id, server)
		r.cloud.CheckCalls(t, fakecloud.DetachVolume, 2)
	})
}

func TestDetachFailsWhenTheGuestRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id, server := r.attachedVolume(t)
		r.cloud.OnCall(fakecloud.DetachVolume, fakecloud.Fails()).Always()
		cindertest.CheckKind(
			t, r.Detach(cindertest.Within(t, 2*time.Second), id, server), volume.KindUnavailable, "does not release", server,
			state.InUse,
		)
		r.cloud.CheckCalls(t, fakecloud.DetachVolume, 2)
		r.cloud.CheckAttached(t, id, server)
	})
}

func TestDetachSucceedsWhenTheAnswerIsLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.OnCall(fakecloud.DetachVolume, fakecloud.LostReply())
	r.detach(t, id, server)
}

func TestDetachFromALockedServer(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.SetServer(fakecloud.Server{ID: server, Locked: true})
	cindertest.CheckKind(t, r.Detach(t.Context(), id, server), volume.KindInProgress, "locked", server)
	r.cloud.CheckAttached(t, id, server)
}

func TestDetachFromAllServers(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	one, two, id := r.cloud.AddServer(""), r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{Multiattach: true})
	r.attach(t, sharing(id, one))
	r.attach(t, sharing(id, two))
	r.detach(t, id, "")
	r.cloud.CheckDetached(t, id, one)
	r.cloud.CheckDetached(t, id, two)
	r.cloud.CheckState(t, id, state.Available)
	r.detach(t, id, "")
}

func TestDetachFromAllServersRemovesReservations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		server := r.cloud.AddServer("")
		id := r.reservedVolume(server)
		if err := r.Detach(cindertest.Within(t, 4*time.Second), id, ""); err != nil {
			t.Fatal(err)
		}
		r.cloud.CheckState(t, id, state.Available)

		bare := r.cloud.Add(fakecloud.Volume{Status: state.Reserved})
		cindertest.CheckKind(
			t, r.Detach(cindertest.Within(t, time.Second), bare, ""), volume.KindPrecondition, state.Reserved, "cloud operator",
		)
	})
}

func TestDetachFromOneServerKeepsTheOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	one, two, id := r.cloud.AddServer(""), r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{Multiattach: true})
	r.attach(t, sharing(id, one))
	r.attach(t, sharing(id, two))
	r.detach(t, id, one)
	r.cloud.CheckAttached(t, id, two)
	r.cloud.CheckState(t, id, state.InUse)
}

func TestDetachRefusesAHostThatIsNoServer(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(cindertest.OnlyInCinder(""))
	cindertest.CheckKind(t, r.Detach(t.Context(), id, ""), volume.KindPrecondition, "no server of Nova")
}

func TestDetachWaitsForARunningAttach(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{})
		r.cloud.OnCall(fakecloud.AttachVolume, fakecloud.Stuck())
		err := r.Attach(cindertest.Within(t, time.Second), cindertest.AttachRequest(id, server))
		cindertest.CheckKind(t, err, volume.KindDeadline)
		cindertest.CheckKind(t, r.Detach(cindertest.Within(t, time.Second), id, server), volume.KindDeadline, state.Attaching)
		cindertest.After(t, 200*time.Millisecond, func() { r.cloud.Release(id) })
		r.detach(t, id, server)
		r.cloud.CheckState(t, id, state.Available)
	})
}

func TestDetachRemovesAReservationThatNovaDoesNotKnow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		server := r.cloud.AddServer("")
		id := r.reservedVolume(server)
		if err := r.Detach(cindertest.Within(t, 2*time.Second), id, server); err != nil {
			t.Fatal(err)
		}
		r.cloud.CheckState(t, id, state.Available)
	})
}

func TestDetachSucceedsWhileAnotherServerAttaches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		server, other := r.cloud.AddServer(""), r.cloud.AddServer("")
		id := r.reservedVolume(other)
		if err := r.Detach(cindertest.Within(t, 2*time.Second), id, server); err != nil {
			t.Fatal(err)
		}
		r.cloud.CheckCalls(t, fakecloud.DeleteAttachmentRecord, 0)

		bare := r.cloud.Add(fakecloud.Volume{Status: state.Reserved})
		cindertest.CheckKind(
			t, r.Detach(cindertest.Within(t, time.Second), bare, server), volume.KindInProgress,
			state.Reserved, "cloud operator",
		)
	})
}

func TestDetachWaitsForAnExtension(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id, server := r.attachedVolume(t)
		r.cloud.SetVolumeStatus(id, state.Extending)
		cindertest.CheckKind(
			t, r.Detach(cindertest.Within(t, time.Second), id, server), volume.KindInProgress, state.Extending,
		)
		cindertest.After(t, 200*time.Millisecond, func() { r.cloud.SetVolumeStatus(id, state.InUse) })
		r.detach(t, id, server)
	})
}

func TestDetachOfAFailedVolumeNamesTheRemedy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id, server := r.attachedVolume(t)
		r.cloud.SetVolumeStatus(id, state.ErrorExtending)
		cindertest.CheckKind(
			t, r.Detach(cindertest.Within(t, 2*time.Second), id, server), volume.KindPrecondition, state.ErrorExtending,
			"openstack volume set --state in-use",
		)
		r.cloud.CheckAttached(t, id, server)
	})
}
