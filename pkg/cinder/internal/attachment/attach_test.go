package attachment

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func sharing(id, server string) volume.AttachRequest {
	return volume.AttachRequest{
		VolumeID: id, Node: server, Access: volume.Access{Mode: volume.AccessMultiNodeMultiWriter, Block: true},
	}
}

func TestAttachJoinsARunningAttach(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fakecloud.Fault{
		"attaching": fakecloud.Stuck(), "reserved": fakecloud.StaysReserved(),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, fakecloud.Options{})
				server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{})
				r.cloud.OnCall(fakecloud.AttachVolume, fault)
				err := r.Attach(cindertest.Within(t, time.Second), cindertest.AttachRequest(id, server))
				cindertest.CheckKind(t, err, volume.KindDeadline, id, name)
				cindertest.After(t, 300*time.Millisecond, func() { r.cloud.Release(id) })
				r.attach(t, cindertest.AttachRequest(id, server))
				r.cloud.CheckCalls(t, fakecloud.AttachVolume, 1)
			})
		})
	}
}

func TestAttachNamesTheStateOfTheServerAfterATimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{})
		r.cloud.SetServer(fakecloud.Server{ID: server, Status: "SHUTOFF"})
		r.cloud.OnCall(fakecloud.AttachVolume, fakecloud.Stuck())
		err := r.Attach(cindertest.Within(t, time.Second), cindertest.AttachRequest(id, server))
		cindertest.CheckKind(t, err, volume.KindDeadline, "attaching", "server "+server+" is SHUTOFF")
	})
}

func TestAttachRefusesAVolumeThatIsAttachedElsewhere(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]fakecloud.Volume{"plain": {}, "shareable": {Multiattach: true}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, fakecloud.Options{})
			one, two, id := r.cloud.AddServer(""), r.cloud.AddServer(""), r.cloud.Add(v)
			r.attach(t, cindertest.AttachRequest(id, one))
			r.cloud.ClearRequests()
			err := r.Attach(t.Context(), cindertest.AttachRequest(id, two))
			cindertest.CheckKind(t, err, volume.KindPrecondition, id, "server "+one)
			r.cloud.CheckCalls(t, fakecloud.AttachVolume, 0)
			r.cloud.CheckAttached(t, id, one)

			r.cloud.PurgeServer(one)
			err = r.Attach(t.Context(), cindertest.AttachRequest(id, two))
			cindertest.CheckKind(t, err, volume.KindPrecondition, one, "does not exist any more")
			r.cloud.CheckState(t, id, state.InUse)
		})
	}
}

func TestAttachToSeveralServers(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	one, two, id := r.cloud.AddServer(""), r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{Multiattach: true})
	r.attach(t, sharing(id, one))
	r.attach(t, sharing(id, two))
	r.cloud.CheckAttached(t, id, one)
	r.cloud.SetVolumeStatus(id, state.Attaching) // for a third
	r.cloud.ClearRequests()
	r.attach(t, sharing(id, one))
	r.cloud.CheckCalls(t, fakecloud.AttachVolume, 0)
}

// A volume for several nodes that cannot be shared, or whose filesystem does not allow it, may be
// attached to one server: cinder-csi-plugin creates such volumes.
func TestAttachToSeveralServersNeedsASharedVolume(t *testing.T) {
	t.Parallel()
	mounted := func(mode volume.AccessMode) volume.Access { return volume.Access{Mode: mode} }
	for name, test := range map[string]struct {
		v      fakecloud.Volume
		access volume.Access
		second bool // a second server may have it
	}{
		"plain, block": {
			fakecloud.Volume{}, volume.Access{Mode: volume.AccessMultiNodeMultiWriter, Block: true}, false,
		},
		"shareable, block": {
			fakecloud.Volume{Multiattach: true}, volume.Access{Mode: volume.AccessMultiNodeMultiWriter, Block: true}, true,
		},
		"shareable, filesystem": {
			fakecloud.Volume{Multiattach: true}, mounted(volume.AccessMultiNodeMultiWriter), false,
		},
		"shareable, one writer": {
			fakecloud.Volume{Multiattach: true}, mounted(volume.AccessMultiNodeSingleWriter), false,
		},
		"shareable, read by several": {fakecloud.Volume{Multiattach: true}, mounted(volume.AccessMultiNodeReaderOnly), true},
		"shareable, read on one node": {
			fakecloud.Volume{Multiattach: true}, mounted(volume.AccessSingleNodeReaderOnly), false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			one, two, id := r.cloud.AddServer(""), r.cloud.AddServer(""), r.cloud.Add(test.v)
			r.attach(t, volume.AttachRequest{VolumeID: id, Node: one, Access: test.access})
			r.cloud.ClearRequests()
			second := volume.AttachRequest{VolumeID: id, Node: two, Access: test.access}
			if test.second {
				r.attach(t, second)
				return
			}
			err := r.Attach(t.Context(), second)
			cindertest.CheckKind(t, err, volume.KindPrecondition, id, one)
			r.cloud.CheckCalls(t, fakecloud.AttachVolume, 0)
		})
	}
}

