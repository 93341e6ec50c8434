package cinder

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/catalog"
	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// foreign404Case is a call of the driver in which another server answers 404 to one of its
// requests. The case must make that request.
type foreign404Case struct {
	name    string
	request fakecloud.Call
	faults  int // how many of the foreign answers to try; 0: all
	prepare func(t *testing.T, r *rig) foreign404Run
}

// foreign404Run runs the call. intact reports whether the volume or snapshot is unchanged.
type foreign404Run struct {
	run    func(ctx context.Context) error
	intact func() bool
}

func foreign404Cases() []foreign404Case {
	always := func() bool { return true }
	onVolume := func(run func(ctx context.Context, r *rig, id string) error) func(*testing.T, *rig) foreign404Run {
		return func(_ *testing.T, r *rig) foreign404Run {
			id := r.cloud.Add(fakecloud.Volume{})
			return foreign404Run{
				func(ctx context.Context) error { return run(ctx, r, id) },
				func() bool { v, there := r.cloud.Volume(id); return there && v.Size == 1 },
			}
		}
	}
	onServer := func(run func(ctx context.Context, r *rig, id, server string) error) func(*testing.T, *rig) foreign404Run {
		return func(t *testing.T, r *rig) foreign404Run {
			t.Helper()
			id, server := r.inUse(t, 1)
			return foreign404Run{
				func(ctx context.Context) error { return run(ctx, r, id, server) },
				func() bool { _, plugged := r.cloud.GuestSize(server, id); return plugged },
			}
		}
	}
	onlyListed := func(_ *testing.T, r *rig) foreign404Run {
		server := r.cloud.AddServer("")
		id := r.cloud.Add(cindertest.OnlyInCinder(server))
		return foreign404Run{
			func(ctx context.Context) error { return r.Detach(ctx, id, server) },
			func() bool { v, _ := r.cloud.Volume(id); return len(v.Attachments) == 1 },
		}
	}
	onSnapshot := func(
		run func(ctx context.Context, r *rig, id string) error, class ...string,
	) func(*testing.T, *rig) foreign404Run {
		return func(t *testing.T, r *rig) foreign404Run {
			t.Helper()
			of := r.cloud.Add(fakecloud.Volume{})
			id := r.ready(t, cindertest.SnapshotRequest("of-"+of, of, class...)).ID
			return foreign404Run{
				func(ctx context.Context) error { return run(ctx, r, id) },
				func() bool {
					_, snapshot := r.cloud.Snapshot(id)
					_, backup := r.cloud.Backup(id)
					return snapshot || backup
				},
			}
		}
	}
	remove := onVolume(func(ctx context.Context, r *rig, id string) error { return r.Delete(ctx, id) })
	get := onVolume(func(ctx context.Context, r *rig, id string) error { _, err := r.Get(ctx, id); return err })
	expand := onVolume(func(ctx context.Context, r *rig, id string) error {
		_, err := r.Expand(ctx, id, 2*volume.GiB)
		return err
	})
	modify := onVolume(func(ctx context.Context, r *rig, id string) error {
		return r.Modify(ctx, id, map[string]string{"type": "rbd-gold"})
	})
	health := onVolume(func(ctx context.Context, r *rig, id string) error { _, err := r.Health(ctx, id); return err })
	attach := onVolume(func(ctx context.Context, r *rig, id string) error {
		_, err := r.Attach(ctx, cindertest.AttachRequest(id, r.cloud.AddServer("")))
		return err
	})
	take := onVolume(func(ctx context.Context, r *rig, id string) error {
		_, err := r.CreateSnapshot(ctx, cindertest.SnapshotRequest("of-"+id, id))
		return err
	})
	page := onVolume(func(ctx context.Context, r *rig, id string) error {
		_, _, err := r.ListVolumes(ctx, volume.Page{Token: id + "@" + r.clouds.Names()[0]})
		return err
	})
	static := func(t *testing.T, r *rig) foreign404Run {
		t.Helper()
		r.statics = statics{} // several are listed, one is read by itself
		id, server := r.cloud.AddVolume(fakecloud.Volume{Size: 1}), r.cloud.AddServer("")
		r.attach(t, id, server)
		return foreign404Run{
			func(ctx context.Context) error {
				_, _, err := r.ListVolumes(ctx, volume.Page{Token: "@" + staticSection})
				return err
			},
			func() bool { return len(r.statics.all()) != 0 },
		}
	}
	detach := onServer(func(ctx context.Context, r *rig, id, server string) error { return r.Detach(ctx, id, server) })
	detachAll := onServer(func(ctx context.Context, r *rig, id, _ string) error { return r.Detach(ctx, id, "") })
	detached := func(t *testing.T, r *rig) foreign404Run {
		t.Helper()
		run := detach(t, r)
		run.intact = always // Nova has detached it; that it has is not known
		return run
	}
	dropSnapshot := onSnapshot(func(ctx context.Context, r *rig, id string) error { return r.DeleteSnapshot(ctx, id) })
	dropBackup := onSnapshot(
		func(ctx context.Context, r *rig, id string) error { return r.DeleteSnapshot(ctx, id) }, "type", "backup",
	)
	getSnapshot := onSnapshot(func(
		ctx context.Context, r *rig, id string,
	) error {
		_, err := r.GetSnapshot(ctx, id)
		return err
	})
	listSnapshot := onSnapshot(func(ctx context.Context, r *rig, id string) error {
		_, _, err := r.ListSnapshots(ctx, volume.SnapshotFilter{SnapshotID: id}, volume.Page{})
		return err
	}, "type", "backup")
	restore := onSnapshot(func(ctx context.Context, r *rig, id string) error {
		req := request("restored-"+id, volume.GiB, nil)
		req.Source.SnapshotID = id
		_, err := r.Restore(ctx, req)
		return err
	})
	restoreBackup := onSnapshot(func(ctx context.Context, r *rig, id string) error {
		req := request("restored-"+id, volume.GiB, nil)
		req.Source.SnapshotID = id
		_, err := r.Restore(ctx, req)
		return err
	}, "type", "backup")
	return []foreign404Case{
		{"delete", fakecloud.GetVolume, 0, remove},
		{"delete", fakecloud.DeleteVolume, 0, remove},
		{"get", fakecloud.GetVolume, 0, get},
		{"health", fakecloud.GetVolume, 0, health},
		{"expand", fakecloud.GetVolume, 0, expand},
		{"expand", fakecloud.ExtendVolume, 0, expand},
		{"modify", fakecloud.GetVolume, 0, modify},
		{"modify", fakecloud.RetypeVolume, 0, modify},
		{"modify", fakecloud.GetType, 0, modify},
		{"attach", fakecloud.GetVolume, 0, attach},
		{"attach", fakecloud.AttachVolume, 0, attach},
		{"detach", fakecloud.GetVolume, 0, detach},
		{"detach", fakecloud.DetachVolume, 0, detach},
		{"detach", fakecloud.GetAttachment, 0, detached},
		{"detach from all", fakecloud.GetVolume, 0, detachAll},
		{"detach from all", fakecloud.DetachVolume, 0, detachAll},
		{"detach what only Cinder has", fakecloud.GetServer, 0, onlyListed},
		{"detach what only Cinder has", fakecloud.GetAttachment, 0, onlyListed},
		{"list after a volume", fakecloud.ListVolumeDetail, 0, page},
		{"list static volumes", fakecloud.GetVolume, 0, static},
		{"snapshot", fakecloud.CreateSnapshot, 0, take},
		{"snapshot", fakecloud.ListSnapshotDetail, 0, take},
		{"delete snapshot", fakecloud.GetSnapshot, 0, dropSnapshot},
		{"delete snapshot", fakecloud.DeleteSnapshot, 0, dropSnapshot},
		{"delete backup", fakecloud.GetSnapshot, 0, dropBackup},
		{"delete backup", fakecloud.GetBackup, 0, dropBackup},
		{"delete backup", fakecloud.DeleteBackup, 0, dropBackup},
		{"get snapshot", fakecloud.GetSnapshot, 0, getSnapshot},
		{"list snapshot", fakecloud.GetBackup, 0, listSnapshot},
		{"restore", fakecloud.GetSnapshot, 0, restore},
		{"restore", fakecloud.CreateVolume, 2, restore}, // the name is looked up for a while
		{"restore backup", fakecloud.GetBackup, 0, restoreBackup},
	}
}

