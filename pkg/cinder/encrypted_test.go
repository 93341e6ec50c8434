package cinder

import (
	"testing"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// encryptedRequest returns a request for a volume that the node encrypts.
func encryptedRequest(name string) volume.CreateRequest {
	req := request(name, volume.GiB, map[string]string{metadata.PersistentVolume: name})
	req.Encrypted = true
	return req
}

// wantEncrypted checks all ways to read a volume.
func (r *rig) wantEncrypted(t *testing.T, id string, want bool) {
	t.Helper()
	if v, err := r.Get(t.Context(), id); err != nil || v.Encrypted != want {
		t.Errorf("read as %+v, %v, want encrypted %t", v, err, want)
	}
	for _, v := range r.listAll(t, 0) {
		if v.ID == id && v.Encrypted != want {
			t.Errorf("listed as %+v, want encrypted %t", v, want)
		}
	}
}

func TestEncryptedIsKeptInTheMetadata(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	v := r.create(t, encryptedRequest("pvc-1"))
	if got, _ := r.cloud.Volume(v.ID); !v.Encrypted || got.Metadata["growvol.io/encrypted"] != "true" || got.Encrypted {
		t.Errorf("%+v, %+v", v, got)
	}
	r.wantEncrypted(t, v.ID, true)
	if again := r.create(t, encryptedRequest("pvc-1")); again.ID != v.ID || !again.Encrypted {
		t.Errorf("again: %+v", again)
	}
	if found, ok, err := r.Find(t.Context(), encryptedRequest("pvc-1")); err != nil || !ok || !found.Encrypted {
		t.Errorf("found: %+v, %v", found, err)
	}
	_, err := r.Create(t.Context(), request("pvc-1", volume.GiB, nil))
	cindertest.CheckKind(t, err, volume.KindAlreadyExists, "encrypted=true, but the request has false")
	plain := r.create(t, request("pvc-2", volume.GiB, nil))
	r.wantEncrypted(t, plain.ID, false)
	_, err = r.Create(t.Context(), encryptedRequest("pvc-2"))
	cindertest.CheckKind(t, err, volume.KindAlreadyExists, "encrypted=false, but the request has true")
	_, err = r.Create(t.Context(), request("pvc-3", volume.GiB, map[string]string{"encryption": "true"}))
	cindertest.CheckKind(t, err, volume.KindInvalid, "encryption", " encrypted,")
}

// The class decides whether a copy is encrypted, whatever its source is: cinder-backup gives the
// volume the metadata of the source, also if the call that corrects them ends before.
func TestCopiesHaveTheirOwnEncryption(t *testing.T) {
	t.Parallel()
	for name, encrypted := range map[string]bool{"encrypted": true, "plain": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			from := request("pvc-source", volume.GiB, map[string]string{metadata.PersistentVolume: "pvc-source"})
			from.Encrypted = !encrypted
			source := r.create(t, from)
			sources := map[string]volume.Source{
				"clone": {VolumeID: source.ID}, "restored": {SnapshotID: r.ready(t, cindertest.SnapshotRequest("s", source.ID)).ID},
				"from a backup": {SnapshotID: r.ready(t, cindertest.SnapshotRequest("b", source.ID, "type", "backup")).ID},
			}
			for kind, origin := range sources {
				req := encryptedRequest(kind)
				req.Encrypted, req.Source = encrypted, origin
				v := r.create(t, req)
				if v.Encrypted != encrypted {
					t.Errorf("%s: %+v", kind, v)
				}
				r.wantEncrypted(t, v.ID, encrypted)
				if again, found, err := r.Find(t.Context(), req); err != nil || !found || again.Encrypted != encrypted {
					t.Errorf("%s: found %+v, %v", kind, again, err)
				}
			}
			cut := encryptedRequest("cut off")
			cut.Encrypted, cut.Source = encrypted, sources["from a backup"]
			broken := cindertest.Broken()
			rule := r.cloud.OnCall(fakecloud.SetMetadata, broken).Always()
			_, err := r.Create(t.Context(), cut)
			cindertest.CheckKind(t, err, volume.KindUnavailable)
			found, ok, err := r.Find(t.Context(), cut)
			if err != nil || !ok || found.Encrypted != encrypted {
				t.Errorf("cut off: found %+v, %t, %v: the retry would be refused", found, ok, err)
			}
			rule.Remove()
			v, err := r.Create(t.Context(), cut)
			if err != nil || v.ID != found.ID {
				t.Fatalf("cut off: %+v, %v, want %s", v, err, found.ID)
			}
			r.wantEncrypted(t, v.ID, encrypted)
		})
	}
}
