package krbd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// These tests map images of a real Ceph cluster with the kernel that runs them. They need a
// directory with the cluster's ceph.conf, keyring.client.admin and keys/, the programs ceph and
// rbd, and a kernel with rbd, such as that of a guest.

const cephDirVariable = "GROWVOL_CEPH_DIR"

// callTimeout is how long a call or a program may take: seconds on an idle machine, but the guest
// may share its processors with a dozen others.
const callTimeout = 4 * time.Minute

// rig is a real cluster, and a pool of it.
type rig struct {
	t    *testing.T
	dir  string
	pool string
}

func newRig(t *testing.T) rig {
	t.Helper()
	dir := os.Getenv(cephDirVariable)
	if dir == "" {
		t.Skipf("%s is not set: no Ceph cluster", cephDirVariable)
	}
	if _, err := os.Stat("/sys/bus/rbd"); err != nil {
		t.Skipf("the kernel has no rbd: %v", err)
	}
	return rig{t: t, dir: dir, pool: "volumes"}
}

// run runs a Ceph program and returns its output.
func (r rig) run(program string, args ...string) string {
	r.t.Helper()
	args = append([]string{
		"--conf", filepath.Join(r.dir, "ceph.conf"), "--keyring", filepath.Join(r.dir, "keyring.client.admin"),
	}, args...)
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// newImage makes an image that is removed after the test.
func (r rig) newImage(size string, features string) (name string) {
	r.t.Helper()
	name = fmt.Sprintf("krbd-%d", time.Now().UnixNano())
	r.run("rbd", "create", "--size", size, "--image-feature", features, r.pool+"/"+name)
	r.t.Cleanup(func() { r.run("rbd", "rm", "--no-progress", r.pool+"/"+name) })
	return name
}

// newConnector returns a connector for the cluster "rig".
func (r rig) newConnector() *Connector {
	r.t.Helper()
	dir := r.t.TempDir()
	monitors := strings.TrimSpace(r.run("ceph-conf", "--lookup", "mon_host"))
	config, err := json.Marshal([]map[string]any{{"clusterID": "rig", "monitors": []string{monitors}}})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
		r.t.Fatal(err)
	}
	c, err := New(Options{
		Clusters: cluster.Files{Config: filepath.Join(dir, "config.json"), Keys: filepath.Join(r.dir, "keys")},
		Devices:  blockdev.New(), StateDir: filepath.Join(dir, "state"),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r rig) request(image string) volume.ConnectRequest {
	return volume.ConnectRequest{ID: "rig/" + r.pool + "/" + image}
}

// connect connects a volume, and disconnects it after the test.
func (r rig) connect(c *Connector, req volume.ConnectRequest) volume.Connection {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), callTimeout)
	defer cancel()
	start := time.Now()
	conn, err := c.Connect(ctx, req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Logf("connected %s as %s in %s", req.ID, conn.Path, time.Since(start))
	r.t.Cleanup(func() { r.disconnect(c, req.ID) })
	return conn
}

func (r rig) disconnect(c *Connector, id string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	start := time.Now()
	if err := c.Disconnect(ctx, id); err != nil {
		r.t.Error(err)
	}
	r.t.Logf("disconnected %s in %s", id, time.Since(start))
	if m, found, err := c.find(id); found || err != nil {
		r.t.Errorf("after Disconnect: mapped %t (%s), error %v", found, m, err)
	}
}

func deviceSize(t *testing.T, path string) volume.Size {
	t.Helper()
	devices := blockdev.New()
	d, err := devices.ByPath(path)
	if err != nil {
		t.Fatal(err)
	}
	size, err := devices.Size(d)
	if err != nil {
		t.Fatal(err)
	}
	return size
}

func TestRealConnectIsIdempotentAndKeepsTheKeySecret(t *testing.T) {
	r := newRig(t)
	c, req := r.newConnector(), r.request(r.newImage("64M", "layering,exclusive-lock"))
	first := r.connect(c, req)
	if second := r.connect(c, req); second != first {
		t.Errorf("second Connect: %+v, want %+v", second, first)
	}
	all, err := c.bus.list()
	if err != nil {
		t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(m mapping) bool { return m.key != keyName(req.ID) })
	if len(all) != 1 {
		t.Fatalf("mapped: %v; want one mapping", all)
	}
	if size := deviceSize(t, first.Path); size != 64*volume.MiB {
		t.Errorf("the device has %s, want 64 MiB", size)
	}
	info, err := os.ReadFile("/sys/bus/rbd/devices/" + all[0].id + "/config_info")
	if err != nil || strings.Contains(string(info), "secret=") || !strings.Contains(string(info), "key=growvol-") {
		t.Errorf("config_info %q, %v; want the name of the key only", info, err)
	}
	if err := c.Verify(t.Context(), req.ID, first.Path); err != nil {
		t.Error(err)
	}
	start := time.Now()
	err = c.RefreshDevice(t.Context(), req.ID)
	t.Logf("refreshed in %s", time.Since(start))
	if err != nil {
		t.Error(err)
	}
	// After a restart, with and without the records.
	restarted, err := New(c.opts)
	if err != nil {
		t.Fatal(err)
	}
	conn, connected, err := restarted.Locate(t.Context(), req.ID)
	if err != nil || !connected || conn.Path != first.Path {
		t.Errorf("Locate: %+v, %t, %v", conn, connected, err)
	}
	c.records.dir = t.TempDir()
	if conn, connected, err = c.Locate(t.Context(), req.ID); err != nil || !connected || conn.Path != first.Path {
		t.Errorf("Locate without records: %+v, %t, %v", conn, connected, err)
	}
}

func TestRealRefreshBringsTheSizeToAReadOnlyMapping(t *testing.T) {
	r := newRig(t)
	c, image := r.newConnector(), r.newImage("64M", "layering,exclusive-lock")
	req := r.request(image)
	req.ReadOnly = true
	conn := r.connect(c, req)
	r.run("rbd", "resize", "--no-progress", "--size", "128M", r.pool+"/"+image)
	if size := deviceSize(t, conn.Path); size != 64*volume.MiB {
		t.Logf("the read-only device has %s before the refresh", size)
	}
	if err := c.RefreshDevice(t.Context(), req.ID); err != nil {
		t.Fatal(err)
	}
	if size := deviceSize(t, conn.Path); size != 128*volume.MiB {
		t.Errorf("the device has %s after the refresh, want 128 MiB", size)
	}
	// A request in the other mode maps the unused image again.
	req.ReadOnly = false
	conn = r.connect(c, req)
	r.run("rbd", "resize", "--no-progress", "--size", "192M", r.pool+"/"+image)
	if size := deviceSize(t, conn.Path); size != 192*volume.MiB {
		t.Errorf("the writable device has %s after the resize, want 192 MiB without a refresh", size)
	}
}

func TestRealFencedNodeIsReportedAndMapsAgain(t *testing.T) {
	r := newRig(t)
	c := r.newConnector()
	image := r.newImage("64M", "layering,exclusive-lock")
	req, other := r.request(image), r.request(r.newImage("64M", "layering"))
	conn := r.connect(c, req)
	r.connect(c, other)
	m, _, err := c.find(req.ID)
	if err != nil {
		t.Fatal(err)
	}
	r.run("ceph", "osd", "blocklist", "add", m.client)
	t.Cleanup(func() { r.run("ceph", "osd", "blocklist", "rm", m.client) })
	// A daemon learns of the fence from a client that knows it, before it answers that one.
	r.run("rbd", "info", r.pool+"/"+image)
	f, err := os.Open(conn.Path)
	if err != nil {
		t.Fatal(err)
	}
	awaitFence(t, c, req.ID)
	// Its user still has it.
	_, err = c.Connect(t.Context(), req)
	wantFenced(t, err)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	// The other mapping keeps the fenced client alive.
	r.connect(c, req)
	if err := c.RefreshDevice(t.Context(), req.ID); err != nil {
		t.Errorf("after the image was mapped again: %v", err)
	}
	again, _, err := c.find(req.ID)
	if err != nil || again.client == m.client {
		t.Errorf("client %s, %v; want another one", again.client, err)
	}
}

// awaitFence waits until the OSDs refuse the client of the volume: they learn of the fence after
// the command has returned.
func awaitFence(t *testing.T, c *Connector, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	start := time.Now()
	for {
		if err := c.RefreshDevice(ctx, id); err != nil {
			wantFenced(t, err)
			t.Logf("fenced after %s", time.Since(start))
			return
		}
		if err := operation.Sleep(ctx, 50*time.Millisecond); err != nil {
			t.Fatalf("the client is on the blocklist, but is not refused after %s: %v", time.Since(start), err)
		}
	}
}

func TestRealDisconnectNamesWhatUsesTheDevice(t *testing.T) {
	r := newRig(t)
	c, req := r.newConnector(), r.request(r.newImage("64M", "layering,exclusive-lock"))
	conn := r.connect(c, req)
	f, err := os.Open(conn.Path)
	if err != nil {
		t.Fatal(err)
	}
	err = c.Disconnect(t.Context(), req.ID)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("Disconnect with an open descriptor: %v, want the process named", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", conn.Path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := t.TempDir()
	if err := unix.Mount(conn.Path, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	err = c.Disconnect(t.Context(), req.ID)
	if err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("Disconnect of a mounted device: %v, want the mount named", err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
}

func TestRealSnapshotIsMappedReadOnly(t *testing.T) {
	r := newRig(t)
	c, image := r.newConnector(), r.newImage("64M", "layering")
	r.run("rbd", "snap", "create", "--no-progress", r.pool+"/"+image+"@monday")
	t.Cleanup(func() { r.run("rbd", "snap", "rm", "--no-progress", r.pool+"/"+image+"@monday") })
	req, snapshot := r.request(image), r.request(image+"@monday")
	whole, part := r.connect(c, req), r.connect(c, snapshot)
	if whole.Path == part.Path {
		t.Errorf("the image and its snapshot are the same device %s", part.Path)
	}
	devices := blockdev.New()
	d, err := devices.ByPath(part.Path)
	if err != nil {
		t.Fatal(err)
	}
	if isReadOnly, err := devices.IsReadOnly(d); err != nil || !isReadOnly {
		t.Errorf("the snapshot is read-only: %t, %v", isReadOnly, err)
	}
	for id, path := range map[string]string{req.ID: part.Path, snapshot.ID: whole.Path} {
		if err := c.Verify(t.Context(), id, path); volume.KindOf(err) != volume.KindPrecondition {
			t.Errorf("Verify of %s at %s: %v, want kind precondition", id, path, err)
		}
	}
}

// The options that a class can set, RADOS namespaces and erasure coded data pools.
func TestRealKindsOfImagesAndOptions(t *testing.T) {
	r := newRig(t)
	c := r.newConnector()
	name := fmt.Sprintf("krbd-%d", time.Now().UnixNano())
	r.run("rbd", "namespace", "create", r.pool+"/"+name)
	t.Cleanup(func() { r.run("rbd", "namespace", "remove", r.pool+"/"+name) })
	create := func(image string, args ...string) volume.ConnectRequest {
		r.run("rbd", append([]string{"create", "--size", "64M", "--image-feature", "layering"}, append(args, image)...)...)
		t.Cleanup(func() { r.run("rbd", "rm", "--no-progress", image) })
		return volume.ConnectRequest{ID: "rig/" + image}
	}
	requests := map[string]volume.ConnectRequest{
		"namespace": create(r.pool + "/" + name + "/image"),
		"data pool": create(r.pool+"/"+name, "--data-pool", "ecdata"),
	}
	for _, options := range []string{"ms_mode=secure", "krbd:ms_mode=prefer-crc,queue_depth=64,notrim;nbd:x", "noshare"} {
		req := create(r.pool + "/" + name + "-" + strings.NewReplacer(":", "", ";", "", "=", "", ",", "").Replace(options))
		req.VolumeContext = map[string]string{rbdcsi.ParameterMapOptions: options}
		requests[options] = req
	}
	text := []byte(strings.Repeat("growvol", 73))
	for what, req := range requests {
		conn := r.connect(c, req)
		if err := os.WriteFile(conn.Path, text, 0); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		f, err := os.Open(conn.Path)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(text))
		if _, err := f.Read(got); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%s: read %q, %v; want what was written", what, got, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		r.disconnect(c, req.ID)
	}
}

func TestRealCrushLocationIsAccepted(t *testing.T) {
	r := newRig(t)
	c := r.newConnector()
	c.opts.CrushLocation = "host:a|zone:b"
	req := r.request(r.newImage("64M", "layering"))
	r.connect(c, req)
	m, _, err := c.find(req.ID)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.ReadFile("/sys/bus/rbd/devices/" + m.id + "/config_info")
	if err != nil || !strings.Contains(string(info), "read_from_replica=localize,crush_location=host:a|zone:b") {
		t.Errorf("config_info %q, %v; want the location", info, err)
	}
}

func TestRealRenamedImageIsStillTheVolume(t *testing.T) {
	r := newRig(t)
	c, image := r.newConnector(), r.newImage("64M", "layering,exclusive-lock")
	req := r.request(image)
	conn := r.connect(c, req)
	r.run("rbd", "rename", r.pool+"/"+image, r.pool+"/"+image+"-renamed")
	t.Cleanup(func() { r.run("rbd", "rename", r.pool+"/"+image+"-renamed", r.pool+"/"+image) })
	if err := c.Verify(t.Context(), req.ID, conn.Path); err != nil {
		t.Error(err)
	}
	m, _, err := c.find(req.ID)
	if err != nil {
		t.Fatal(err)
	}
	// The controller publishes the new name and the ids.
	req.PublishContext = map[string]string{
		rbdcsi.ContextCluster: "rig", rbdcsi.ContextFSID: m.FSID, rbdcsi.ContextPool: r.pool,
		rbdcsi.ContextPoolID: fmt.Sprint(m.PoolID), rbdcsi.ContextImage: image + "-renamed",
		rbdcsi.ContextImageID: m.ImageID, rbdcsi.ContextSize: fmt.Sprint(64 * volume.MiB.Bytes()),
	}
	if again := r.connect(c, req); again.Path != conn.Path || again.Size != 64*volume.MiB {
		t.Errorf("Connect after the rename: %+v, want %s with 64 MiB", again, conn.Path)
	}
}

func TestRealMapErrors(t *testing.T) {
	r := newRig(t)
	c, image := r.newConnector(), r.newImage("64M", "layering")
	for _, tc := range []struct {
		name   string
		change func(*volume.ConnectRequest)
		kind   volume.Kind
	}{
		{"no such image", func(q *volume.ConnectRequest) { q.ID = "rig/volumes/missing" }, volume.KindPrecondition},
		{"no such pool", func(q *volume.ConnectRequest) { q.ID = "rig/missing/x" }, volume.KindPrecondition},
		{"no such snapshot", func(q *volume.ConnectRequest) { q.ID += "@missing" }, volume.KindPrecondition},
		{"no such namespace", func(q *volume.ConnectRequest) { q.ID = "rig/volumes/ns/x" }, volume.KindPrecondition},
		{"unknown option", func(q *volume.ConnectRequest) {
			q.VolumeContext = map[string]string{rbdcsi.ParameterMapOptions: "krbd:nosuchoption"}
		}, volume.KindPrecondition},
		{"wrong key", func(q *volume.ConnectRequest) {
			q.Secrets = map[string]string{"userID": "csi", "userKey": "AQAiq3Bm58iKERAAOcuSR9Yzvdy7KpZ3pWuqZg=="}
		}, volume.KindDenied},
		{"unknown user", func(q *volume.ConnectRequest) {
			q.Secrets = map[string]string{"userID": "nobody", "userKey": "AQAiq3Bm58iKERAAOcuSR9Yzvdy7KpZ3pWuqZg=="}
		}, volume.KindDenied},
		{"not a key", func(q *volume.ConnectRequest) {
			q.Secrets = map[string]string{"userID": "csi", "userKey": "AAAA"}
		}, volume.KindPrecondition},
		{"another image id", func(q *volume.ConnectRequest) {
			q.PublishContext = map[string]string{
				rbdcsi.ContextCluster: "rig", rbdcsi.ContextPool: "volumes", rbdcsi.ContextImage: image,
				rbdcsi.ContextImageID: "1234",
			}
		}, volume.KindPrecondition},
	} {
		req := r.request(image)
		tc.change(&req)
		start := time.Now()
		_, err := c.Connect(t.Context(), req)
		t.Logf("%s, after %s: %v", tc.name, time.Since(start), err)
		if volume.KindOf(err) != tc.kind || err == nil {
			t.Errorf("%s: %v, want kind %s", tc.name, err, tc.kind)
		}
		if m, found, err := c.find(req.ID); err != nil || found {
			t.Errorf("%s: left %s, %v", tc.name, m, err)
		}
		if err := c.Disconnect(t.Context(), req.ID); err != nil {
			t.Errorf("%s: disconnect: %v", tc.name, err)
		}
	}
}

// It measures, and holds one mapping so that the kernel keeps its client, as on a node in use.
func TestRealTimes(t *testing.T) {
	r := newRig(t)
	c, req := r.newConnector(), r.request(r.newImage("64M", "layering,exclusive-lock"))
	r.connect(c, r.request(r.newImage("64M", "layering")))
	times := map[string][]time.Duration{}
	measure := func(what string, f func() error) {
		t.Helper()
		start := time.Now()
		if err := f(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		times[what] = append(times[what], time.Since(start))
	}
	connect := func() error { _, err := c.Connect(t.Context(), req); return err }
	for range 5 {
		measure("connect", connect)
		measure("connect again", connect)
		measure("refresh", func() error { return c.RefreshDevice(t.Context(), req.ID) })
		measure("locate", func() error { _, _, err := c.Locate(t.Context(), req.ID); return err })
		measure("disconnect", func() error { return c.Disconnect(t.Context(), req.ID) })
	}
	for what, all := range times {
		slices.Sort(all)
		t.Logf("%s: median %s, maximum %s", what, all[len(all)/2], all[len(all)-1])
	}
}
