package attached

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestConnectFindsTheDiskOnEveryBus(t *testing.T) {
	for _, c := range []struct {
		kind   blockdev.Kind
		serial string
	}{
		{blockdev.KindVirtioBlk, uuid[:20]}, {blockdev.KindSCSI, uuid}, {blockdev.KindSCSI, uuid[:20]}, {
			blockdev.KindNVMe, uuid[:20],
		},
	} {
		m := &fakeMachine{}
		m.plug("root", c.kind, "", 20*volume.GiB)
		m.plug("other", c.kind, otherUUID[:20], 20*volume.GiB)
		m.plug("loop0", blockdev.KindLoop, uuid, volume.GiB) // a hypervisor plugs in no loop device
		m.plug("own", c.kind, c.serial, volume.GiB)
		connector := newConnector(t, m)
		conn, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid})
		if err != nil || conn.Path != "/dev/own" {
			t.Errorf("%s, serial %q: %+v, %v", c.kind, c.serial, conn, err)
		}
		if err := connector.Verify(t.Context(), uuid, conn.Path); err != nil {
			t.Error(err)
		}
		if located, ok, err := connector.Locate(t.Context(), uuid); err != nil || !ok || located.Path != conn.Path {
			t.Errorf("located %+v, %t, %v", located, ok, err)
		}
	}
}

// The publish context decides which size the disk must have; see volume.Connection.DeviceSize.
func TestConnectReadsThePublishContext(t *testing.T) {
	m := &fakeMachine{}
	m.plug("vda", blockdev.KindVirtioBlk, uuid[:20], 3*volume.GiB)
	connector := newConnector(t, m)
	gib3 := fmt.Sprint((3 * volume.GiB).Bytes())
	for _, c := range []struct {
		name    string
		publish map[string]string
		want    volume.Connection
	}{
		{
			"of cinder-csi",
			map[string]string{cindercsi.ContextDevicePath: "/dev/vdz"},
			volume.Connection{MaxOverhead: 32 * volume.MiB},
		},
		{
			"plain",
			map[string]string{cindercsi.ContextSize: gib3, cindercsi.ContextDevicePath: "/dev/vdz"},
			volume.Connection{Size: 3 * volume.GiB, PublishedSize: 3 * volume.GiB},
		},
		{
			"encrypted",
			map[string]string{cindercsi.ContextSize: gib3, cindercsi.ContextEncrypted: "true"},
			volume.Connection{
				Size: 3 * volume.GiB, PublishedSize: 3 * volume.GiB, MaxOverhead: 32 * volume.MiB, Encrypted: true,
			},
		},
		{
			"not encrypted",
			map[string]string{cindercsi.ContextSize: gib3, cindercsi.ContextEncrypted: "false"},
			volume.Connection{Size: 3 * volume.GiB, PublishedSize: 3 * volume.GiB},
		},
	} {
		c.want.Path, c.want.Granularity, c.want.ShortRemedy = "/dev/vda", volume.GiB, shortRemedy
		req := volume.ConnectRequest{ID: uuid, PublishContext: c.publish}
		if got, err := connector.Connect(t.Context(), req); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v\nwant %+v", c.name, got, err, c.want)
		}
	}
	for _, size := range []string{"", "0", "-1", "1Gi", "99999999999999999999"} {
		_, err := connector.Connect(
			t.Context(), volume.ConnectRequest{ID: uuid, PublishContext: map[string]string{cindercsi.ContextSize: size}},
		)
		volumetest.WantKind(t, err, volume.KindInvalid, cindercsi.ContextSize)
	}
	// The node does not see the context when it expands: it reckons with a header.
	conn, _, err := connector.Locate(t.Context(), uuid)
	if err != nil || conn.MinDeviceSize(3*volume.GiB) != 3*volume.GiB-32*volume.MiB ||
		conn.MinDeviceSize(3*volume.GiB+1) <= 3*volume.GiB || conn.ShortRemedy == "" {
		t.Errorf("located %+v, %v", conn, err)
	}
}

