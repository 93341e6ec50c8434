package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// realCloud is the environment variable with the path of the clouds.yaml of a real cloud with a
// project "csi".
const realCloud = "GROWVOL_OPENSTACK_CLOUDS_YAML"

// missingCase is a call about objects that do not exist.
type missingCase struct {
	name string // of the call
	run  func(ctx context.Context, c *Cloud) error
	kind volume.Kind
	says string // what a real Cinder or Nova (Zed) answers to it, with status 404
	// request is the one that TestForeign404IsNeverNotFound has answered by others.
	request fakecloud.Call
}

// Ids of no objects, each of another kind, so that an answer about the wrong object is noticed.
const (
	noVolume     = "0a000000-0000-4000-8000-00000000000a"
	noSnapshot   = "0b000000-0000-4000-8000-00000000000b"
	noBackup     = "0c000000-0000-4000-8000-00000000000c"
	noServer     = "0d000000-0000-4000-8000-00000000000d"
	noAttachment = "0e000000-0000-4000-8000-00000000000e"
)

// missingCases are all calls that name an object, with the answers of a real cloud to them. Cases
// with a server or volume that exists are in the comparison of tests/fakecloud.
func missingCases() []missingCase {
	volumeGone := "Volume " + noVolume + " could not be found."
	snapshotGone := "Snapshot " + noSnapshot + " could not be found."
	backupGone := "Backup " + noBackup + " could not be found."
	serverGone := "Instance " + noServer + " could not be found."
	return []missingCase{
		{
			"volume_get", func(ctx context.Context, c *Cloud) error { _, err := c.Volume(ctx, noVolume); return err },
			volume.KindNotFound, volumeGone, fakecloud.GetVolume,
		},
		{"volume_get", func(ctx context.Context, c *Cloud) error {
			_, err := c.Volume(ctx, strings.ToUpper(noVolume))
			return err
		}, volume.KindNotFound, "Volume " + strings.ToUpper(noVolume) + " could not be found.", fakecloud.GetVolume},
		{
			"volume_delete", func(ctx context.Context, c *Cloud) error { return c.DeleteVolume(ctx, noVolume) },
			volume.KindNotFound, volumeGone, fakecloud.DeleteVolume,
		},
		{
			"volume_extend", func(ctx context.Context, c *Cloud) error { return c.ExtendVolume(ctx, noVolume, 2, false) },
			volume.KindNotFound, volumeGone, fakecloud.ExtendVolume,
		},
		{
			"volume_extend", func(ctx context.Context, c *Cloud) error { return c.ExtendVolume(ctx, noVolume, 2, true) },
			volume.KindNotFound, volumeGone, fakecloud.ExtendVolume,
		},
		{
			"volume_retype", func(ctx context.Context, c *Cloud) error { return c.Retype(ctx, noVolume, "rbd", "never") },
			volume.KindNotFound, volumeGone, fakecloud.RetypeVolume,
		},
		{"volume_retype", func(ctx context.Context, c *Cloud) error {
			return c.Retype(ctx, noVolume, "no-such-type",
				"never")
		}, volume.KindNotFound, volumeGone, fakecloud.RetypeVolume},
		{"volume_metadata", func(ctx context.Context, c *Cloud) error {
			return c.SetVolumeMetadata(ctx, noVolume, map[string]string{"a": "b"})
		}, volume.KindNotFound, volumeGone, fakecloud.SetMetadata},
		{"volume_create", func(ctx context.Context, c *Cloud) error {
			_, err := c.CreateVolume(ctx, NewVolume{Name: "gone", Size: 1, SourceVolID: noVolume})
			return err
		}, volume.KindNotFound, volumeGone, fakecloud.CreateVolume},
		{"volume_create", func(ctx context.Context, c *Cloud) error {
			_, err := c.CreateVolume(ctx, NewVolume{Name: "gone", Size: 1, SnapshotID: noSnapshot})
			return err
		}, volume.KindNotFound, snapshotGone, fakecloud.CreateVolume},
		{"volume_create", func(ctx context.Context, c *Cloud) error {
			_, err := c.CreateVolume(ctx, NewVolume{Name: "gone", Size: 1, BackupID: noBackup})
			return err
		}, volume.KindNotFound, backupGone, fakecloud.CreateVolume},
		{"volume_create", func(ctx context.Context, c *Cloud) error {
			_, err := c.CreateVolume(ctx, NewVolume{Name: "gone", Size: 1, VolumeType: "no-such-type"})
			return err
		}, volume.KindInvalid, "Volume type with name no-such-type could not be found.", fakecloud.CreateVolume},
		{"volume_list", func(ctx context.Context, c *Cloud) error {
			_, _, err := c.Volumes(ctx, VolumePage{Marker: noVolume})
			return err
		}, volume.KindStale, volumeGone, fakecloud.ListVolumeDetail},

		{
			"snapshot_get", func(ctx context.Context, c *Cloud) error { _, err := c.Snapshot(ctx, noSnapshot); return err },
			volume.KindNotFound, snapshotGone, fakecloud.GetSnapshot,
		},
		{
			"snapshot_delete", func(ctx context.Context, c *Cloud) error { return c.DeleteSnapshot(ctx, noSnapshot) },
			volume.KindNotFound, snapshotGone, fakecloud.DeleteSnapshot,
		},
		{"snapshot_create", func(ctx context.Context, c *Cloud) error {
			_, err := c.CreateSnapshot(ctx, NewSnapshot{Name: "gone", VolumeID: noVolume})
			return err
		}, volume.KindNotFound, volumeGone, fakecloud.CreateSnapshot},
		{"snapshot_create", func(ctx context.Context, c *Cloud) error {
			_, err := c.CreateSnapshot(ctx, NewSnapshot{Name: "gone", VolumeID: noVolume, Force: true})
			return err
		}, volume.KindNotFound, volumeGone, fakecloud.CreateSnapshot},
		{"snapshot_list", func(ctx context.Context, c *Cloud) error {
			_, _, err := c.Snapshots(ctx, SnapshotPage{Marker: noSnapshot})
			return err
		}, volume.KindStale, snapshotGone, fakecloud.ListSnapshotDetail},

		{
			"backup_get", func(ctx context.Context, c *Cloud) error { _, err := c.Backup(ctx, noBackup); return err },
			volume.KindNotFound, backupGone, fakecloud.GetBackup,
		},
		{
			"backup_delete", func(ctx context.Context, c *Cloud) error { return c.DeleteBackup(ctx, noBackup) },
			volume.KindNotFound, backupGone, fakecloud.DeleteBackup,
		},
		{"backup_metadata", func(ctx context.Context, c *Cloud) error {
			return c.SetBackupMetadata(ctx, noBackup, map[string]string{"a": "b"})
		}, volume.KindNotFound, backupGone, fakecloud.UpdateBackup},
		{"backup_create", func(ctx context.Context, c *Cloud) error {
			_, err := c.CreateBackup(ctx, NewBackup{Name: "gone", VolumeID: noVolume})
			return err
		}, volume.KindNotFound, volumeGone, fakecloud.CreateBackup},
		{"backup_list", func(ctx context.Context, c *Cloud) error {
			_, _, err := c.Backups(ctx, BackupPage{Marker: noBackup})
			return err
		}, volume.KindStale, backupGone, fakecloud.ListBackupDetail},
		{
			"attachment_delete", func(ctx context.Context, c *Cloud) error { return c.DeleteAttachment(ctx, noAttachment) },
			volume.KindNotFound,
			"Volume attachment could not be found with filter: attachment_id = " + noAttachment + ".", fakecloud.DeleteAttachmentRecord,
		},

		{
			"server_get", func(ctx context.Context, c *Cloud) error { _, err := c.Server(ctx, noServer); return err },
			volume.KindNotFound, serverGone, fakecloud.GetServer,
		},
		{
			"volume_attach", func(ctx context.Context, c *Cloud) error { return c.Attach(ctx, noServer, noVolume, false) },
			volume.KindNotFound, serverGone, fakecloud.AttachVolume,
		},
		{
			"volume_detach", func(ctx context.Context, c *Cloud) error { return c.Detach(ctx, noServer, noVolume) },
			volume.KindNotFound, serverGone, fakecloud.DetachVolume,
		},
	}
}

