package noderecord

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/growvol/growvol/pkg/kubeapi/kubeapitest"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/must"
)

const (
	fsid    = "b1ab2d2e-0000-4000-8000-000000000001"
	address = "10.77.0.11:0/1002278972"
)

// mapImage makes what the kernel shows of a mapping in the directory of sysfs. changes replaces
// attributes; an attribute "-absent" removes it.
func mapImage(t *testing.T, sysfs string, number int, imageID string, changes map[string]string) {
	t.Helper()
	dir := filepath.Join(sysfs, "bus/rbd/devices", strconv.Itoa(number))
	must.Succeed(t, os.MkdirAll(dir, 0o700))
	attributes := map[string]string{
		"cluster_fsid": fsid, "client_addr": address, "pool_id": "3", "pool": "volumes", "pool_ns": "",
		"image_id": imageID, "name": "image-" + imageID, "current_snap": "-",
	}
	for name, value := range changes {
		attributes[name] = value
	}
	for name, value := range attributes {
		must.Succeed(t, os.WriteFile(filepath.Join(dir, name), []byte(value+"\n"), 0o600))
	}
}

func newRecorder(t *testing.T) (r *Recorder, s *kubeapitest.Server, sysfs string) {
	t.Helper()
	s, sysfs = kubeapitest.New(t), t.TempDir()
	s.AddNode("n")
	return NewRecorder(Options{API: s.API(), Node: "n", Driver: "d", Sysfs: sysfs}), s, sysfs
}

// recorded returns the record as the controller reads it.
func recorded(t *testing.T, s *kubeapitest.Server) Record {
	t.Helper()
	r, ok, err := Parse(s.Annotation("n", ClientsAnnotation))
	if err != nil || !ok {
		t.Fatalf("got the annotation %q (%v), want a record", s.Annotation("n", ClientsAnnotation), err)
	}
	return r
}

func TestRecordIsWhatTheKernelHasMapped(t *testing.T) {
	r, s, sysfs := newRecorder(t)
	must.Succeed(t, r.Unmapped(t.Context(), "a/volumes/x"))
	if text := s.Annotation("n", ClientsAnnotation); text != `{"clients":[]}` {
		t.Errorf("got %s, want a record without clients", text)
	}
	mapImage(t, sysfs, 0, "10a", nil)
	mapImage(t, sysfs, 1, "10b", map[string]string{"client_addr": "10.77.0.11:0/7", "pool_ns": "tenant"})
	mapImage(t, sysfs, 2, "10c", map[string]string{"current_snap": "s"})
	must.Succeed(t, r.Mapped(t.Context(), "a/volumes/image-10a", fsid, address))
	now := recorded(t, s)
	image := func(id, namespace string) Image { return Image{PoolID: 3, Namespace: namespace, ID: id} }
	for _, c := range []struct {
		fsid  string
		image Image
		want  []string
	}{
		{fsid, image("10a", ""), []string{address}},
		{fsid, image("10b", "tenant"), []string{"10.77.0.11:0/7"}},
		{fsid, image("10b", ""), nil},
		{fsid, image("10c", ""), nil}, // a snapshot of it is mapped
		{fsid, Image{PoolID: 4, ID: "10a"}, nil},
		{"another", image("10a", ""), nil},
	} {
		if got := now.MappedBy(c.fsid, c.image); !slices.Equal(got, c.want) {
			t.Errorf("%s %+v: got the clients %v, want %v", c.fsid, c.image, got, c.want)
		}
	}
	if got := now.Names(fsid, address); !slices.Equal(got, []string{"volumes/image-10a", "volumes/image-10c@s"}) {
		t.Errorf("got the names %v, want those of the client", got)
	}
	if got := now.Names(fsid, "10.77.0.11:0/7"); !slices.Equal(got, []string{"volumes/tenant/image-10b"}) {
		t.Errorf("got the names %v, want the one with the namespace", got)
	}
	must.Succeed(t, os.RemoveAll(filepath.Join(sysfs, "bus/rbd/devices/1")))
	must.Succeed(t, r.Unmapped(t.Context(), "a/volumes/tenant/image-10b"))
	if recorded(t, s).Has(fsid, "10.77.0.11:0/7") || !recorded(t, s).Has(fsid, address) {
		t.Errorf("got %s, want the remaining client only", recorded(t, s))
	}
}

// A record that is written already costs no request: many volumes are unmapped at once.
// The directory of a mapping can be there still when its files are no longer read.
func TestOnlyAMappingThatIsRemovedIsLeftOut(t *testing.T) {
	present := t.TempDir()
	for _, c := range []struct {
		dir  string
		err  error
		want bool
	}{
		{present, nil, false},
		{present, syscall.EIO, false},
		{present, fs.ErrNotExist, false}, // an attribute is missing
		{present, &fs.PathError{Op: "read", Path: "pool", Err: syscall.ENODEV}, true},
		{filepath.Join(present, "absent"), fs.ErrNotExist, true},
	} {
		if got := isUnmapped(c.dir, c.err); got != c.want {
			t.Errorf("error %v in %s: unmapped %t, want %t", c.err, c.dir, got, c.want)
		}
	}
}

func TestUnchangedRecordIsNotWritten(t *testing.T) {
	r, s, sysfs := newRecorder(t)
	for i := range 20 {
		mapImage(t, sysfs, i, strconv.Itoa(i), nil)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { must.Succeed(t, r.Mapped(context.Background(), "v", fsid, address)) })
	}
	all.Wait()
	if n := s.Calls(http.MethodPatch); n != 1 {
		t.Errorf("made %d requests, want 1", n)
	}
}

