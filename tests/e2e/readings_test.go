package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/kubeapi/kubeapitest"
	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// readerToken is the token that may read.
const readerToken = "reader"

// serveReviews serves an API server that allows readerToken everything, in the environment that a
// pod has. It returns the directory with its certificate.
func serveReviews(t *testing.T) (dir string) {
	t.Helper()
	api := kubeapitest.Serve(t, "127.0.0.1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review map[string]any
		if r.URL.Path != kubeapi.SelfReviewsPath || r.Header.Get("Authorization") != "Bearer "+readerToken ||
			json.NewDecoder(r.Body).Decode(&review) != nil {
			kubeapitest.Refuse(w, http.StatusUnauthorized, "Unauthorized")
			return
		}
		review["status"] = map[string]bool{"allowed": true}
		w.WriteHeader(http.StatusCreated)
		kubeapitest.Answer(w, review)
	}))
	address := must.Value(url.Parse(api.URL))(t)
	t.Setenv("KUBERNETES_SERVICE_HOST", address.Hostname())
	t.Setenv("KUBERNETES_SERVICE_PORT", address.Port())
	return api.Dir
}

// readVolume returns what the node plugin answers of the volume at /volumes.
func readVolume(t *testing.T, address, id string) readings.Volume {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	query := "https://" + address + readings.Path + "?" + url.Values{readings.IDParameter: {id}}.Encode()
	request := must.Value(http.NewRequestWithContext(ctx, http.MethodGet, query, http.NoBody))(t)
	request.Header.Set(readings.TokenHeader, readerToken)
	client := http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as the API server reads pods
	}}
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { must.Succeed(t, response.Body.Close()) }()
	var answer readings.Answer
	if response.StatusCode != http.StatusOK {
		t.Fatalf("got the status %s, want 200", response.Status)
	}
	must.Succeed(t, json.NewDecoder(response.Body).Decode(&answer))
	v := answer.Volume(id)
	if v == nil {
		t.Fatalf("the answer has no volume %s: %+v", id, answer)
	}
	return *v
}

// wantReadings fails the test unless a reading that began after since has the layers of an
// encrypted volume of this size in bytes.
func wantReadings(t *testing.T, v readings.Volume, size int64, since time.Time) {
	t.Helper()
	want := map[readings.LayerName]int64{
		readings.LayerDevice: size, readings.LayerMapping: size - luksHeader, readings.LayerFilesystem: size - luksHeader,
	}
	if v.Problem != "" || len(v.Layers) != len(want) || v.Usage == nil {
		t.Fatalf("got %+v, want three layers, the usage and no problem", v)
	}
	for _, l := range v.Layers {
		if l.Size != volume.Size(want[l.Name]) || l.ReadAt.Before(since) {
			t.Errorf("%s: got %s, read at %s; want %s, read after %s",
				l.Name, l.Size, l.ReadAt, volume.Size(want[l.Name]), since)
		}
	}
	if u := v.Usage; u.Total > volume.Size(size) || u.Total < volume.Size(size)*9/10 || u.ReadAt.Before(since) {
		t.Errorf("got a usage of %+v, want somewhat less than %s, read after %s", u, volume.Size(size), since)
	}
}

// The readings at /volumes have the layers of an encrypted volume while it grows in use. They are
// also read while the filesystem is frozen: only writers wait then.
func TestReadingsOfAnEncryptedVolumeThatIsFrozen(t *testing.T) {
	ctx, dir := t.Context(), serveReviews(t)
	d := deploy(t)
	address := must.Value(csiclient.FreeAddress(ctx))(t)
	must.Succeed(t, d.NodePlugin.Stop())
	d.NodeFlags = []string{"--volumes-endpoint=" + address, "--service-account-dir=" + dir}
	must.Succeed(t, d.StartNode(ctx))
	v := createEncrypted(t, d, volumeName(t), gib, csiclient.MountCapability("ext4"), nil)
	must.Succeed(t, d.Use(ctx, v))
	wantReadings(t, readVolume(t, address, v.ID), gib, time.Time{})
	_ = must.Value(d.Expand(ctx, v, 2*gib))(t)
	since := time.Now()
	wantReadings(t, readVolume(t, address, v.ID), 2*gib, since)

	must.Succeed(t, os.WriteFile(filepath.Join(v.Target, "file"), []byte("data"), 0o600))
	must.Succeed(t, runCommand(t, "fsfreeze", "--freeze", v.Target))
	since = time.Now()
	frozen := readVolume(t, address, v.ID)
	must.Succeed(t, runCommand(t, "fsfreeze", "--unfreeze", v.Target))
	wantReadings(t, frozen, 2*gib, since)
	releaseAndDelete(t, d, v)
}