// If another server answers 404 in place of Cinder or Nova, no call succeeds or ends in a final
// error because of it, and the backend forgets nothing.
func TestForeign404IsNotAbsence(t *testing.T) {
	t.Parallel()
	for _, test := range foreign404Cases() {
		t.Run(test.name+", answered at "+string(test.request), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, fakecloud.Options{})
				tried := 0
				for name, fault := range fakecloud.ForeignNotFoundAnswers() {
					if tried++; test.faults > 0 && tried > test.faults {
						break
					}
					call := test.prepare(t, r)
					rule := r.cloud.OnCall(test.request, fault).Always()
					err := call.run(cindertest.Within(t, 5*time.Second))
					rule.Remove()
					switch kind := volume.KindOf(err); {
					case err == nil:
						t.Errorf("%s: success, want an error", name)
					case kind != volume.KindUnavailable:
						t.Errorf("%s: error %v of kind %s, want %s", name, err, kind, volume.KindUnavailable)
					}
					if !call.intact() {
						t.Errorf("%s: the object is gone or changed", name)
					}
					if rule.Hits() == 0 {
						t.Fatalf("%s: the driver did not make the request", name)
					}
					r.catalog = catalog.Catalog{} // the types are read again
				}
			})
		})
	}
}

// Delete waits until Cinder itself says that the volume is gone.
func TestForeign404DoesNotEndTheWaitForADeletion(t *testing.T) {
	t.Parallel()
	for name, fault := range fakecloud.ForeignNotFoundAnswers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, fakecloud.Options{})
				r.cloud.SetDuration(fakecloud.DeleteVolume, 300*time.Millisecond)
				id := r.cloud.Add(fakecloud.Volume{})
				rule := r.cloud.OnCall(fakecloud.GetVolume, fault).After(1)
				if err := r.Delete(cindertest.Within(t, 20*time.Second), id); err != nil {
					t.Error(err)
				}
				if _, there := r.cloud.Volume(id); there || rule.Hits() != 1 {
					t.Errorf("the volume exists: %t, after %d foreign answers; want false after 1", there, rule.Hits())
				}
			})
		})
	}
}

