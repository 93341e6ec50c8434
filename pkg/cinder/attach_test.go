package cinder

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func to(id, server string) volume.AttachRequest {
	return volume.AttachRequest{ID: id, Node: server, Access: volume.Access{Mode: volume.AccessSingleNodeWriter}}
}

func sharing(id, server string) volume.AttachRequest {
	return volume.AttachRequest{ID: id, Node: server, Access: volume.Access{Mode: volume.AccessMultiNodeMultiWriter, Block: true}}
}

func (r *rig) attach(t *testing.T, req volume.AttachRequest) map[string]string {
	t.Helper()
	published, err := r.Attach(within(t, 10*time.Second), req)
	if err != nil {
		t.Fatal(err)
	}
	r.wantPlugged(t, req.ID, req.Node)
	return published
}

// know has the backend find out in which of its clouds the volumes are, which
// it otherwise knows from their creation, and forgets the calls so far.
func (r *rig) know(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if _, err := r.Get(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	r.cloud.ClearRequests()
}

// wantPlugged checks that the guest really has the disk.
func (r *rig) wantPlugged(t *testing.T, id, server string) {
	t.Helper()
	if _, ok := r.cloud.GuestSize(server, id); !ok {
		v, _ := r.cloud.Volume(id)
		t.Errorf("the guest %s has no disk; the volume is %s with %+v", server, v.Status, v.Attachments)
	}
}

// wantUnplugged checks that neither the guest nor Cinder has the volume there.
func (r *rig) wantUnplugged(t *testing.T, id, server string) {
	t.Helper()
	if _, ok := r.cloud.GuestSize(server, id); ok {
		t.Errorf("the guest %s still has the disk", server)
	}
	v, _ := r.cloud.Volume(id)
	for _, a := range v.Attachments {
		if a.ServerID == server {
			t.Errorf("Cinder still has %+v; the volume is %s", a, v.Status)
		}
	}
}

// wantState checks the state of the volume in the cloud.
func (r *rig) wantState(t *testing.T, id, status string) {
	t.Helper()
	if v, _ := r.cloud.Volume(id); v.Status != status {
		t.Errorf("the volume is %s, want %s", v.Status, status)
	}
}

// onlyInCinder is a volume that is attached as Cinder has it, without Nova.
func onlyInCinder(server string) fakecloud.Volume {
	return fakecloud.Volume{Status: state.InUse, Attachments: []fakecloud.Attachment{{ID: "rest-1", ServerID: server, Status: "attached"}}}
}

func TestAttachTakesThreeCalls(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{Size: 3})
	r.know(t, id)
	published := r.attach(t, to(id, server))
	if n := r.cloud.Count(fakecloud.AnyCall); n > 3 {
		t.Errorf("%d calls, want 3: %v", n, r.cloud.Counts())
	}
	want := map[string]string{cindercsi.ContextSize: "3221225472", cindercsi.ContextDevicePath: "/dev/vdb"}
	if fmt.Sprint(published) != fmt.Sprint(want) {
		t.Errorf("publish context %v, want %v", published, want)
	}
}

func TestAttachTellsThatAVolumeIsEncrypted(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{Encrypted: true})
	if got := r.attach(t, to(id, server))[cindercsi.ContextEncrypted]; got != "true" {
		t.Errorf("encrypted = %q, want true", got)
	}
}

func TestAttachAgainReadsAndChangesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{})
	first := r.attach(t, to(id, server))
	r.cloud.ClearRequests()
	if again := r.attach(t, to(id, server)); fmt.Sprint(again) != fmt.Sprint(first) {
		t.Errorf("publish context %v, at first %v", again, first)
	}
	r.wantCalls(t, fakecloud.AttachVolume, 0)
	if n := r.cloud.Count(fakecloud.AnyCall); n > 2 {
		t.Errorf("%d calls, want 2: %v", n, r.cloud.Counts())
	}
}

