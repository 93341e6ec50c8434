package cinder

import (
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func (r *rig) detach(t *testing.T, id, server string) {
	t.Helper()
	if err := r.Detach(within(t, 10*time.Second), id, server); err != nil {
		t.Fatal(err)
	}
	r.wantUnplugged(t, id, server)
}

// attachedVolume is a volume on a server, brought there by the backend.
func (r *rig) attachedVolume(t *testing.T) (id, server string) {
	t.Helper()
	server, id = r.cloud.AddServer(""), r.add(fakecloud.Volume{})
	r.attach(t, to(id, server))
	r.cloud.ClearRequests()
	return id, server
}

func TestDetachTakesFourCalls(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.detach(t, id, server)
	r.wantState(t, id, state.Available)
	if n := r.cloud.Count(fakecloud.AnyCall); n > 4 {
		t.Errorf("%d calls, want 4: %v", n, r.cloud.Counts())
	}
	r.cloud.ClearRequests()
	r.detach(t, id, server)
	r.wantCalls(t, fakecloud.DetachVolume, 0)
}

func TestDetachOfWhatIsGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.RemoveServer(server)
	r.detach(t, id, server)
	r.cloud.RemoveVolume(id)
	r.detach(t, id, server)
	r.detach(t, "no-such-volume", "")
}

// The pods of a node that is gone can move only when its volumes are free.
func TestDetachFromAServerThatIsGoneFreesTheVolume(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.PurgeServer(server)
	r.detach(t, id, server)
	r.wantState(t, id, state.Available)
	r.attach(t, to(id, r.cloud.AddServer("")))
}

func TestDetachFromAServerThatWentWhileItDetached(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.On(fakecloud.Match{Call: fakecloud.DetachVolume}, fakecloud.Stuck())
	wantKind(t, r.Detach(within(t, time.Second), id, server), volume.KindDeadline, state.Detaching)
	r.cloud.PurgeServer(server)
	if err := r.Detach(within(t, 2*time.Second), id, server); err != nil {
		t.Fatal(err)
	}
	r.wantState(t, id, state.Available)
}

func TestDetachFromAServerThatIsGoneIsNoSuccessIfCinderKeepsIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.PurgeServer(server)
	r.cloud.On(fakecloud.Match{Call: fakecloud.DeleteAttachmentRecord}, fakecloud.Status(403, "Policy doesn't allow volume:attachment_delete to be performed."))
	wantKind(t, r.Detach(t.Context(), id, server), volume.KindPrecondition, server+" does not exist", "administrator")
	r.wantState(t, id, state.InUse)
}

func TestDetachIsNoSuccessIfOnlyNovaDoesNotHaveIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server := r.cloud.AddServer("")
	id := r.add(onlyInCinder(server))
	wantKind(t, r.Detach(t.Context(), id, server), volume.KindPrecondition, "Nova has no such attachment", server)
	r.wantCalls(t, fakecloud.DeleteAttachmentRecord, 0)
	r.wantState(t, id, state.InUse)
}

func TestDetachWaitsUntilNovaHasForgottenToo(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.On(fakecloud.Match{Call: fakecloud.DetachVolume}, fakecloud.StaysListed(2))
	r.detach(t, id, server)
	if n := r.cloud.Count(fakecloud.GetAttachment); n != 3 {
		t.Errorf("Nova was asked %d times, want 3", n)
	}
	r.attach(t, to(id, server))

	r.cloud.On(fakecloud.Match{Call: fakecloud.DetachVolume}, fakecloud.StaysListed(1000))
	wantKind(t, r.Detach(within(t, 2*time.Second), id, server), volume.KindDeadline, "Nova still has it", server)
}

func TestDetachJoinsOneThatIsUnderWay(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.On(fakecloud.Match{Call: fakecloud.DetachVolume}, fakecloud.Stuck())
	wantKind(t, r.Detach(within(t, time.Second), id, server), volume.KindDeadline, state.Detaching)
	wantKind(t, r.Detach(within(t, time.Second), id, server), volume.KindDeadline, state.Detaching)
	eventually(t, 200*time.Millisecond, func() { r.cloud.Release(id) })
	r.detach(t, id, server)
	r.wantCalls(t, fakecloud.DetachVolume, 1)
}

// "in-use" is a status of its own, too: the guest has kept the disk.
func TestDetachThatTheGuestRefusesIsTriedOnceMore(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.On(fakecloud.Match{Call: fakecloud.DetachVolume}, fakecloud.Fails())
	if err := r.Detach(within(t, 2*time.Second), id, server); err != nil {
		t.Fatal(err)
	}
	r.wantUnplugged(t, id, server)
	r.wantCalls(t, fakecloud.DetachVolume, 2)
}

