package krbd

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

const volumeID = "a/rbd/img"

// published returns a request with the publish context of the controller.
func published() volume.ConnectRequest {
	return volume.ConnectRequest{ID: volumeID, PublishContext: map[string]string{
		rbdcsi.ContextCluster: "a", rbdcsi.ContextFSID: fakeFSID, rbdcsi.ContextPool: "rbd", rbdcsi.ContextPoolID: "3",
		rbdcsi.ContextImage: "img", rbdcsi.ContextImageID: "1022e45abd37", rbdcsi.ContextSize: "1073741824",
	}}
}

func mustConnect(t *testing.T, c *Connector, req volume.ConnectRequest) volume.Connection {
	t.Helper()
	conn, err := c.Connect(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func wantNoRecords(t *testing.T, c *Connector) {
	t.Helper()
	entries, err := os.ReadDir(c.records.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) || len(entries) > 0 {
		t.Errorf("records %v, %v; want none", entries, err)
	}
}

func TestConnectMapsOnce(t *testing.T) {
	for name, req := range map[string]volume.ConnectRequest{
		"with the publish context": published(), "with the handle alone": {ID: volumeID},
	} {
		t.Run(name, func(t *testing.T) {
			m := newFakeMachine(t)
			c := m.newConnector(t.TempDir(), nil)
			first := mustConnect(t, c, req)
			if second := mustConnect(t, c, req); second != first || first.Path != "/dev/rbd0" || m.addCount() != 1 {
				t.Errorf("connections %+v and %+v after %d mappings, want one /dev/rbd0", first, second, m.addCount())
			}
			const want = "10.0.0.1:6789,10.0.0.2:6789 mount_timeout=20,lock_timeout=60,name=csi,key=growvol-"
			if !strings.HasPrefix(m.adds[0], want) || !strings.HasSuffix(m.adds[0], " rbd img -") ||
				strings.Contains(m.adds[0], fakeKey) {
				t.Errorf("the kernel got %q, want %s… rbd img - without the key", m.adds[0], want)
			}
			for range 2 {
				if err := c.Disconnect(t.Context(), volumeID); err != nil {
					t.Error(err)
				}
			}
			m.wantMapped()
			wantNoRecords(t, c)
		})
	}
}

func TestConnectRefusesAnotherImage(t *testing.T) {
	for key, value := range map[string]string{
		rbdcsi.ContextFSID: "00000000-0000-0000-0000-000000000000", rbdcsi.ContextPoolID: "4",
		rbdcsi.ContextImageID: "ffff",
	} {
		m := newFakeMachine(t)
		c := m.newConnector(t.TempDir(), nil)
		req := published()
		req.PublishContext[key] = value
		_, err := c.Connect(t.Context(), req)
		volumetest.WantKind(t, err, volume.KindPrecondition)
		if !strings.Contains(err.Error(), value) {
			t.Errorf("the error %v does not mention %s", err, value)
		}
		m.wantMapped()
	}
}

func TestImagesOfOnePoolAreDistinguished(t *testing.T) {
	m := newFakeMachine(t)
	m.imageIDs["rbd/other"] = "99"
	c := m.newConnector(t.TempDir(), nil)
	other := published()
	other.ID, other.PublishContext[rbdcsi.ContextImage] = "a/rbd/other", "other"
	other.PublishContext[rbdcsi.ContextImageID] = "99"
	if first, second := mustConnect(t, c, published()), mustConnect(t, c, other); first.Path == second.Path {
		t.Errorf("both images are at %s", first.Path)
	}
	m.wantMapped("0", "1")
}

// The kernel shows the name that an image had when it was mapped. Another image can have the name
// meanwhile, and in another RADOS namespace an image can have the same id.
func TestConnectKnowsImagesByTheirIDs(t *testing.T) {
	const imageID = "1022e45abd37"
	for name, test := range map[string]struct {
		image, id, namespace string // that another program has mapped
		mapped               []string
	}{
		"renamed since":              {"old-name", imageID, "", []string{"0"}},
		"another image of that name": {"img", "77", "", []string{"0", "1"}},
		"another RADOS namespace":    {"img", imageID, "tenant", []string{"0", "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newFakeMachine(t)
			m.imageIDs[imageName("rbd", test.namespace, test.image, "")] = test.id
			options := "name=admin,secret=x"
			if test.namespace != "" {
				options += ",_pool_ns=" + test.namespace
			}
			if err := m.mapImage("10.0.0.1:6789 " + options + " rbd " + test.image + " -"); err != nil {
				t.Fatal(err)
			}
			m.imageIDs["rbd/img"] = imageID
			c := m.newConnector(t.TempDir(), nil)
			want := "/dev/rbd" + test.mapped[len(test.mapped)-1]
			if conn := mustConnect(t, c, published()); conn.Path != want {
				t.Errorf("device %s, want %s", conn.Path, want)
			}
			m.wantMapped(test.mapped...)
		})
	}
}

// A volume that is now an image of a RADOS namespace with the same id is mapped again.
func TestConnectMapsTheImageOfTheNamespace(t *testing.T) {
	m := newFakeMachine(t)
	m.imageIDs["rbd/tenant/img"] = m.imageIDs["rbd/img"]
	c := m.newConnector(t.TempDir(), nil)
	mustConnect(t, c, published())
	req := published()
	req.PublishContext[rbdcsi.ContextNamespace] = "tenant"
	if conn := mustConnect(t, c, req); conn.Path != "/dev/rbd1" || !strings.Contains(m.adds[1], "_pool_ns=tenant") {
		t.Errorf("connection %+v by %q, want /dev/rbd1 in the namespace tenant", conn, m.adds)
	}
	m.wantMapped("1")
}

// A map that ends after its call is used by the retry, or removed by Disconnect.
func TestMappingThatEndsAfterItsCallIsFound(t *testing.T) {
	for name, end := range map[string]func(context.Context, *Connector) error{
		"by the retry": func(ctx context.Context, c *Connector) error {
			_, err := c.Connect(ctx, published())
			return err
		},
		"by Disconnect": func(ctx context.Context, c *Connector) error { return c.Disconnect(ctx, volumeID) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newFakeMachine(t)
				c := m.newConnector(t.TempDir(), nil)
				m.holdAdd = make(chan struct{})
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				_, err := c.Connect(ctx, published())
				volumetest.WantKind(t, err, volume.KindDeadline)
				err = c.Disconnect(ctx, volumeID)
				volumetest.WantKind(t, err, volume.KindDeadline)
				close(m.holdAdd)
				if err := end(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				if m.addCount() != 1 {
					t.Errorf("%d mappings were made, want 1", m.addCount())
				}
				if name == "by Disconnect" {
					m.wantMapped()
					wantNoRecords(t, c)
				} else {
					m.wantMapped("0")
				}
			})
		})
	}
}