func TestAttachOfASharedVolumeNeedsARecentNova(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{NovaMax: "2.59"})
	server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{Multiattach: true})
	err := r.Attach(t.Context(), cindertest.AttachRequest(id, server))
	cindertest.CheckKind(t, err, volume.KindPrecondition, "2.60", "2.59")
}

func TestAttachNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{})
	const unknownID = "11111111-2222-4333-8444-555555555555"
	err := r.Attach(t.Context(), cindertest.AttachRequest(unknownID, server))
	cindertest.CheckKind(t, err, volume.KindNotFound, "volume", unknownID)
	err = r.Attach(t.Context(), cindertest.AttachRequest(id, unknownID))
	cindertest.CheckKind(t, err, volume.KindNotFound, "the node does not exist", unknownID)
	err = r.Attach(t.Context(), cindertest.AttachRequest(id, "worker/../1"))
	cindertest.CheckKind(t, err, volume.KindNotFound, "the node does not exist")
}

func TestAttachNamesTheStateOfTheServer(t *testing.T) {
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
			server, id := r.cloud.SetServer(c.server), r.cloud.Add(fakecloud.Volume{})
			err := r.Attach(t.Context(), cindertest.AttachRequest(id, server))
			cindertest.CheckKind(t, err, c.kind, server, c.word)
			r.cloud.CheckState(t, id, state.Available)
		})
	}
}

func TestAttachFailsWithoutAFreeSlot(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{MaxDisks: 1})
	server, one, two := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{}), r.cloud.Add(fakecloud.Volume{})
	r.attach(t, cindertest.AttachRequest(one, server))
	err := r.Attach(t.Context(), cindertest.AttachRequest(two, server))
	cindertest.CheckKind(t, err, volume.KindExhausted, server, "--max-volumes")
}

func TestAttachWaitsForABusyVolume(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"creating", state.Extending, "backing-up"} {
		t.Run(status, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, fakecloud.Options{})
				server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{Status: status})
				err := r.Attach(cindertest.Within(t, time.Second), cindertest.AttachRequest(id, server))
				cindertest.CheckKind(t, err, volume.KindInProgress, status)
				r.cloud.CheckCalls(t, fakecloud.AttachVolume, 0)
				cindertest.After(t, 300*time.Millisecond, func() { r.cloud.SetVolumeStatus(id, state.Available) })
				r.attach(t, cindertest.AttachRequest(id, server))
			})
		})
	}
}

func TestAttachRefusesAFailedVolume(t *testing.T) {
	t.Parallel()
	for status, word := range map[string]string{
		state.Error: "reset", state.Deleting: "deleted", state.ErrorExtending: "reset", state.InUse: "no attachment",
	} {
		t.Run(status, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, fakecloud.Options{})
				server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{Status: status})
				err := r.Attach(cindertest.Within(t, time.Second), cindertest.AttachRequest(id, server))
				cindertest.CheckKind(t, err, volume.KindPrecondition, status, word)
				r.cloud.CheckCalls(t, fakecloud.AttachVolume, 0)
			})
		})
	}
}

func TestAttachSucceedsWhileTheAttachedVolumeIsExtended(t *testing.T) {
	t.Parallel()
	for _, status := range []string{state.Extending, state.ErrorExtending} {
		r := newRig(t, fakecloud.Options{})
		server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{})
		r.attach(t, cindertest.AttachRequest(id, server))
		r.cloud.SetVolumeStatus(id, status)
		r.attach(t, cindertest.AttachRequest(id, server))
		r.cloud.CheckCalls(t, fakecloud.AttachVolume, 1)
	}
}

// The volume is available again, which is a settled state: Attach judges by the attachment.
func TestAttachFailsWhenNovaGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{})
		r.cloud.OnCall(fakecloud.AttachVolume, fakecloud.Fails())
		err := r.Attach(cindertest.Within(t, 5*time.Second), cindertest.AttachRequest(id, server))
		cindertest.CheckKind(t, err, volume.KindInternal, "gave it up", state.Available, server)
		r.cloud.CheckCalls(t, fakecloud.AttachVolume, 1)
		r.attach(t, cindertest.AttachRequest(id, server))
	})
}

func TestSharedAttachFailsWhenNovaGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		one, two, id := r.cloud.AddServer(""), r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{Multiattach: true})
		r.attach(t, sharing(id, one))
		r.cloud.OnCall(fakecloud.AttachVolume, fakecloud.Fails())
		err := r.Attach(cindertest.Within(t, 5*time.Second), sharing(id, two))
		cindertest.CheckKind(t, err, volume.KindInternal, "gave it up", two)
		r.cloud.CheckAttached(t, id, one)
	})
}

