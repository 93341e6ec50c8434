package cloud

import (
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2/openstack/utils"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakecloud"
)

func TestSplitVersion(t *testing.T) {
	for endpoint, want := range map[string][2]string{
		"http://h:8776/v3/abc/":           {"http://h:8776/v3/", "v3"},
		"http://h/volume/v3/":             {"http://h/volume/v3/", "v3"},
		"http://h/dev1/compute/v2.1/p/":   {"http://h/dev1/compute/v2.1/", "v2.1"},
		"http://h/v3x/compute/":           {"http://h/v3x/compute/", ""},
		"http://h/":                       {"http://h/", ""},
		"http://h/v3/v3/deadbeef00000000": {"http://h/v3/v3/", "v3"},
	} {
		if address, major := splitVersion(endpoint); address != want[0] || major != want[1] {
			t.Errorf("splitVersion(%s) = %s, %s; want %s, %s", endpoint, address, major, want[0], want[1])
		}
	}
}

func TestVersionDocuments(t *testing.T) {
	documents := map[string]string{
		`{"versions":[{"id":"v3.0","version":"3.70","min_version":"3.0"}]}`:   "",
		`{"version":{"id":"v3.0","max_version":"3.60","min_version":"3.50"}}`: "3.50 to 3.60",

		`{"versions":[{"id":"v2.0","version":"","min_version":""},
			{"id":"v3.0","version":"3.41","min_version":"3.0"}]}`: "3.0 to 3.41",

		`{"version":{"id":"v3.0"}}`:                    "offers no microversions",
		`{"versions":[{"id":"v3.0","version":"3.x"}]}`: "are not microversions",
		`[]`: "cannot be used",
	}
	for _, version := range []string{"3", "3.", ".4", "a.b", "3.4.5", "-3.4"} {
		documents[`{"versions":[{"id":"v3.0","version":"`+version+`"}]}`] = "are not microversions"
	}
	for document, want := range documents {
		k := newKeystone(t)
		k.version = document
		clouds, err := k.clouds(t, "clouds.yaml", yamlHead)
		must(t, err)
		c, err := clouds.Cloud(t.Context(), "")
		must(t, err)
		err = c.CheckFeature(t.Context(), FeatureOnlineExtend)
		if want == "" {
			must(t, err)
			continue
		}
		if want == "are not microversions" || want == "cannot be used" {
			volumetest.WantKind(t, err, volume.KindUnavailable, want)
			continue
		}
		volumetest.WantKind(t, err, volume.KindUnsupported, "3.42", want)
	}
}

func TestIgnoredMicroversions(t *testing.T) {
	k := newKeystone(t)
	clouds, err := k.clouds(t, "cloud.conf",
		"[Global]\nauth-url = URL\nuser-id = u\npassword = p\nproject-id = p1\n[BlockStorage]\nignore-volume-microversion "+
			"= true\nignore-volume-az = true\n")
	must(t, err)
	if !clouds.Settings().IgnoreVolumeAZ {
		t.Errorf("settings %+v", clouds.Settings())
	}
	c, err := clouds.Cloud(t.Context(), "")
	must(t, err)
	volumetest.WantKind(t, c.CheckFeature(t.Context(), FeatureOnlineExtend), volume.KindUnsupported,
		"the configuration forbids microversions", "remove ignore-volume-microversion")
	must(t, c.CheckFeature(t.Context(), FeatureMultiattach)) // that is Nova's
	volumetest.WantKind(t, c.ExtendVolume(t.Context(), absentID, 2, true), volume.KindUnsupported, "extending volume")
}

// A service is asked for its versions by the first call that needs them, once, and again after a
// new login.
func TestVersionsAreReadOncePerConnection(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	zones := func() {
		t.Helper()
		_, err := r.Zones(t.Context())
		must(t, err)
	}
	asked := func(want int) {
		t.Helper()
		for range 3 {
			zones()
			must(t, r.CheckFeature(t.Context(), FeatureOnlineExtend))
			must(t, r.CheckFeature(t.Context(), FeatureBackupSource))
		}
		if n := r.fake.Count(fakecloud.Discover); n != want {
			t.Errorf("%d version documents were read, want %d", n, want)
		}
	}
	zones()
	if n := r.fake.Count(fakecloud.Discover); n != 0 {
		t.Errorf("%d version documents were read for a call that needs no version", n)
	}
	asked(1)
	r.fake.RevokeTokens()
	asked(2)
}

