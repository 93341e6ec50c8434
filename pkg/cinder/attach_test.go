package cinder

import (
	"maps"
	"testing"
	"testing/synctest"

	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/tests/fakecloud"
)

func TestAttachTakesThreeCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{Size: 3})
		if _, err := r.Get(t.Context(), id); err != nil { // finds out the volume's cloud, as its creation does
			t.Fatal(err)
		}
		r.cloud.ClearRequests()
		published := r.attach(t, id, server)
		if n := r.cloud.Count(fakecloud.AnyCall); n > 3 {
			t.Errorf("%d calls, want 3: %v", n, r.cloud.Counts())
		}
		want := map[string]string{cindercsi.ContextSize: "3221225472", cindercsi.ContextDevicePath: "/dev/vdb"}
		if !maps.Equal(published, want) {
			t.Errorf("publish context %v, want %v", published, want)
		}
	})
}

func TestAttachPublishesEncryption(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{Encrypted: true})
	if got := r.attach(t, id, server)[cindercsi.ContextEncrypted]; got != "true" {
		t.Errorf("encrypted = %q, want true", got)
	}
}

func TestAttachAgainReadsAndChangesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		server, id := r.cloud.AddServer(""), r.cloud.Add(fakecloud.Volume{})
		first := r.attach(t, id, server)
		r.cloud.ClearRequests()
		if again := r.attach(t, id, server); !maps.Equal(again, first) {
			t.Errorf("publish context %v, want %v as before", again, first)
		}
		r.cloud.CheckCalls(t, fakecloud.AttachVolume, 0)
		if n := r.cloud.Count(fakecloud.AnyCall); n > 2 {
			t.Errorf("%d calls, want 2: %v", n, r.cloud.Counts())
		}
	})
}