func TestAttachSucceedsWhenTheAnswerIsLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{})
	r.cloud.OnCall(fakecloud.AttachVolume, fakecloud.LostReply())
	r.attach(t, cindertest.AttachRequest(id, server))
	r.cloud.CheckCalls(t, fakecloud.AttachVolume, 1)
	if v, _ := r.cloud.Volume(id); len(v.Attachments) != 1 {
		t.Errorf("attachments %+v, want one", v.Attachments)
	}
}

func TestAttachFailsWhenNovaGetsNoRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{})
		r.cloud.OnCall(fakecloud.AttachVolume, fakecloud.CutOff())
		err := r.Attach(cindertest.Within(t, 5*time.Second), cindertest.AttachRequest(id, server))
		cindertest.CheckKind(t, err, volume.KindUnavailable, id)
		r.attach(t, cindertest.AttachRequest(id, server))
	})
}

func TestAttachWhileTheVolumeIsDetached(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{})
		r.attach(t, cindertest.AttachRequest(id, server))
		r.cloud.OnCall(fakecloud.DetachVolume, fakecloud.Stuck())
		cindertest.CheckKind(t, r.Detach(cindertest.Within(t, time.Second), id, server), volume.KindDeadline, state.Detaching)

		err := r.Attach(cindertest.Within(t, time.Second), cindertest.AttachRequest(id, server))
		cindertest.CheckKind(t, err, volume.KindInProgress, state.Detaching)
		r.cloud.CheckCalls(t, fakecloud.AttachVolume, 1)

		cindertest.After(t, 300*time.Millisecond, func() { r.cloud.Release(id) })
		r.attach(t, cindertest.AttachRequest(id, server))
		r.cloud.CheckCalls(t, fakecloud.AttachVolume, 2)
	})
}

func TestAttachmentThatOnlyCinderHasIsNoSuccess(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server := r.cloud.AddServer("")
	id := r.cloud.Add(cindertest.OnlyInCinder(server))
	err := r.Attach(t.Context(), cindertest.AttachRequest(id, server))
	cindertest.CheckKind(t, err, volume.KindPrecondition, "Nova has no such attachment", "volume attachment delete")
	r.cloud.RemoveServer(server)
	err = r.Attach(t.Context(), cindertest.AttachRequest(id, server))
	cindertest.CheckKind(t, err, volume.KindNotFound, "the node does not exist")
}

// Two controllers may run for a moment, when the leader changes.
func TestConcurrentAttachesAttachOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.cloud.SetDuration(fakecloud.AttachVolume, 300*time.Millisecond)
		one, two := r.cloud.AddServer(""), r.cloud.AddServer("")
		id, disputed := r.cloud.Add(fakecloud.Volume{}), r.cloud.Add(fakecloud.Volume{})
		errs := make([]error, 4)
		var wg sync.WaitGroup
		for i, req := range []volume.AttachRequest{
			cindertest.AttachRequest(id, one), cindertest.AttachRequest(id, one), cindertest.AttachRequest(disputed, one),
			cindertest.AttachRequest(disputed, two),
		} {
			wg.Go(func() { errs[i] = r.Attach(cindertest.Within(t, 8*time.Second), req) })
		}
		wg.Wait()
		if errs[0] != nil || errs[1] != nil {
			t.Errorf("to the same server: %v, %v", errs[0], errs[1])
		}
		if errs[2] == nil {
			errs[2], errs[3] = errs[3], errs[2]
		}
		cindertest.CheckKind(t, errs[2], volume.KindPrecondition, "attached to server")
		if errs[3] != nil {
			t.Errorf("neither server got the volume: %v", errs[3])
		}
		for _, id := range []string{id, disputed} {
			if v, _ := r.cloud.Volume(id); len(v.Attachments) != 1 {
				t.Errorf("attachments %+v, want one", v.Attachments)
			}
		}
	})
}

func TestManyAttachesSharePolling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 100
		r := newRig(t, fakecloud.Options{})
		r.cloud.SetDuration(fakecloud.AttachVolume, 600*time.Millisecond)
		servers, ids := make([]string, n), make([]string, n)
		for i := range n {
			servers[i], ids[i] = r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{})
		}
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if err := r.Attach(cindertest.Within(t, 20*time.Second), cindertest.AttachRequest(ids[i], servers[i])); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i := range n {
			r.cloud.CheckAttached(t, ids[i], servers[i])
		}
		r.cloud.CheckCalls(t, fakecloud.AttachVolume, n)
		singles, pages := r.cloud.Count(fakecloud.GetVolume)-n, r.cloud.Count(fakecloud.ListVolumeDetail)
		if singles+pages > n {
			t.Errorf("the wait took %d single reads and %d pages, want at most %d requests in all", singles, pages, n)
		}
	})
}