func TestAttachJoinsOneThatIsUnderWay(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fakecloud.Fault{"attaching": fakecloud.Stuck(), "reserved": fakecloud.StaysReserved()} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, fakecloud.Options{})
			server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{})
			r.cloud.On(fakecloud.Match{Call: fakecloud.AttachVolume}, fault)
			_, err := r.Attach(within(t, time.Second), to(id, server))
			wantKind(t, err, volume.KindDeadline, id, name)
			eventually(t, 300*time.Millisecond, func() { r.cloud.Release(id) })
			r.attach(t, to(id, server))
			r.wantCalls(t, fakecloud.AttachVolume, 1)
		})
	}
}

func TestAttachThatTakesTooLongNamesTheStateOfTheServer(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{})
	r.cloud.SetServer(fakecloud.Server{ID: server, Status: "SHUTOFF"})
	r.cloud.On(fakecloud.Match{Call: fakecloud.AttachVolume}, fakecloud.Stuck())
	_, err := r.Attach(within(t, time.Second), to(id, server))
	wantKind(t, err, volume.KindDeadline, "attaching", "server "+server+" is SHUTOFF")
}

func TestAttachElsewhereIsRefusedBeforeNovaIsAsked(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]fakecloud.Volume{"plain": {}, "shareable": {Multiattach: true}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, fakecloud.Options{})
			one, two, id := r.cloud.AddServer(""), r.cloud.AddServer(""), r.add(v)
			r.attach(t, to(id, one))
			r.cloud.ClearRequests()
			_, err := r.Attach(t.Context(), to(id, two))
			wantKind(t, err, volume.KindPrecondition, id, "server "+one)
			r.wantCalls(t, fakecloud.AttachVolume, 0)
			r.wantPlugged(t, id, one)

			r.cloud.PurgeServer(one)
			_, err = r.Attach(t.Context(), to(id, two))
			wantKind(t, err, volume.KindPrecondition, one, "does not exist any more")
			r.wantState(t, id, state.InUse)
		})
	}
}

func TestAttachToSeveralServers(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	one, two, id := r.cloud.AddServer(""), r.cloud.AddServer(""), r.add(fakecloud.Volume{Multiattach: true})
	r.attach(t, sharing(id, one))
	r.attach(t, sharing(id, two))
	r.wantPlugged(t, id, one)
	r.cloud.SetVolumeStatus(id, state.Attaching) // for a third
	r.cloud.ClearRequests()
	r.attach(t, sharing(id, one))
	r.wantCalls(t, fakecloud.AttachVolume, 0)
}

// A volume for several nodes that cannot be shared, or whose filesystem would
// not survive it, as cinder-csi-plugin makes them, is used on one.
func TestAttachToSeveralServersNeedsAVolumeThatBearsIt(t *testing.T) {
	t.Parallel()
	mounted := func(mode volume.AccessMode) volume.Access { return volume.Access{Mode: mode} }
	for name, test := range map[string]struct {
		v      fakecloud.Volume
		access volume.Access
		second bool // a second server may have it
	}{
		"plain, block":                {fakecloud.Volume{}, volume.Access{Mode: volume.AccessMultiNodeMultiWriter, Block: true}, false},
		"shareable, block":            {fakecloud.Volume{Multiattach: true}, volume.Access{Mode: volume.AccessMultiNodeMultiWriter, Block: true}, true},
		"shareable, filesystem":       {fakecloud.Volume{Multiattach: true}, mounted(volume.AccessMultiNodeMultiWriter), false},
		"shareable, one writer":       {fakecloud.Volume{Multiattach: true}, mounted(volume.AccessMultiNodeSingleWriter), false},
		"shareable, read by several":  {fakecloud.Volume{Multiattach: true}, mounted(volume.AccessMultiNodeReaderOnly), true},
		"shareable, read on one node": {fakecloud.Volume{Multiattach: true}, mounted(volume.AccessSingleNodeReaderOnly), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			one, two, id := r.cloud.AddServer(""), r.cloud.AddServer(""), r.add(test.v)
			r.attach(t, volume.AttachRequest{ID: id, Node: one, Access: test.access})
			r.cloud.ClearRequests()
			second := volume.AttachRequest{ID: id, Node: two, Access: test.access}
			if test.second {
				r.attach(t, second)
				return
			}
			_, err := r.Attach(t.Context(), second)
			wantKind(t, err, volume.KindPrecondition, id, one)
			r.wantCalls(t, fakecloud.AttachVolume, 0)
		})
	}
}