// A hot-plug has steps: first there is no disk, then one without a size, then one without a device
// node.
func TestConnectWaitsUntilTheDiskIsUsable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		var d *fakeDisk
		m.onList = func(m *fakeMachine) {
			switch m.listings {
			case 3:
				d = m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], 0)
			case 4:
				d.size, d.sizeErr = volume.GiB, os.ErrNotExist
			case 6:
				d.sizeErr = nil
			}
		}
		started := time.Now()
		conn, err := newConnector(t, m).Connect(t.Context(), volume.ConnectRequest{ID: uuid})
		if err != nil || conn.Path != "/dev/vdb" || m.listings != 6 {
			t.Errorf("%+v, %v after %d listings", conn, err, m.listings)
		}
		if took := time.Since(started); took > time.Second {
			t.Errorf("a quick hot-plug was waited for %s", took)
		}
	})
}

func TestConcurrentConnectsShareTheirScans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		m.onScan = func(m *fakeMachine) {
			if m.scans == 2 {
				m.plug("sdb", blockdev.KindSCSI, uuid, volume.GiB)
			}
		}
		connector := newConnector(t, m)
		started := time.Now()
		if _, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid}); err != nil {
			t.Fatal(err)
		}
		took := time.Since(started)
		synctest.Wait() // no call waits for a scan
		if m.scans != 2 || took < firstScanDelay+scanInterval || took > firstScanDelay+scanInterval+5*time.Second {
			t.Errorf("found after %s and %d scans", took, m.scans)
		}
		// Waits for several volumes share their scans.
		ctx, cancel := context.WithTimeout(t.Context(), 5*scanInterval)
		defer cancel()
		done := make(chan error)
		for range 5 {
			go func() {
				_, err := connector.Connect(ctx, volume.ConnectRequest{ID: otherUUID})
				done <- err
			}()
		}
		for range 5 {
			volumetest.WantKind(t, <-done, volume.KindDeadline)
		}
		synctest.Wait() // one may have begun with the last listing
		if m.scans > 8 {
			t.Errorf("%d scans in %s", m.scans, time.Since(started))
		}
	})
}

func TestConnectNamesWhatItFoundAtTheDeadline(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(m *fakeMachine)
		words   []string
	}{
		"no disk at all": {func(*fakeMachine) {}, []string{uuid, uuid[:20], "disks seen: none", "VolumeAttachment"}},
		"other disks": {func(m *fakeMachine) {
			m.plug("vda", blockdev.KindVirtioBlk, "", volume.GiB)
			m.plug("sda", blockdev.KindSCSI, otherUUID, volume.GiB)
		}, []string{
			`/dev/vda (virtio-blk, serial "")`, `/dev/sda (scsi, serial "` + otherUUID + `")`, "hypervisor hides", "SCSI hosts",
		}},
		"many disks": {func(m *fakeMachine) {
			for i := range 40 {
				m.plug(fmt.Sprint("vd", i), blockdev.KindVirtioBlk, "x", volume.GiB)
			}
		}, []string{"and 24 more"}},
		"a disk without a size": {
			func(m *fakeMachine) { m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], 0) },
			[]string{"/dev/vdb", "no size", "detach"},
		},
		"a disk without a node": {func(m *fakeMachine) {
			d := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
			d.sizeErr = volume.Errorf(volume.KindInternal, "its device node is missing").WithRemedy("mount devtmpfs")
		}, []string{"/dev/vdb", "node is missing", "next step: mount devtmpfs"}},
		"a disk that does not answer": {func(m *fakeMachine) {
			m.plug("vdb", blockdev.KindVirtioBlk, "", volume.GiB).holdSerial = make(chan struct{})
		}, []string{"/dev/vdb", "does not answer"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &fakeMachine{}
				c.prepare(m)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := newConnector(t, m).Connect(ctx, volume.ConnectRequest{ID: uuid})
				volumetest.WantKind(t, err, volume.KindDeadline, append(c.words, uuid, "next step")...)
				synctest.Wait() // for the last listing
				if m.listings > 100 {
					t.Errorf("%d listings in a minute", m.listings)
				}
				for _, d := range m.disks {
					if d.holdSerial != nil {
						close(d.holdSerial)
					}
				}
			})
		})
	}
}

func TestConnectEndsWhenCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := newConnector(t, &fakeMachine{}).Connect(ctx, volume.ConnectRequest{ID: uuid})
	volumetest.WantKind(t, err, volume.KindCanceled)
}

func TestConnectFailsWhenTheDisksCannotBeListed(t *testing.T) {
	m := &fakeMachine{listErr: volume.Errorf(volume.KindInternal, "list the disks")}
	_, err := newConnector(t, m).Connect(t.Context(), volume.ConnectRequest{ID: uuid})
	volumetest.WantKind(t, err, volume.KindInternal, "list the disks")
}

func TestConnectSetsTheReadOnlyMode(t *testing.T) {
	m := &fakeMachine{}
	d := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
	connector := newConnector(t, m)
	for _, want := range []bool{true, true, false} { // the last one after a crash that left the mark
		if _, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid, ReadOnly: want}); err != nil ||
			d.readOnly != want {
			t.Errorf("read-only %t, %v; want %t", d.readOnly, err, want)
		}
	}
	d.ignoresReadOnly = true
	_, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid, ReadOnly: true})
	volumetest.WantKind(t, err, volume.KindInternal, "writable")
	d.readOnly = true // by the hypervisor: not for us to refuse
	if _, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid}); err != nil {
		t.Error(err)
	}
}

// A call that has ended never changes the disk of a later one.
func TestDetachedReadOnlyChangeKeepsTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		d := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		d.holdFlush = make(chan struct{})
		connector := newConnector(t, m)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := connector.Connect(ctx, volume.ConnectRequest{ID: uuid, ReadOnly: true})
		volumetest.WantKind(t, err, volume.KindDeadline, "/dev/vdb", "read-only")
		time.AfterFunc(time.Second, func() { close(d.holdFlush) })
		if _, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if d.readOnly {
			t.Error("connected for writing, but read-only")
		}
	})
}

// FuzzConnect checks for any id and serials that nothing panics, and that a disk is found only if
// its serial is the id, or the 20 characters of it that the bus can show.
func FuzzConnect(f *testing.F) {
	f.Add(uuid, uuid[:20], uuid)
	f.Add("", "", "")
	f.Add("short", "short", "x")
	f.Add(uuid, " "+uuid[:20]+"\n", uuid[:20])
	f.Add(strings.ToUpper(uuid), uuid, uuid[:20])
	f.Add(uuid[:20], uuid, uuid[:20])
	f.Add("\x00\xff", "\x00", "%s")
	f.Fuzz(func(t *testing.T, id, a, b string) {
		synctest.Test(t, func(t *testing.T) { checkConnect(t, id, a, b) })
	})
}

// checkConnect connects the volume of this id among disks with these serials.
func checkConnect(t *testing.T, id, a, b string) {
	t.Helper()
	m := &fakeMachine{}
	m.plug("vda", blockdev.KindVirtioBlk, a, volume.GiB)
	m.plug("sda", blockdev.KindSCSI, b, volume.GiB)
	connector := newConnector(t, m)
	ctx, cancel := context.WithTimeout(t.Context(), minPollInterval)
	defer cancel()
	_, _ = connector.Connect(ctx, volume.ConnectRequest{ID: id})
	conn, ok, err := connector.Locate(t.Context(), id)
	if !volume.IsUUID(id) {
		if ok || err == nil {
			t.Errorf("%q is no id, but %+v, %t, %v", id, conn, ok, err)
		}
		return
	}
	shows := func(serial string) bool {
		serial = strings.TrimSpace(serial)
		return serial == id || len(serial) == 20 && strings.HasPrefix(id, serial)
	}
	switch both, either := shows(a) && shows(b), shows(a) || shows(b); {
	case both && err == nil, !both && err != nil, ok != (either && !both):
		t.Errorf("%q among %q and %q: %+v, %t, %v", id, a, b, conn, ok, err)
	case ok && (conn.Path == "/dev/vda") != shows(a):
		t.Errorf("%q among %q and %q: %s", id, a, b, conn.Path)
	}
	if ok != (connector.Verify(t.Context(), id, conn.Path) == nil) {
		t.Errorf("%q: verified otherwise than found", id)
	}
}