// wantMissing checks a call about objects that do not exist, on the fake or on a real cloud,
// against what is recorded here of a real one.
func wantMissing(t *testing.T, c *Cloud, test missingCase) {
	t.Helper()
	err := test.run(t.Context(), c)
	wantKind(t, err, test.kind)
	var a *answer
	if !errors.As(err, &a) {
		t.Fatalf("%v is not from an answer", err)
	}
	if a.status != http.StatusNotFound || a.message != test.says || a.isTypeMissing != (test.kind == volume.KindInvalid) {
		t.Errorf("answer %d %q (type missing: %t), want 404 %q", a.status, a.message, a.isTypeMissing, test.says)
	}
}

// The fake answers as the real cloud does.
func TestFakeNamesWhatIsMissing(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	for _, test := range missingCases() {
		wantMissing(t, r.Cloud, test)
	}
}

// A real cloud names the object in each answer that this package takes for "does not exist".
func TestRealCloudNamesWhatIsMissing(t *testing.T) {
	path := os.Getenv(realCloud)
	if path == "" {
		t.Skipf("no real cloud: %s is not set", realCloud)
	}
	clouds, err := Open(t.Context(), Options{CloudsYAML: path, Default: "csi"})
	must(t, err)
	t.Cleanup(clouds.Close)
	c, err := clouds.Cloud(t.Context(), "")
	must(t, err)
	for _, test := range missingCases() {
		t.Run(test.name, func(t *testing.T) { wantMissing(t, c, test) })
	}
	if found, err := c.ServerAttachment(t.Context(), noServer, noVolume); found || err != nil {
		t.Errorf("an attachment to no server: %t, %v", found, err)
	}
}