func TestAttachOfAShareableVolumeNeedsANewNova(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{NovaMax: "2.59"})
	server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{Multiattach: true})
	_, err := r.Attach(t.Context(), to(id, server))
	wantKind(t, err, volume.KindPrecondition, "2.60", "2.59")
}

func TestAttachTellsWhatIsMissing(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{})
	const nobody = "11111111-2222-4333-8444-555555555555"
	_, err := r.Attach(t.Context(), to(nobody, server))
	wantKind(t, err, volume.KindNotFound, "volume", nobody)
	_, err = r.Attach(t.Context(), to(id, nobody))
	wantKind(t, err, volume.KindNotFound, "the node does not exist", nobody)
	_, err = r.Attach(t.Context(), to(id, "worker/../1"))
	wantKind(t, err, volume.KindNotFound, "the node does not exist")
}

func TestAttachRefusedByTheServer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		server fakecloud.Server
		kind   volume.Kind
		word   string
	}{
		{fakecloud.Server{Locked: true}, volume.KindInProgress, "locked"},
		{fakecloud.Server{Status: "ERROR"}, volume.KindPrecondition, "is ERROR"},
		{fakecloud.Server{Status: "DELETED"}, volume.KindInProgress, "is being deleted"}, // which passes
	} {
		t.Run(c.word, func(t *testing.T) {
			r := newRig(t, fakecloud.Options{})
			server, id := r.cloud.SetServer(c.server), r.add(fakecloud.Volume{})
			_, err := r.Attach(t.Context(), to(id, server))
			wantKind(t, err, c.kind, server, c.word)
			r.wantState(t, id, state.Available)
		})
	}
}

func TestAttachWithoutAFreeSlot(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{MaxDisks: 1})
	server, one, two := r.cloud.AddServer(""), r.add(fakecloud.Volume{}), r.add(fakecloud.Volume{})
	r.attach(t, to(one, server))
	_, err := r.Attach(t.Context(), to(two, server))
	wantKind(t, err, volume.KindExhausted, server, "--max-volumes")
}

func TestAttachWaitsForWhatPasses(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"creating", state.Extending, "backing-up"} {
		t.Run(status, func(t *testing.T) {
			r := newRig(t, fakecloud.Options{})
			server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{Status: status})
			_, err := r.Attach(within(t, time.Second), to(id, server))
			wantKind(t, err, volume.KindInProgress, status)
			r.wantCalls(t, fakecloud.AttachVolume, 0)
			eventually(t, 300*time.Millisecond, func() { r.cloud.SetVolumeStatus(id, state.Available) })
			r.attach(t, to(id, server))
		})
	}
}

func TestAttachOfAVolumeThatIsBroken(t *testing.T) {
	t.Parallel()
	for status, word := range map[string]string{state.Error: "reset", state.Deleting: "deleted", state.ErrorExtending: "reset", state.InUse: "no attachment"} {
		t.Run(status, func(t *testing.T) {
			r := newRig(t, fakecloud.Options{})
			server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{Status: status})
			_, err := r.Attach(within(t, time.Second), to(id, server))
			wantKind(t, err, volume.KindPrecondition, status, word)
			r.wantCalls(t, fakecloud.AttachVolume, 0)
		})
	}
}

func TestAttachedVolumeMayBeExtendedMeanwhile(t *testing.T) {
	t.Parallel()
	for _, status := range []string{state.Extending, state.ErrorExtending} {
		r := newRig(t, fakecloud.Options{})
		server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{})
		r.attach(t, to(id, server))
		r.cloud.SetVolumeStatus(id, status)
		r.attach(t, to(id, server))
		r.wantCalls(t, fakecloud.AttachVolume, 1)
	}
}