// Cinder's version document needs a token. A token that has ended is renewed.
func TestVersionsWithARevokedToken(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	r.fake.RevokeTokens()
	must(t, r.CheckFeature(t.Context(), FeatureOnlineExtend))
}

// A service that is down at the start does not prevent other calls.
func TestVersionsAreReadAgainAfterAFailure(t *testing.T) {
	fake := fakecloud.Start(t, fakecloud.Options{})
	path, err := fake.WriteCloudsYAML(t.TempDir())
	must(t, err)
	rule := fake.On(fakecloud.Match{Call: fakecloud.Discover}, fakecloud.Status(503, "")).Always()
	clouds, err := open(t.Context(), Options{CloudsYAML: path, Default: "csi", Log: discardLog()}, fastTuning())
	must(t, err)
	defer clouds.Close()
	c, err := clouds.Cloud(t.Context(), "")
	must(t, err)
	_, err = c.Zones(t.Context())
	must(t, err)
	volumetest.WantKind(t, c.CheckFeature(t.Context(), FeatureOnlineExtend), volume.KindUnavailable,
		"the versions it offers are not known", "503")
	rule.Remove()
	// it is left alone for some seconds
	volumetest.WantKind(t, c.CheckFeature(t.Context(), FeatureOnlineExtend), volume.KindUnavailable, "503")
	o := &c.conn.versions[blockStorage].last
	o.retryAt = o.retryAt.Add(-versionsPause)
	must(t, c.CheckFeature(t.Context(), FeatureOnlineExtend))
}

// Each call asks for the lowest version that it needs.
func TestCallsAskForTheLeastMicroversion(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	ctx := t.Context()
	v := r.volume(t, "pvc-1", 1)
	for call, f := range map[fakecloud.Call]struct {
		do   func() error
		want string
	}{
		fakecloud.GetVolume:    {func() error { _, err := r.Volume(ctx, v.ID); return err }, "3.0"},
		fakecloud.ExtendVolume: {func() error { return r.ExtendVolume(ctx, v.ID, 2, false) }, "3.0"},
		fakecloud.ListMessages: {func() error { _, err := r.Messages(ctx, v.ID); return err }, "3.5"},
		fakecloud.AttachVolume: {func() error { return r.Attach(ctx, absentID, absentID, true) }, "2.60"},
		fakecloud.GetServer:    {func() error { _, err := r.Server(ctx, absentID); return err }, "2.1"},
		fakecloud.CreateBackup: {
			func() error { _, err := r.CreateBackup(ctx, NewBackup{VolumeID: absentID}); return err },
			"3.43",
		},
		fakecloud.CreateVolume: {func() error {
			_, err := r.CreateVolume(ctx,
				NewVolume{Size: 1, BackupID: absentID})
			return err
		}, "3.47"},
	} {
		r.fake.ClearRequests()
		_ = f.do() // whether it succeeds is no matter here
		for _, q := range r.fake.Requests() {
			if q.Call == fakecloud.Discover {
				continue // the first call that needs a version asks for them
			}
			if q.Call != call || q.Microversion != f.want || !strings.HasPrefix(q.UserAgent, "growvol/test ") {
				t.Errorf("%s: %+v, want version %s", call, q, f.want)
			}
		}
		if r.fake.Count(call) != 1 {
			t.Errorf("%s was not called", call)
		}
	}
}

func TestEveryFeatureHasANeed(t *testing.T) {
	for f := FeatureOnlineExtend; f < featureCount; f++ {
		if n := f.need(); n.version == "" || n.what == "" || f.String() != n.what || n.service != blockStorage &&
			n.service != compute {
			t.Errorf("feature %d takes %+v", f, n)
		}
	}
	if err := (versionRange{SupportedMicroversions: utils.SupportedMicroversions{
		MinMajor: 3, MaxMajor: 3,
		MaxMinor: 70,
	}}).check(Feature(99).need()); err == nil {
		t.Error("an unknown feature is supported")
	}
}