// Each call whose 404 may be about an object is in missingCases, and so in the two tests above.
func TestEveryCallWithAnIDHasAMissingCase(t *testing.T) {
	var have []string
	for _, test := range missingCases() {
		have = append(have, test.name)
	}
	for name := range callsOf(t) {
		// Without objects, or with their own tests.
		others := []string{
			"token_create", "versions_get", "type_list", "type_default", "message_list", "limits_get",
			"quota_get", "zone_list", "attachment_records", "attachment_get", "notify_extended",
		}
		if !slices.Contains(have, name) && !slices.Contains(others, name) {
			t.Errorf("the call %s is not in missingCases", name)
		}
	}
}

// callsOf returns the names of the calls that the source of this package has.
func callsOf(t *testing.T) map[string]bool {
	t.Helper()
	files, err := os.ReadDir(".")
	must(t, err)
	found := map[string]bool{}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		raw, err := os.ReadFile(f.Name())
		must(t, err)
		for _, match := range regexp.MustCompile(`(?:name: |cinderCall\(|novaCall\()"(\w+)"`).FindAllSubmatch(raw, -1) {
			found[string(match[1])] = true
		}
	}
	return found
}

// No call takes the 404 of another server, or one about another object, for "does not exist".
func TestForeign404IsNeverNotFound(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	for name, fault := range fakecloud.ForeignNotFoundAnswers() {
		for _, test := range missingCases() {
			r.fake.On(fakecloud.Match{Call: test.request}, fault)
			err := test.run(t.Context(), r.Cloud)
			if !volume.IsKind(err, volume.KindUnavailable) {
				t.Errorf("%s: %s answered by %s is of kind %s: %v", test.name, test.request, name, volume.KindOf(err), err)
			} else if !containsAll(err.Error(), []string{"404 Not Found", "next step", "load balancer"}) {
				t.Errorf("%s: %v does not tell what to check", test.name, err)
			}
		}
		for _, call := range []fakecloud.Call{fakecloud.GetAttachment, fakecloud.GetType, fakecloud.GetQuota} {
			rule := r.fake.On(fakecloud.Match{Call: call}, fault)
			var err error
			switch call {
			case fakecloud.GetAttachment:
				_, err = r.ServerAttachment(t.Context(), noServer, noVolume)
			case fakecloud.GetType:
				_, err = r.DefaultVolumeType(t.Context())
			default:
				if _, err = r.Limits(t.Context()); name == "the router of an API" {
					must(t, err) // a cloud without the API of quotas: the limit is not known
					continue
				}
			}
			wantKind(t, err, volume.KindUnavailable, "404")
			if rule.Hits() != 1 {
				t.Errorf("%s: not asked", call)
			}
		}
	}
}