// The plugin was killed between the record and the mapping, or the record is lost.
func TestRestartFindsWhatIsMapped(t *testing.T) {
	m := newFakeMachine(t)
	dir := t.TempDir()
	c := m.newConnector(dir, nil)
	if err := c.records.write(record{ID: volumeID, Image: "rbd/img"}); err != nil {
		t.Fatal(err)
	}
	if _, connected, err := c.Locate(t.Context(), volumeID); connected || err != nil {
		t.Errorf("a record without a mapping: connected %t, %v", connected, err)
	}
	if err := c.Disconnect(t.Context(), volumeID); err != nil {
		t.Error(err)
	}
	wantNoRecords(t, c)
	conn := mustConnect(t, c, published())
	for name, again := range map[string]*Connector{
		"with the record": m.newConnector(dir, nil), "without the record": m.newConnector(t.TempDir(), nil),
	} {
		got, connected, err := again.Locate(t.Context(), volumeID)
		if err != nil || !connected || got.Path != conn.Path {
			t.Errorf("%s: %+v, connected %t, %v; want %s", name, got, connected, err, conn.Path)
		}
		if err := again.Verify(t.Context(), volumeID, conn.Path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := m.newConnector(t.TempDir(), nil).Disconnect(t.Context(), volumeID); err != nil {
		t.Error(err)
	}
	m.wantMapped()
}

func TestConnectInTheOtherModeMapsAgain(t *testing.T) {
	m := newFakeMachine(t)
	c := m.newConnector(t.TempDir(), nil)
	mustConnect(t, c, published())
	readOnly := published()
	readOnly.ReadOnly = true
	m.device("0").claimed = true
	_, err := c.Connect(t.Context(), readOnly)
	volumetest.WantKind(t, err, volume.KindPrecondition)
	m.wantMapped("0")
	m.device("0").claimed = false
	if conn := mustConnect(t, c, readOnly); conn.Path != "/dev/rbd1" || !m.device("1").readOnly {
		t.Errorf("connection %+v, want the read-only /dev/rbd1", conn)
	}
	m.wantMapped("1")
}

func TestFencedMappingIsMappedAgainOnceItIsUnused(t *testing.T) {
	m := newFakeMachine(t)
	c := m.newConnector(t.TempDir(), nil)
	mustConnect(t, c, published())
	m.fenced[m.client] = true
	wantFenced(t, c.RefreshDevice(t.Context(), volumeID))
	m.device("0").claimed = true
	_, err := c.Connect(t.Context(), published())
	wantFenced(t, err)
	if !strings.Contains(err.Error(), "still in use") {
		t.Errorf("the error %v does not say what uses the device", err)
	}
	m.device("0").claimed = false
	m.device("0").flushErr = unix.EIO
	conn := mustConnect(t, c, published())
	if conn.Path != "/dev/rbd1" || !strings.Contains(m.adds[len(m.adds)-1], "noshare") {
		t.Errorf("connection %+v by %q, want a mapping with its own client", conn, m.adds[len(m.adds)-1])
	}
	m.wantMapped("1")
}

func TestMapErrorsHaveAKind(t *testing.T) {
	for errno, kind := range map[error]volume.Kind{
		unix.ENOENT: volume.KindPrecondition, unix.ENXIO: volume.KindPrecondition, unix.EINVAL: volume.KindPrecondition,
		unix.EROFS: volume.KindPrecondition, unix.ETIMEDOUT: volume.KindUnavailable, unix.EPERM: volume.KindDenied,
		unix.EACCES: volume.KindDenied, unix.EIO: volume.KindInternal,
	} {
		m := newFakeMachine(t)
		c := m.newConnector(t.TempDir(), nil)
		m.addErrs = []error{errno}
		_, err := c.Connect(t.Context(), published())
		volumetest.WantKind(t, err, kind)
		if !errors.Is(err, errno) || !strings.Contains(err.Error(), "next step") {
			t.Errorf("%v: %v, want the errno and a next step", errno, err)
		}
		mustConnect(t, c, published())
	}
	// Also a client of its own is fenced.
	m := newFakeMachine(t)
	c := m.newConnector(t.TempDir(), nil)
	m.addErrs = []error{unix.ESHUTDOWN, unix.ESHUTDOWN}
	_, err := c.Connect(t.Context(), published())
	volumetest.WantKind(t, err, volume.KindPrecondition)
	m.wantMapped()
}

// Two PersistentVolumes can name one image: the device stays until the last of them leaves.
func TestVolumesOfOneImageShareAMapping(t *testing.T) {
	m := newFakeMachine(t)
	c := m.newConnector(t.TempDir(), nil)
	other := published()
	other.ID = "static-name"
	first, second := mustConnect(t, c, published()), mustConnect(t, c, other)
	if first.Path != second.Path || m.addCount() != 1 {
		t.Errorf("devices %s and %s, want the same", first.Path, second.Path)
	}
	if err := c.Disconnect(t.Context(), volumeID); err != nil {
		t.Fatal(err)
	}
	m.wantMapped("0")
	if err := c.Verify(t.Context(), other.ID, second.Path); err != nil {
		t.Error(err)
	}
	if err := c.Disconnect(t.Context(), other.ID); err != nil {
		t.Fatal(err)
	}
	m.wantMapped()
}

// Another program has mapped the image, and the request has no ids of it.
func TestConnectUsesTheMappingOfAnotherProgram(t *testing.T) {
	m := newFakeMachine(t)
	if err := m.mapImage("10.0.0.1:6789 name=admin,secret=x rbd img -"); err != nil {
		t.Fatal(err)
	}
	c := m.newConnector(t.TempDir(), nil)
	for range 2 {
		if conn := mustConnect(t, c, volume.ConnectRequest{ID: volumeID}); conn.Path != "/dev/rbd0" {
			t.Errorf("device %s, want /dev/rbd0", conn.Path)
		}
		m.wantMapped("0")
	}
	if m.addCount() != 1 {
		t.Errorf("%d mappings were made, want 1", m.addCount())
	}
}

// An older mapping that cannot be used is replaced once nothing uses it; until then the image must
// not have both mappings.
func TestUnusableMappingOfAnotherProgramIsReplaced(t *testing.T) {
	m := newFakeMachine(t)
	if err := m.mapImage("10.0.0.1:6789 name=admin,secret=x,ro rbd img -"); err != nil {
		t.Fatal(err)
	}
	c := m.newConnector(t.TempDir(), nil)
	m.device("0").claimed = true
	_, err := c.Connect(t.Context(), volume.ConnectRequest{ID: volumeID})
	volumetest.WantKind(t, err, volume.KindPrecondition, "read-only=true", "still in use")
	m.wantMapped("0")
	m.device("0").claimed = false
	if conn := mustConnect(t, c, volume.ConnectRequest{ID: volumeID}); conn.Path != "/dev/rbd2" {
		t.Errorf("device %s, want the new /dev/rbd2", conn.Path)
	}
	m.wantMapped("2")
}

// Only an id that no volume can have is unknown: this node does not read whether an image exists.
func TestLocateKnowsWhichIDsAreNoHandles(t *testing.T) {
	c := newFakeMachine(t).newConnector(t.TempDir(), nil)
	const noHandle = "fake-vol-id"
	_, _, err := c.Locate(t.Context(), noHandle)
	volumetest.WantKind(t, err, volume.KindNotFound, noHandle)
	if _, connected, err := c.Locate(t.Context(), "a/rbd/no-such-image"); connected || err != nil {
		t.Errorf("a handle: connected %t, %v", connected, err)
	}
	// A static volume of ceph-csi that this node has mapped, until it is disconnected.
	if err := c.records.write(record{ID: noHandle, Image: "rbd/img"}); err != nil {
		t.Fatal(err)
	}
	if _, connected, err := c.Locate(t.Context(), noHandle); connected || err != nil {
		t.Errorf("with a record: connected %t, %v", connected, err)
	}
	if err := c.Disconnect(t.Context(), noHandle); err != nil {
		t.Error(err)
	}
}

// A volume that ceph-csi has staged can be expanded and unstaged without a record.
func TestVolumeOfCephCSIIsFoundByItsHandle(t *testing.T) {
	const uuid = "a6bf0a0b-4f4b-4f39-9c02-5f1c3a1f6f33"
	const id = "0001-0001-a-0000000000000003-" + uuid
	m := newFakeMachine(t)
	m.imageIDs["rbd/csi-vol-"+uuid] = "77"
	if err := m.mapImage("10.0.0.1:6789 name=admin,secret=x rbd csi-vol-" + uuid + " -"); err != nil {
		t.Fatal(err)
	}
	c := m.newConnector(t.TempDir(), nil)
	const inOtherPool = "0001-0001-a-0000000000000004-" + uuid
	if _, connected, err := c.Locate(t.Context(), inOtherPool); connected || err != nil {
		t.Errorf("a volume of another pool: connected %t, %v", connected, err)
	}
	conn, connected, err := c.Locate(t.Context(), id)
	if err != nil || !connected || conn.Path != "/dev/rbd0" {
		t.Fatalf("%+v, connected %t, %v", conn, connected, err)
	}
	req := volume.ConnectRequest{ID: id, VolumeContext: map[string]string{
		rbdcsi.ParameterPool: "rbd", rbdcsi.ParameterImageName: "csi-vol-" + uuid,
	}}
	if again := mustConnect(t, c, req); again.Path != conn.Path || m.addCount() != 0 {
		t.Errorf("%s after %d mappings, want %s without any", again.Path, m.addCount(), conn.Path)
	}
	if err := c.Disconnect(t.Context(), id); err != nil {
		t.Error(err)
	}
	m.wantMapped()
}

// fakeRecorder implements Recorder.
type fakeRecorder struct {
	err      error
	mapped   map[string]string
	unmapped []string
	// detached, unless nil, reports whether the volume is detached at that check, from 1.
	detached func(check int) bool
	checks   int
	checkErr error // of the checks from the second
}

func (r *fakeRecorder) CheckAttached(context.Context, string) error {
	r.checks++
	if r.detached != nil && r.detached(r.checks) {
		return volume.Errorf(volume.KindPrecondition, "detached")
	}
	if r.checks > 1 {
		return r.checkErr
	}
	return nil
}

func (r *fakeRecorder) Mapped(_ context.Context, id, fsid, client string) error {
	if r.err == nil {
		r.mapped[id] = fsid + " " + client
	}
	return r.err
}

func (r *fakeRecorder) Unmapped(_ context.Context, id string) error {
	if r.err == nil {
		r.unmapped = append(r.unmapped, id)
	}
	return r.err
}

func TestClientIsRecordedBeforeConnectSucceeds(t *testing.T) {
	m := newFakeMachine(t)
	r := &fakeRecorder{mapped: map[string]string{}, err: errors.New("no API server")}
	c := m.newConnector(t.TempDir(), func(o *Options) { o.Recorder = r })
	_, err := c.Connect(t.Context(), published())
	volumetest.WantKind(t, err, volume.KindUnavailable)
	r.err = nil
	mustConnect(t, c, published())
	if want := fakeFSID + " " + m.client; r.mapped[volumeID] != want || m.addCount() != 1 {
		t.Errorf("recorded %v after %d mappings, want %s", r.mapped, m.addCount(), want)
	}
	r.err = errors.New("no API server")
	err = c.Disconnect(t.Context(), volumeID)
	volumetest.WantKind(t, err, volume.KindUnavailable)
	m.wantMapped()
	r.err = nil
	for range 2 {
		if err := c.Disconnect(t.Context(), volumeID); err != nil {
			t.Error(err)
		}
	}
	if len(r.unmapped) != 1 {
		t.Errorf("Unmapped was called for %v, want once", r.unmapped)
	}
	wantNoRecords(t, c)
}

// A node that comes back after its volume was given to another node maps nothing, although the
// volume's publish context is still at hand.
func TestDetachedVolumeIsNotMapped(t *testing.T) {
	m := newFakeMachine(t)
	r := &fakeRecorder{mapped: map[string]string{}, detached: func(int) bool { return true }}
	c := m.newConnector(t.TempDir(), func(o *Options) { o.Recorder = r })
	_, err := c.Connect(t.Context(), published())
	volumetest.WantKind(t, err, volume.KindPrecondition, "detached")
	m.wantMapped()
	if m.addCount() != 0 || len(r.mapped) != 0 {
		t.Errorf("mapped %d times and recorded %v, want nothing", m.addCount(), r.mapped)
	}
	wantNoRecords(t, c)
}

// A volume that is detached while it is mapped is unmapped, and the record says so.
func TestVolumeThatIsDetachedMeanwhileIsUnmapped(t *testing.T) {
	m := newFakeMachine(t)
	r := &fakeRecorder{mapped: map[string]string{}, detached: func(check int) bool { return check > 1 }}
	c := m.newConnector(t.TempDir(), func(o *Options) { o.Recorder = r })
	_, err := c.Connect(t.Context(), published())
	volumetest.WantKind(t, err, volume.KindPrecondition, "detached")
	m.wantMapped()
	if m.addCount() != 1 || len(r.mapped) != 1 || !slices.Equal(r.unmapped, []string{volumeID}) {
		t.Errorf("mapped %d times, recorded %v and %v; want the mapping and its end", m.addCount(), r.mapped, r.unmapped)
	}
	wantNoRecords(t, c)
}

// While the API server does not answer, nothing proves that the volume is detached: the mapping
// stays for the retry.
func TestMappingStaysIfItsAttachmentCannotBeRead(t *testing.T) {
	m := newFakeMachine(t)
	r := &fakeRecorder{mapped: map[string]string{}, checkErr: volume.Errorf(volume.KindUnavailable, "no API server")}
	c := m.newConnector(t.TempDir(), func(o *Options) { o.Recorder = r })
	_, err := c.Connect(t.Context(), published())
	volumetest.WantKind(t, err, volume.KindUnavailable, "no API server")
	if len(r.unmapped) != 0 || len(r.mapped) != 1 {
		t.Errorf("recorded %v and %v, want the mapping only", r.mapped, r.unmapped)
	}
	r.checkErr = nil
	mustConnect(t, c, published())
	if m.addCount() != 1 {
		t.Errorf("mapped %d times, want once", m.addCount())
	}
}

// A mapping that is in use stays: nothing proves that the data may be lost.
func TestDetachedVolumeInUseStaysMapped(t *testing.T) {
	m := newFakeMachine(t)
	r := &fakeRecorder{mapped: map[string]string{}}
	c := m.newConnector(t.TempDir(), func(o *Options) { o.Recorder = r })
	mustConnect(t, c, published())
	r.detached = func(int) bool { return true }
	_, err := c.Connect(t.Context(), published())
	volumetest.WantKind(t, err, volume.KindPrecondition, "detached")
	if len(r.unmapped) != 0 {
		t.Errorf("unmapped %v, want the mapping unchanged", r.unmapped)
	}
}
