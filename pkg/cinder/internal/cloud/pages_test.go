package cloud

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakecloud"
)

// A cloud that does not know a filter returns everything.
func TestIgnoredFiltersMatchNoOthers(t *testing.T) {
	k := newKeystone(t)
	clouds, err := k.clouds(t, "clouds.yaml", yamlHead)
	must(t, err)
	c, err := clouds.Cloud(t.Context(), "")
	must(t, err)
	const list = `[{"id":"1","name":"other","volume_id":"x","resource_uuid":"x"},
		{"id":"2","name":"mine","volume_id":"v","resource_uuid":"v"}]`
	must(t, c.CheckFeature(t.Context(), FeatureMessages)) // the versions are known before the answers change
	k.version = `{"volumes":LIST,"snapshots":LIST,"backups":LIST,"messages":LIST,"attachments":LIST}`
	k.version = strings.ReplaceAll(k.version, "LIST", list)
	ctx := t.Context()
	vs, err := c.VolumesNamed(ctx, "mine")
	must(t, err)
	ss, err := c.SnapshotsNamed(ctx, "mine")
	must(t, err)
	bs, err := c.BackupsNamed(ctx, "mine")
	must(t, err)
	ms, err := c.Messages(ctx, "v")
	must(t, err)
	as, err := c.AttachmentRecords(ctx, "v")
	must(t, err)
	for what, n := range map[string]int{
		"volumes": len(vs), "snapshots": len(ss), "backups": len(bs), "messages": len(ms),
		"attachments": len(as),
	} {
		if n != 1 {
			t.Errorf("%d %s, want the one that was asked for", n, what)
		}
	}
	if vs[0].ID != "2" || ss[0].ID != "2" || bs[0].ID != "2" || as[0].ID != "2" {
		t.Errorf("the wrong ones: %v %v %v %v", vs, ss, bs, as)
	}
}

func TestVolumesInPages(t *testing.T) {
	r := newRig(t, fakecloud.Options{ListLimit: 3})
	ctx := t.Context()
	ownMetadata := map[string]string{"cluster": "one", "other": "x"}
	var want []string
	for i := range 8 {
		v := NewVolume{Name: "pvc-" + string(rune('a'+i)), Size: 1}
		if i%2 == 0 {
			v.Metadata = ownMetadata
		}
		made, err := r.CreateVolume(ctx, v)
		must(t, err)
		r.await(t, made.ID, "available")
		if i%2 == 0 {
			want = append(want, made.ID)
		}
	}
	all := func(p VolumePage) (ids []string, pages int) {
		for {
			vs, next, err := r.Volumes(ctx, p)
			must(t, err)
			pages++
			for _, v := range vs {
				ids = append(ids, v.ID)
			}
			if next == "" {
				return ids, pages
			}
			p.Marker = next
		}
	}
	if ids, pages := all(VolumePage{}); len(ids) != 8 || pages != 3 {
		t.Errorf("8 volumes in pages of 3: %d volumes in %d pages", len(ids), pages)
	}
	if ids, pages := all(VolumePage{Limit: 2}); len(ids) != 8 || pages < 4 {
		t.Errorf("8 volumes in pages of 2: %d volumes in %d pages", len(ids), pages)
	}
	ids, _ := all(VolumePage{Metadata: map[string]string{"cluster": ownMetadata["cluster"]}})
	slices.Sort(ids)
	slices.Sort(want)
	if !slices.Equal(ids, want) {
		t.Errorf("by metadata: %v, want %v", ids, want)
	}
	newest, _, err := r.Volumes(ctx, VolumePage{NewestChangeFirst: true, Limit: 8})
	must(t, err)
	if !slices.IsSortedFunc(newest, func(a, b Volume) int { return b.UpdatedAt.Compare(a.UpdatedAt) }) {
		t.Errorf("the newest change is not first: %+v", newest)
	}
	_, _, err = r.Volumes(ctx, VolumePage{Marker: absentID})
	volumetest.WantKind(t, err, volume.KindStale, absentID)
}

func TestVolumesNamed(t *testing.T) {
	r := newRig(t, fakecloud.Options{ListLimit: 2})
	for _, name := range []string{"twin", "twin", "twin", "twins", "other"} {
		r.volume(t, name, 1)
	}
	vs, err := r.VolumesNamed(t.Context(), "twin")
	must(t, err)
	if len(vs) != 3 {
		t.Errorf("%d volumes of that name, want 3: %+v", len(vs), vs)
	}
	if vs, err = r.VolumesNamed(t.Context(), "a&b=c d/ü'"); err != nil || len(vs) != 0 {
		t.Errorf("a strange name finds %v, %v", vs, err)
	}
}

func TestMetadataFilterIsAPythonLiteral(t *testing.T) {
	for key, test := range map[string]struct{ value, want string }{
		"a": {"it's", `{'a':'it\'s'}`}, "b": {`back\slash`, `{'b':'back\\slash'}`}, "c": {"two\nlines", `{'c':'two\nlines'}`},
	} {
		query, err := volumes.ListOpts{Metadata: escapePython(map[string]string{key: test.value})}.ToVolumeListQuery()
		must(t, err)
		got, err := url.ParseQuery(strings.TrimPrefix(query, "?"))
		must(t, err)
		if got.Get("metadata") != test.want {
			t.Errorf("metadata=%s, want %s", got.Get("metadata"), test.want)
		}
	}
}

// A link to the previous page, or one without an address, leads to no further page.
func TestLastPageHasNoNext(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	for links, want := range map[string]string{
		`[{"rel": "previous", "href": "http://x/"}]`: "", `[{"rel": "next", "href": ""}]`: "", `null`: "", `[]`: "",
		`[{"rel": "previous", "href": "http://x/"}, {"rel": "next", "href": "http://x/?marker=9"}]`: "2",
	} {
		r.fake.On(fakecloud.Match{Call: fakecloud.ListVolumeDetail}, fakecloud.ForeignAnswer(http.StatusOK,
			"application/json", `{"volumes": [{"id": "1"}, {"id": "2"}], "volumes_links": `+links+`}`))
		vs, next, err := r.Volumes(t.Context(), VolumePage{})
		must(t, err)
		if len(vs) != 2 || next != want {
			t.Errorf("links %s: %d volumes and the marker %q, want 2 and %q", links, len(vs), next, want)
		}
	}
}

// A cloud that gives the same page for each marker is not read without end.
func TestRepeatedPageEndsTheListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.fake.On(fakecloud.Match{Call: fakecloud.ListVolumeDetail},
			fakecloud.ForeignAnswer(http.StatusOK, "application/json",
				`{"volumes": [{"id": "1", "name": "n"}], "volumes_links": [{"rel": "next", "href": "http://x/"}]}`)).Always()
		if vs, err := r.VolumesNamed(contextFor(t, 5*time.Second), "n"); err != nil || len(vs) != 2 {
			t.Errorf("%d volumes (%v), want those of 2 pages", len(vs), err)
		}
	})
}