// Each answer of Nova that says that it does not have the attachment is understood.
func TestAttachmentThatNovaDoesNotHave(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	for _, message := range []string{
		"Instance " + noServer + " is not attached to volume " + noVolume, // as recorded
		"volume_id not found: " + noVolume,                                // old releases
		"Instance " + noServer + " is not attached.",                      // old releases, of a server without volumes
		"Instance " + noServer + " could not be found.",
		// a translation
		"Die Instanz " + noServer + " ist nicht an den Datenträger " + strings.ToUpper(noVolume) + " angehängt",
	} {
		r.fake.On(fakecloud.Match{Call: fakecloud.GetAttachment}, fakecloud.Status(http.StatusNotFound, message))
		if found, err := r.ServerAttachment(t.Context(), noServer, noVolume); found || err != nil {
			t.Errorf("%s: %t, %v", message, found, err)
		}
	}
}

// The 404 of a cloud without a default type names no id.
func TestMissingDefaultTypeIsNotFound(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	r.fake.On(fakecloud.Match{Call: fakecloud.GetType},
		fakecloud.Status(http.StatusNotFound, "Default volume type can not be found."))
	_, err := r.DefaultVolumeType(t.Context())
	wantKind(t, err, volume.KindNotFound, "Default volume type")
}

// A missing API of backups is believed only if Cinder answers other calls.
func TestCloudWithoutBackups(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	router := fakecloud.ForeignNotFoundAnswers()["the router of an API"]
	for _, call := range []fakecloud.Call{fakecloud.GetBackup, fakecloud.ListBackupDetail} {
		ask := func() error {
			if call == fakecloud.GetBackup {
				_, err := r.Backup(t.Context(), noBackup)
				return err
			}
			_, err := r.BackupsNamed(t.Context(), "b")
			return err
		}
		path := r.fake.On(fakecloud.Match{Call: call}, router).Always()
		wantKind(t, ask(), volume.KindUnavailable) // the list is there
		list := r.fake.On(fakecloud.Match{Call: fakecloud.ListBackups}, router).Always()
		wantKind(t, ask(), volume.KindNotFound, "offers no backups")
		volumes := r.fake.On(fakecloud.Match{Call: fakecloud.ListVolumeDetail}, router)
		wantKind(t, ask(), volume.KindUnavailable) // it is not Cinder
		for _, rule := range []*fakecloud.Rule{path, list, volumes} {
			rule.Remove()
		}
	}
}

// Cinder says that a volume that the user may not read could not be found; the same policy forbids
// the listing of volumes.
func TestHiddenVolumeIsNotNotFound(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	v := r.volume(t, "pvc-1", 1)
	hidden := fakecloud.ForeignAnswer(http.StatusNotFound, "application/json",
		`{"itemNotFound": {"code": 404, "message": "Volume {id} could not be found."}}`)
	for list, want := range map[int]volume.Kind{
		http.StatusForbidden:          volume.KindDenied,
		http.StatusServiceUnavailable: volume.KindUnavailable,
	} {
		rules := []*fakecloud.Rule{
			r.fake.On(fakecloud.Match{Call: fakecloud.GetVolume}, hidden).Always(),
			r.fake.On(fakecloud.Match{Call: fakecloud.ListVolumeDetail}, fakecloud.Status(list, "no")).Always(),
		}
		_, err := r.Volume(t.Context(), v.ID)
		wantKind(t, err, want, "reading volume "+v.ID, "the cloud's policy")
		for _, rule := range rules {
			rule.Remove()
		}
	}
	r.fake.ClearRequests()
	for range 3 {
		_, err := r.Volume(t.Context(), noVolume)
		wantKind(t, err, volume.KindNotFound)
	}
	if n := r.fake.Count(fakecloud.ListVolumeDetail); n != 1 {
		t.Errorf("%d listings for 3 volumes that are gone, want 1", n)
	}
	long := time.Now().Add(-listingValidity - time.Second)
	r.listedAt.Store(&long)
	r.fake.On(fakecloud.Match{Call: fakecloud.ListVolumeDetail}, fakecloud.Status(http.StatusForbidden, "no"))
	_, err := r.Volume(t.Context(), noVolume)
	wantKind(t, err, volume.KindDenied)
}

