package cloud

import (
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakecloud"
)

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
			volumetest.WantKind(t, err, volume.KindUnavailable, "404")
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
	volumetest.WantKind(t, err, volume.KindNotFound, "Default volume type")
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
		volumetest.WantKind(t, ask(), volume.KindUnavailable) // the list is there
		list := r.fake.On(fakecloud.Match{Call: fakecloud.ListBackups}, router).Always()
		volumetest.WantKind(t, ask(), volume.KindNotFound, "offers no backups")
		volumes := r.fake.On(fakecloud.Match{Call: fakecloud.ListVolumeDetail}, router)
		volumetest.WantKind(t, ask(), volume.KindUnavailable) // it is not Cinder
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
		volumetest.WantKind(t, err, want, "reading volume "+v.ID, "the cloud's policy")
		for _, rule := range rules {
			rule.Remove()
		}
	}
	r.fake.ClearRequests()
	for range 3 {
		_, err := r.Volume(t.Context(), noVolume)
		volumetest.WantKind(t, err, volume.KindNotFound)
	}
	if n := r.fake.Count(fakecloud.ListVolumeDetail); n != 1 {
		t.Errorf("%d listings for 3 volumes that are gone, want 1", n)
	}
	long := time.Now().Add(-listingValidity - time.Second)
	r.listedAt.Store(&long)
	r.fake.On(fakecloud.Match{Call: fakecloud.ListVolumeDetail}, fakecloud.Status(http.StatusForbidden, "no"))
	_, err := r.Volume(t.Context(), noVolume)
	volumetest.WantKind(t, err, volume.KindDenied)
}

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
	volumetest.WantKind(t,
		newAnswer(k, gophercloud.ErrUnexpectedResponseCode{Actual: http.StatusNotFound, Body: body}, false).toError(),
		volume.KindNotFound)
}

// A 404 to a call that only selects by the volume is no answer about the volume.
func TestNotFoundOfASelectionIsNotTheVolume(t *testing.T) {
	r := newRig(t, fakecloud.Options{ServiceRole: true})
	message := "Volume " + noVolume + " could not be found."
	for call, run := range map[fakecloud.Call]func() error{
		fakecloud.ListAttachmentRecords: func() error { _, err := r.AttachmentRecords(t.Context(), noVolume); return err },
		fakecloud.SendEvents:            func() error { return r.NotifyExtended(t.Context(), noServer, noVolume) },
	} {
		r.fake.On(fakecloud.Match{Call: call}, fakecloud.Status(http.StatusNotFound, message))
		volumetest.WantKind(t, run(), volume.KindUnavailable, message[:len(message)-1])
	}
}