// A volume that the other clouds do not have may be in the one that cannot be reached.
func TestForeign404OfOneCloudIsNotAbsence(t *testing.T) {
	t.Parallel()
	east, west := startTwoClouds(t)
	for name, fault := range fakecloud.ForeignNotFoundAnswers() {
		b := twoClouds(t, east, west)
		for _, home := range []*fakecloud.Cloud{east, west} {
			id := home.AddVolume(fakecloud.Volume{Size: 1, Metadata: cindertest.Own()})
			rule := home.On(fakecloud.Match{Call: fakecloud.GetVolume}, fault).Always()
			cindertest.CheckKind(t, b.Delete(t.Context(), id), volume.KindUnavailable, id)
			_, err := b.Expand(t.Context(), id, 2*volume.GiB)
			cindertest.CheckKind(t, err, volume.KindUnavailable, id)
			cindertest.CheckKind(t, b.Detach(t.Context(), id, east.AddServer("")), volume.KindUnavailable, id)
			rule.Remove()
			if _, there := home.Volume(id); !there {
				t.Errorf("%s: the volume is deleted", name)
			}
		}
	}
}

// Nova says that a volume does not exist also when another server answers Nova in place of Cinder.
func TestVolumeIsNotGoneWhenNovaDoesNotFindIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.cloud.Add(fakecloud.Volume{}), r.cloud.AddServer("")
	gone := fakecloud.Status(http.StatusNotFound, "Volume "+id+" could not be found.")
	r.cloud.OnCall(fakecloud.AttachVolume, gone)
	_, err := r.Attach(t.Context(), cindertest.AttachRequest(id, server))
	cindertest.CheckKind(
		t, err, volume.KindUnavailable, "Cinder shows the volume (status available)", "nova.conf", "could not be found",
	)
	r.attach(t, id, server)

	r.cloud.OnCall(fakecloud.DetachVolume, gone)
	cindertest.CheckKind(
		t, r.Detach(t.Context(), id, server), volume.KindUnavailable, "Nova shows its attachment to server "+server,
		"nova.conf",
	)
	r.cloud.CheckCalls(t, fakecloud.DeleteAttachmentRecord, 0)
	r.cloud.CheckAttached(t, id, server)
	r.detach(t, id, server)
}

func TestAttachNamesWhichOfServerAndVolumeIsGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.cloud.Add(fakecloud.Volume{}), "99999999-0000-4000-8000-000000000000"
	_, err := r.Attach(t.Context(), cindertest.AttachRequest(id, server))
	cindertest.CheckKind(t, err, volume.KindNotFound, "the node does not exist", server)
	server = r.cloud.AddServer("")
	absent := fakecloud.Status(http.StatusNotFound, "Volume "+id+" could not be found.")
	lost := r.cloud.OnCall(fakecloud.AttachVolume, absent)
	r.cloud.OnCall(fakecloud.GetVolume, absent).After(1)
	_, err = r.Attach(t.Context(), cindertest.AttachRequest(id, server))
	cindertest.CheckKind(t, err, volume.KindNotFound, "reading volume "+id)
	if lost.Hits() != 1 {
		t.Errorf("%d requests to Nova, want 1", lost.Hits())
	}
}