func TestDetachThatTheGuestRefusesIsNoSuccess(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.On(fakecloud.Match{Call: fakecloud.DetachVolume}, fakecloud.Fails()).Always()
	wantKind(t, r.Detach(within(t, 2*time.Second), id, server), volume.KindUnavailable, "does not release", server, state.InUse)
	r.wantCalls(t, fakecloud.DetachVolume, 2)
	r.wantPlugged(t, id, server)
}

func TestDetachWhoseAnswerWasLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.On(fakecloud.Match{Call: fakecloud.DetachVolume}, fakecloud.LostReply())
	r.detach(t, id, server)
}

func TestDetachFromALockedServer(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.SetServer(fakecloud.Server{ID: server, Locked: true})
	wantKind(t, r.Detach(t.Context(), id, server), volume.KindInProgress, "locked", server)
	r.wantPlugged(t, id, server)
}

func TestDetachFromAllServers(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	one, two, id := r.cloud.AddServer(""), r.cloud.AddServer(""), r.add(fakecloud.Volume{Multiattach: true})
	r.attach(t, sharing(id, one))
	r.attach(t, sharing(id, two))
	r.detach(t, id, "")
	r.wantUnplugged(t, id, one)
	r.wantUnplugged(t, id, two)
	r.wantState(t, id, state.Available)
	r.detach(t, id, "")
}

func TestDetachFromAllServersAlsoEndsWhatIsOnlyReserved(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server := r.cloud.AddServer("")
	id := r.add(fakecloud.Volume{Status: state.Reserved, Attachments: []fakecloud.Attachment{{ID: "rest-1", ServerID: server, Status: state.Reserved}}})
	if err := r.Detach(within(t, 4*time.Second), id, ""); err != nil {
		t.Fatal(err)
	}
	r.wantState(t, id, state.Available)

	bare := r.add(fakecloud.Volume{Status: state.Reserved})
	wantKind(t, r.Detach(within(t, time.Second), bare, ""), volume.KindPrecondition, state.Reserved, "administrator")
}

func TestDetachFromOneOfSeveralLeavesTheOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	one, two, id := r.cloud.AddServer(""), r.cloud.AddServer(""), r.add(fakecloud.Volume{Multiattach: true})
	r.attach(t, sharing(id, one))
	r.attach(t, sharing(id, two))
	r.detach(t, id, one)
	r.wantPlugged(t, id, two)
	r.wantState(t, id, state.InUse)
}

func TestDetachFromAHost(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(onlyInCinder(""))
	wantKind(t, r.Detach(t.Context(), id, ""), volume.KindPrecondition, "no server of Nova")
}

func TestDetachWhileTheVolumeComes(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{})
	r.cloud.On(fakecloud.Match{Call: fakecloud.AttachVolume}, fakecloud.Stuck())
	_, err := r.Attach(within(t, time.Second), to(id, server))
	wantKind(t, err, volume.KindDeadline)
	wantKind(t, r.Detach(within(t, time.Second), id, server), volume.KindDeadline, state.Attaching)
	eventually(t, 200*time.Millisecond, func() { r.cloud.Release(id) })
	r.detach(t, id, server)
	r.wantState(t, id, state.Available)
}

func TestDetachClearsAReservationThatNovaKnowsNothingOf(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server := r.cloud.AddServer("")
	id := r.add(fakecloud.Volume{Status: state.Reserved, Attachments: []fakecloud.Attachment{{ID: "rest-1", ServerID: server, Status: state.Reserved}}})
	if err := r.Detach(within(t, 2*time.Second), id, server); err != nil {
		t.Fatal(err)
	}
	r.wantState(t, id, state.Available)
}

func TestDetachDoesNotMindOthersThatCome(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, other := r.cloud.AddServer(""), r.cloud.AddServer("")
	id := r.add(fakecloud.Volume{Status: state.Reserved, Attachments: []fakecloud.Attachment{{ID: "rest-1", ServerID: other, Status: state.Reserved}}})
	if err := r.Detach(within(t, 2*time.Second), id, server); err != nil {
		t.Fatal(err)
	}
	r.wantCalls(t, fakecloud.DeleteAttachmentRecord, 0)

	bare := r.add(fakecloud.Volume{Status: state.Reserved})
	wantKind(t, r.Detach(within(t, time.Second), bare, server), volume.KindInProgress, state.Reserved, "administrator")
}

func TestDetachWaitsForAnExtension(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.SetVolumeStatus(id, state.Extending)
	wantKind(t, r.Detach(within(t, time.Second), id, server), volume.KindInProgress, state.Extending)
	eventually(t, 200*time.Millisecond, func() { r.cloud.SetVolumeStatus(id, state.InUse) })
	r.detach(t, id, server)
}

func TestDetachOfAVolumeThatIsBroken(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.attachedVolume(t)
	r.cloud.SetVolumeStatus(id, state.ErrorExtending)
	wantKind(t, r.Detach(within(t, 2*time.Second), id, server), volume.KindPrecondition, state.ErrorExtending, "openstack volume set --state in-use")
	r.wantPlugged(t, id, server)
}