// The volume is "available" again, which is a status of its own, too; nothing
// but the attachment itself is a success.
func TestAttachThatNovaGivesUpIsNoSuccess(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{})
	r.cloud.On(fakecloud.Match{Call: fakecloud.AttachVolume}, fakecloud.Fails())
	_, err := r.Attach(within(t, 5*time.Second), to(id, server))
	wantKind(t, err, volume.KindInternal, "gave it up", state.Available, server)
	r.wantCalls(t, fakecloud.AttachVolume, 1)
	r.attach(t, to(id, server))
}

func TestSharedAttachThatNovaGivesUpIsNoSuccess(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	one, two, id := r.cloud.AddServer(""), r.cloud.AddServer(""), r.add(fakecloud.Volume{Multiattach: true})
	r.attach(t, sharing(id, one))
	r.cloud.On(fakecloud.Match{Call: fakecloud.AttachVolume}, fakecloud.Fails())
	_, err := r.Attach(within(t, 5*time.Second), sharing(id, two))
	wantKind(t, err, volume.KindInternal, "gave it up", two)
	r.wantPlugged(t, id, one)
}

func TestAttachWhoseAnswerWasLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{})
	r.cloud.On(fakecloud.Match{Call: fakecloud.AttachVolume}, fakecloud.LostReply())
	r.attach(t, to(id, server))
	r.wantCalls(t, fakecloud.AttachVolume, 1)
	if v, _ := r.cloud.Volume(id); len(v.Attachments) != 1 {
		t.Errorf("attachments %+v, want one", v.Attachments)
	}
}

func TestAttachThatNovaNeverGot(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{})
	r.cloud.On(fakecloud.Match{Call: fakecloud.AttachVolume}, fakecloud.CutOff())
	_, err := r.Attach(within(t, 5*time.Second), to(id, server))
	wantKind(t, err, volume.KindUnavailable, id)
	r.attach(t, to(id, server))
}

func TestAttachWhileTheVolumeIsDetached(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{})
	r.attach(t, to(id, server))
	r.cloud.On(fakecloud.Match{Call: fakecloud.DetachVolume}, fakecloud.Stuck())
	wantKind(t, r.Detach(within(t, time.Second), id, server), volume.KindDeadline, state.Detaching)

	_, err := r.Attach(within(t, time.Second), to(id, server))
	wantKind(t, err, volume.KindInProgress, state.Detaching)
	r.wantCalls(t, fakecloud.AttachVolume, 1)

	eventually(t, 300*time.Millisecond, func() { r.cloud.Release(id) })
	r.attach(t, to(id, server))
	r.wantCalls(t, fakecloud.AttachVolume, 2)
}

func TestAttachClearsAReservationThatNovaKnowsNothingOf(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server := r.cloud.AddServer("")
	id := r.add(fakecloud.Volume{Status: state.Reserved, Attachments: []fakecloud.Attachment{{ID: "rest-1", ServerID: server, Status: state.Reserved}}})
	if _, err := r.Attach(within(t, 3*time.Second), to(id, server)); err != nil {
		t.Fatal(err)
	}
	r.wantPlugged(t, id, server)
	if v, _ := r.cloud.Volume(id); len(v.Attachments) != 1 || v.Attachments[0].ID == "rest-1" {
		t.Errorf("attachments %+v, want the new one only", v.Attachments)
	}
}