func TestMappedFailsWithoutTheRecord(t *testing.T) {
	for name, c := range map[string]struct {
		code  int
		kind  volume.Kind
		words string
	}{
		"no permission": {http.StatusForbidden, volume.KindDenied, "rbac.create"},
		"overloaded":    {http.StatusTooManyRequests, volume.KindUnavailable, "retries"},
		"no Node":       {http.StatusNotFound, volume.KindUnavailable, "retries"},
	} {
		t.Run(name, func(t *testing.T) {
			r, s, sysfs := newRecorder(t)
			mapImage(t, sysfs, 0, "10a", nil)
			isBroken := true
			s.Before = func(w http.ResponseWriter, _ *http.Request) bool {
				if isBroken {
					kubeapitest.Refuse(w, c.code, "refused")
				}
				return isBroken
			}
			volumetest.WantKind(t, r.Mapped(t.Context(), "v", fsid, address), c.kind, "refused", c.words, "v")
			isBroken = false
			must.Succeed(t, r.Mapped(t.Context(), "v", fsid, address))
			if !recorded(t, s).Has(fsid, address) {
				t.Error("the retry wrote no record")
			}
		})
	}
}

func TestMappedFailsForAnUnlistedClient(t *testing.T) {
	r, s, sysfs := newRecorder(t)
	mapImage(t, sysfs, 0, "10a", nil)
	volumetest.WantKind(t, r.Mapped(t.Context(), "v", fsid, "10.77.0.11:0/8"), volume.KindInternal, "10.77.0.11:0/8")
	mapImage(t, sysfs, 0, "10a", map[string]string{"pool_id": "x"})
	if err := r.Mapped(t.Context(), "v", fsid, address); err == nil || !strings.Contains(err.Error(), "pool_id") {
		t.Errorf("got %v, want an error about pool_id", err)
	}
	mapImage(t, sysfs, 0, "10a", map[string]string{"client_addr": ""})
	if err := r.Unmapped(t.Context(), "v"); err == nil || !strings.Contains(err.Error(), "client_addr") {
		t.Errorf("got %v, want an error about client_addr", err)
	}
	if n := s.Calls(http.MethodPatch); n != 0 {
		t.Errorf("made %d requests, want none", n)
	}
}

func TestRecordHasABound(t *testing.T) {
	r, _, sysfs := newRecorder(t)
	mapImage(t, sysfs, 0, "10a", map[string]string{"name": strings.Repeat("x", maxSize)})
	volumetest.WantKind(t, r.Mapped(t.Context(), "v", fsid, address), volume.KindExhausted, ClientsAnnotation)
}

// Run writes the record at the start, so that mappings of before the start are in it, and again
// after an error, which it logs once.
func TestRunWritesTheRecord(t *testing.T) {
	r, s, sysfs := newRecorder(t)
	var log bytes.Buffer
	r.options.Log = slog.New(slog.NewTextHandler(&log, nil))
	mapImage(t, sysfs, 0, "10a", nil)
	ctx, cancel := context.WithCancel(t.Context())
	s.Before = func(w http.ResponseWriter, _ *http.Request) bool {
		kubeapitest.Refuse(w, http.StatusForbidden, "forbidden")
		cancel()
		return true
	}
	r.Run(ctx)
	s.Before = nil
	done := make(chan struct{})
	ctx, cancel = context.WithCancel(t.Context())
	go func() { defer close(done); r.Run(ctx) }()
	for s.Annotation("n", ClientsAnnotation) == "" {
		if t.Context().Err() != nil {
			t.Fatal("no record was written")
		}
	}
	cancel()
	<-done
	if !recorded(t, s).Has(fsid, address) {
		t.Errorf("got %s, want the mapping of before the start", recorded(t, s))
	}
}

func TestFencesAreKept(t *testing.T) {
	fences := []Fence{{FSID: fsid, Address: address, Since: "2026-11-28T16:00:00Z"}}
	if got := must.Value(ParseFences(FormatFences(fences)))(t); !slices.Equal(got, fences) {
		t.Errorf("got %v, want %v", got, fences)
	}
	if got, err := ParseFences(FormatFences(nil)); err != nil || got != nil {
		t.Errorf("got %v, %v, want none", got, err)
	}
	for _, parse := range []func(string) error{
		func(text string) error { _, err := ParseFences(text); return err },
		func(text string) error { _, _, err := Parse(text); return err },
	} {
		if err := parse("{"); err == nil || !strings.Contains(err.Error(), "growvol.io/rbd-") {
			t.Errorf("got %v, want an error that names the annotation", err)
		}
	}
}

// A volume counts as attached only while nobody has begun to detach it from this node.
func TestCheckAttachedReadsTheVolumeAttachment(t *testing.T) {
	r, s, _ := newRecorder(t)
	check := func() error { return r.CheckAttached(t.Context(), "v") }
	volumetest.WantKind(t, check(), volume.KindPrecondition, "not attached", "n", "v")
	s.SetAttached("d", "v", "other", true)
	volumetest.WantKind(t, check(), volume.KindPrecondition)
	s.SetAttached("d", "v", "n", false) // the controller has not answered yet
	volumetest.WantKind(t, check(), volume.KindPrecondition)
	s.SetAttached("d", "v", "n", true)
	must.Succeed(t, check())
	s.BeginDetaching("d", "v", "n")
	volumetest.WantKind(t, check(), volume.KindPrecondition)
	s.RemoveAttachment("d", "v", "n")
	volumetest.WantKind(t, check(), volume.KindPrecondition)
	for code, kind := range map[int]volume.Kind{
		http.StatusForbidden: volume.KindDenied, http.StatusServiceUnavailable: volume.KindUnavailable,
	} {
		s.Before = func(w http.ResponseWriter, _ *http.Request) bool { kubeapitest.Refuse(w, code, "refused"); return true }
		volumetest.WantKind(t, check(), kind, "refused")
	}
}