// Some services answer 200 to any path, with an empty list named after the end of the path (seen
// at Neutron).
func TestForeign200IsNoAnswer(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	v, node := r.volume(t, "pvc-1", 1), r.fake.AddServer("")
	ctx := t.Context()
	for _, body := range []string{`{"x": []}`, `{}`, `{"volume": null}`, otherObject} {
		for call, run := range map[fakecloud.Call]func() error{
			fakecloud.GetVolume:             func() error { _, err := r.Volume(ctx, v.ID); return err },
			fakecloud.GetSnapshot:           func() error { _, err := r.Snapshot(ctx, noSnapshot); return err },
			fakecloud.GetBackup:             func() error { _, err := r.Backup(ctx, noBackup); return err },
			fakecloud.GetServer:             func() error { _, err := r.Server(ctx, node); return err },
			fakecloud.GetAttachment:         func() error { _, err := r.ServerAttachment(ctx, node, v.ID); return err },
			fakecloud.ListVolumeDetail:      func() error { _, err := r.VolumesNamed(ctx, "pvc-1"); return err },
			fakecloud.ListAttachmentRecords: func() error { _, err := r.AttachmentRecords(ctx, v.ID); return err },
		} {
			if body == otherObject && strings.HasPrefix(string(call), "list") {
				continue
			}
			r.fake.On(fakecloud.Match{Call: call}, fakecloud.ForeignAnswer(http.StatusOK, "application/json", body))
			wantKind(t, run(), volume.KindUnavailable)
		}
	}
	r.fake.On(fakecloud.Match{Call: fakecloud.GetVolume},
		fakecloud.ForeignAnswer(http.StatusOK, "application/json", `{"volume": {"id": "`+v.ID+`", "status": "available"}}`))
	if _, err := r.Volume(ctx, strings.ToUpper(v.ID)); err != nil {
		t.Errorf("an id in other case is the same: %v", err)
	}
}

// otherObject is an answer about other objects than those that were asked for.
const otherObject = `{"volume": {"id": "99999999-9999-4999-8999-999999999999"}, "snapshot": {"id": "9"},
	"backup": {"id": "9"}, "server": {"id": "9"}, "volumeAttachment": {"volumeId": "9"}}`

func TestHasWord(t *testing.T) {
	for _, test := range []struct {
		text, word string
		want       bool
	}{
		{"Volume " + noVolume + " could not be found.", noVolume, true},
		{"Volume " + strings.ToUpper(noVolume) + " could not be found.", noVolume, true},
		{"volume_id not found: " + noVolume, noVolume, true},
		{"attachment_id = " + noVolume + ".", noVolume, true},
		{"'" + noVolume + "'", noVolume, true},
		{"Volume " + noVolume + "0 could not be found.", noVolume, false},
		{"Volume x-" + noVolume + " could not be found.", noVolume, false},
		{"Volume " + noVolume[:35] + " could not be found.", noVolume, false},
		{"Volume could not be found.", "", false},
		{"", noVolume, false},
	} {
		if got := hasWord(test.text, test.word); got != test.want {
			t.Errorf("%q names %q: %t, want %t", test.text, test.word, got, test.want)
		}
	}
}

// A message is cut for people only after the id was found in it.
func TestLongMessageNamesTheObject(t *testing.T) {
	k := call{name: "volume_get", objects: []object{{"volume", noVolume}}}
	body, err := json.Marshal(map[string]any{"itemNotFound": map[string]any{
		"code":    404,
		"message": strings.Repeat("x ", 400) + noVolume,
	}})
	must(t, err)
	wantKind(t, refusal(k, gophercloud.ErrUnexpectedResponseCode{Actual: http.StatusNotFound, Body: body}, false),
		volume.KindNotFound)
}