// Nova may have begun just after it was asked first.
func TestAttachAsksNovaAgainBeforeItClearsAReservation(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, id := r.cloud.AddServer(""), r.add(fakecloud.Volume{})
	r.cloud.On(fakecloud.Match{Call: fakecloud.AttachVolume}, fakecloud.StaysReserved())
	_, err := r.Attach(within(t, time.Second), to(id, server))
	wantKind(t, err, volume.KindDeadline)
	r.cloud.On(fakecloud.Match{Call: fakecloud.GetAttachment}, fakecloud.Status(404, "Instance "+server+" is not attached to volume "+id))
	_, err = r.Attach(within(t, 2*time.Second), to(id, server))
	wantKind(t, err, volume.KindDeadline, state.Reserved)
	r.wantCalls(t, fakecloud.DeleteAttachmentRecord, 0)
	r.cloud.Release(id)
	r.attach(t, to(id, server))
	r.wantCalls(t, fakecloud.AttachVolume, 1)
}

func TestAttachLeavesTheReservationsOfOthersAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, other := r.cloud.AddServer(""), r.cloud.AddServer("")
	id := r.add(fakecloud.Volume{Status: state.Reserved, Attachments: []fakecloud.Attachment{{ID: "rest-1", ServerID: other, Status: state.Reserved}}})
	_, err := r.Attach(within(t, time.Second), to(id, server))
	wantKind(t, err, volume.KindInProgress, state.Reserved, other, "rest-1")
	r.wantCalls(t, fakecloud.DeleteAttachmentRecord, 0)

	bare := r.add(fakecloud.Volume{Status: state.Reserved})
	_, err = r.Attach(within(t, time.Second), to(bare, server))
	wantKind(t, err, volume.KindInProgress, state.Reserved, "administrator")
}

func TestAttachmentThatOnlyCinderHasIsNoSuccess(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server := r.cloud.AddServer("")
	id := r.add(onlyInCinder(server))
	_, err := r.Attach(t.Context(), to(id, server))
	wantKind(t, err, volume.KindPrecondition, "Nova has no such attachment", "volume attachment delete")
	r.cloud.RemoveServer(server)
	_, err = r.Attach(t.Context(), to(id, server))
	wantKind(t, err, volume.KindNotFound, "the node does not exist")
}

// Two controllers may be at it for a moment, when the leader changes.
func TestTwoAttachesAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	r.slow(fakecloud.AttachVolume, 300*time.Millisecond)
	one, two := r.cloud.AddServer(""), r.cloud.AddServer("")
	id, disputed := r.add(fakecloud.Volume{}), r.add(fakecloud.Volume{})
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i, req := range []volume.AttachRequest{to(id, one), to(id, one), to(disputed, one), to(disputed, two)} {
		wg.Go(func() { _, errs[i] = r.Attach(within(t, 8*time.Second), req) })
	}
	wg.Wait()
	if errs[0] != nil || errs[1] != nil {
		t.Errorf("to the same server: %v, %v", errs[0], errs[1])
	}
	if errs[2] == nil {
		errs[2], errs[3] = errs[3], errs[2]
	}
	wantKind(t, errs[2], volume.KindPrecondition, "attached to server")
	if errs[3] != nil {
		t.Errorf("neither server got the volume: %v", errs[3])
	}
	for _, id := range []string{id, disputed} {
		if v, _ := r.cloud.Volume(id); len(v.Attachments) != 1 {
			t.Errorf("attachments %+v, want one", v.Attachments)
		}
	}
}

func TestManyAttachesSharePolling(t *testing.T) {
	t.Parallel()
	const n = 100
	r := newRig(t, fakecloud.Options{})
	r.slow(fakecloud.AttachVolume, 600*time.Millisecond)
	servers, ids := make([]string, n), make([]string, n)
	for i := range n {
		servers[i], ids[i] = r.cloud.AddServer(""), r.add(fakecloud.Volume{})
	}
	r.know(t, ids...)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := r.Attach(within(t, 20*time.Second), to(ids[i], servers[i])); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range n {
		r.wantPlugged(t, ids[i], servers[i])
	}
	r.wantCalls(t, fakecloud.AttachVolume, n)
	if singles, pages := r.cloud.Count(fakecloud.GetVolume)-n, r.cloud.Count(fakecloud.ListVolumeDetail); singles+pages > n {
		t.Errorf("the wait took %d single readings and %d pages, want fewer than %d calls in all", singles, pages, n)
	}
}
