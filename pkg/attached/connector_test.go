package attached

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
)

func TestConnectFindsTheDiskOnEveryBus(t *testing.T) {
	for _, c := range []struct {
		kind   blockdev.Kind
		serial string
	}{
		{blockdev.KindVirtioBlk, uuid[:20]}, {blockdev.KindSCSI, uuid}, {blockdev.KindSCSI, uuid[:20]}, {blockdev.KindNVMe, uuid[:20]},
	} {
		m := &fakeMachine{}
		m.plug("root", c.kind, "", 20*volume.GiB)
		m.plug("other", c.kind, otherUUID[:20], 20*volume.GiB)
		m.plug("loop0", blockdev.KindLoop, uuid, volume.GiB) // whatever it shows, nobody has plugged it in
		m.plug("mine", c.kind, c.serial, volume.GiB)
		connector := newConnector(t, m)
		conn, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid})
		if err != nil || conn.Path != "/dev/mine" {
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

// What is published decides what the disk must have: see volume.DeviceSize.
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
		{"of cinder-csi", map[string]string{cindercsi.ContextDevicePath: "/dev/vdz"}, volume.Connection{MaxOverhead: 32 * volume.MiB}},
		{"plain", map[string]string{cindercsi.ContextSize: gib3, cindercsi.ContextDevicePath: "/dev/vdz"}, volume.Connection{Size: 3 * volume.GiB, PublishedSize: 3 * volume.GiB}},
		{"encrypted", map[string]string{cindercsi.ContextSize: gib3, cindercsi.ContextEncrypted: "true"}, volume.Connection{Size: 3 * volume.GiB, PublishedSize: 3 * volume.GiB, MaxOverhead: 32 * volume.MiB, Encrypted: true}},
		{"not encrypted", map[string]string{cindercsi.ContextSize: gib3, cindercsi.ContextEncrypted: "false"}, volume.Connection{Size: 3 * volume.GiB, PublishedSize: 3 * volume.GiB}},
	} {
		c.want.Path, c.want.Granularity, c.want.ShortRemedy = "/dev/vda", volume.GiB, shortRemedy
		if got, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid, PublishContext: c.publish}); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v\nwant %+v", c.name, got, err, c.want)
		}
	}
	for _, size := range []string{"", "0", "-1", "1Gi", "99999999999999999999"} {
		_, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid, PublishContext: map[string]string{cindercsi.ContextSize: size}})
		wantError(t, err, volume.KindInvalid, cindercsi.ContextSize)
	}
	// The node does not see the context when it expands: it reckons with a header.
	conn, _, err := connector.Locate(t.Context(), uuid)
	if err != nil || conn.DeviceSize(3*volume.GiB) != 3*volume.GiB-32*volume.MiB || conn.DeviceSize(3*volume.GiB+1) <= 3*volume.GiB || conn.ShortRemedy == "" {
		t.Errorf("located %+v, %v", conn, err)
	}
}

// An id that Cinder cannot have given is nobody's, whatever a disk shows.
func TestIDsThatAreNone(t *testing.T) {
	m := &fakeMachine{}
	for i, id := range []string{"QM00001", uuid[:20], uuid + "0", "../../etc/passwd", "d25f9882-eb5a-41ea-8d0c-7a1f0c0a9dxx"} {
		d := m.plug(fmt.Sprint("vd", i), blockdev.KindSCSI, id, volume.GiB)
		connector := newConnector(t, m)
		_, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: id})
		wantError(t, err, volume.KindNotFound, "UUID")
		_, ok, err := connector.Locate(t.Context(), id)
		wantError(t, err, volume.KindNotFound, "UUID")
		wantError(t, connector.Verify(t.Context(), id, d.Path), volume.KindPrecondition, d.Path)
		if err := connector.Disconnect(t.Context(), id); ok || err != nil || d.flushed != 0 {
			t.Errorf("%q: connected %t, %v, flushed %d times", id, ok, err, d.flushed)
		}
	}
	for _, connect := range []func(c *Connector) error{
		func(c *Connector) error {
			_, err := c.Connect(t.Context(), volume.ConnectRequest{})
			return err
		},
		func(c *Connector) error {
			_, _, err := c.Locate(t.Context(), "")
			return err
		},
	} {
		wantError(t, connect(newConnector(t, m)), volume.KindInvalid, "empty")
	}
}

// A hot-plug takes its time: first no disk, then one without a size, then one
// without a device node.
func TestConnectWaits(t *testing.T) {
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
			t.Errorf("%+v, %v after %d looks", conn, err, m.listings)
		}
		if took := time.Since(started); took > time.Second {
			t.Errorf("a quick hot-plug was waited for %s", took)
		}
	})
}

func TestConnectScansGently(t *testing.T) {
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
		synctest.Wait() // nobody waits for a scan
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
			wantError(t, <-done, volume.KindDeadline)
		}
		synctest.Wait() // one may have begun with the last look
		if m.scans > 8 {
			t.Errorf("%d scans in %s", m.scans, time.Since(started))
		}
	})
}

func TestConnectDeadline(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(m *fakeMachine)
		words   []string
	}{
		"no disk at all": {func(*fakeMachine) {}, []string{uuid, uuid[:20], "disks seen: none", "VolumeAttachment"}},
		"other disks": {func(m *fakeMachine) {
			m.plug("vda", blockdev.KindVirtioBlk, "", volume.GiB)
			m.plug("sda", blockdev.KindSCSI, otherUUID, volume.GiB)
		}, []string{`/dev/vda (virtio-blk, serial "")`, `/dev/sda (scsi, serial "` + otherUUID + `")`, "hypervisor hides", "SCSI hosts"}},
		"many disks": {func(m *fakeMachine) {
			for i := range 40 {
				m.plug(fmt.Sprint("vd", i), blockdev.KindVirtioBlk, "x", volume.GiB)
			}
		}, []string{"and 24 more"}},
		"a disk without a size": {func(m *fakeMachine) { m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], 0) }, []string{"/dev/vdb", "no size", "detach"}},
		"a disk without a node": {func(m *fakeMachine) {
			m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB).sizeErr = volume.Errorf(volume.KindInternal, "its device node is missing").WithRemedy("mount devtmpfs")
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
				wantError(t, err, volume.KindDeadline, append(c.words, uuid, "next step")...)
				synctest.Wait() // for the last look
				if m.listings > 100 {
					t.Errorf("looked %d times in a minute", m.listings)
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

func TestConnectCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := newConnector(t, &fakeMachine{}).Connect(ctx, volume.ConnectRequest{ID: uuid})
	wantError(t, err, volume.KindCanceled)
}

func TestConnectWithoutSysfs(t *testing.T) {
	m := &fakeMachine{listErr: volume.Errorf(volume.KindInternal, "list the disks")}
	_, err := newConnector(t, m).Connect(t.Context(), volume.ConnectRequest{ID: uuid})
	wantError(t, err, volume.KindInternal, "list the disks")
}

// A hung disk keeps nobody from the others, and costs one reading.
func TestAHungDiskIsInNobodysWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		hung := m.plug("vda", blockdev.KindVirtioBlk, "", volume.GiB)
		hung.holdSerial = make(chan struct{})
		m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		started := time.Now()
		for range 3 {
			conn, err := newConnector(t, m).Connect(t.Context(), volume.ConnectRequest{ID: uuid})
			if err != nil || conn.Path != "/dev/vdb" {
				t.Errorf("%+v, %v", conn, err)
			}
		}
		if took := time.Since(started); took > 3*serialTimeout {
			t.Errorf("took %s", took)
		}
		close(hung.holdSerial)
	})
}

// Silent disks are waited for side by side.
func TestManySilentDisksTakeNoLongerThanOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		for i := range 10 {
			m.plug(fmt.Sprint("vd", i), blockdev.KindVirtioBlk, "", volume.GiB).holdSerial = make(chan struct{})
		}
		m.plug("vdz", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		connector := newConnector(t, m)
		started := time.Now()
		conn, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid})
		if took := time.Since(started); err != nil || conn.Path != "/dev/vdz" || took > serialTimeout {
			t.Errorf("%+v, %v after %s", conn, err, took)
		}
		// A call that has less time than that ends with it.
		m.unplug("vdz")
		ctx, cancel := context.WithTimeout(t.Context(), serialTimeout/2)
		defer cancel()
		started = time.Now()
		_, _, err = connector.Locate(ctx, uuid)
		wantError(t, err, volume.KindDeadline, "/dev/vd0", "/dev/vd9")
		if took := time.Since(started); took > serialTimeout/2 {
			t.Errorf("took %s of %s", took, serialTimeout/2)
		}
		for _, d := range m.disks {
			close(d.holdSerial)
		}
	})
}

// "Not plugged in" is a reading: a disk that is slow to answer may be the
// volume, and whoever takes it for gone would not flush it.
func TestASlowDiskIsNotAMissingOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		slow := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		slow.holdSerial = make(chan struct{})
		connector := newConnector(t, m)
		_, ok, err := connector.Locate(t.Context(), uuid)
		wantError(t, err, volume.KindDeadline, "/dev/vdb", "not answer")
		if ok {
			t.Error("connected")
		}
		wantError(t, connector.Disconnect(t.Context(), uuid), volume.KindDeadline, "/dev/vdb")
		close(slow.holdSerial)
		if _, ok, err := connector.Locate(t.Context(), uuid); err != nil || !ok {
			t.Errorf("%t, %v", ok, err)
		}
		// One that is known is not kept from anything by one that hangs.
		other := m.plug("vdc", blockdev.KindVirtioBlk, "", volume.GiB)
		other.holdSerial = make(chan struct{})
		if _, ok, err := connector.Locate(t.Context(), uuid); err != nil || !ok {
			t.Errorf("%t, %v", ok, err)
		}
		if err := connector.Disconnect(t.Context(), uuid); err != nil || slow.flushed != 1 {
			t.Errorf("%v, flushed %d times", err, slow.flushed)
		}
		close(other.holdSerial)
	})
}

// Two disks with the volume's serial are never a choice, unless one of them is
// the volume's old disk, which goes.
func TestConnectNeverGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		m.plug("vdc", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		connector := newConnector(t, m)
		_, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid})
		wantError(t, err, volume.KindPrecondition, "/dev/vdb", "/dev/vdc", "20 characters")
		_, _, err = connector.Locate(t.Context(), uuid)
		wantError(t, err, volume.KindPrecondition, "/dev/vdb", "/dev/vdc")
		wantError(t, connector.Disconnect(t.Context(), uuid), volume.KindPrecondition, "/dev/vdb", "/dev/vdc")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = connector.Connect(ctx, volume.ConnectRequest{ID: uuid})
		wantError(t, err, volume.KindDeadline, "/dev/vdc", "several disks", "on its way out") // not "no disk"

		time.AfterFunc(time.Second, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.unplug("vdb")
		})
		conn, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid})
		if err != nil || conn.Path != "/dev/vdc" {
			t.Errorf("plugged in anew: %+v, %v", conn, err)
		}
		// One without a size is no rival, in whatever order they are.
		m.plug("vdd", blockdev.KindVirtioBlk, uuid[:20], 0)
		if conn, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid}); err != nil || conn.Path != "/dev/vdc" {
			t.Errorf("%+v, %v", conn, err)
		}
		slices.Reverse(m.disks)
		if conn, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid}); err != nil || conn.Path != "/dev/vdc" {
			t.Errorf("%+v, %v", conn, err)
		}
	})
}

// The old disk of a volume that was plugged in anew may take its time to go,
// whoever looks for the disk.
func TestTwoDisksOfOneSerialSettle(t *testing.T) {
	for name, call := range map[string]func(ctx context.Context, c *Connector) error{
		"connect": func(ctx context.Context, c *Connector) error {
			conn, err := c.Connect(ctx, volume.ConnectRequest{ID: uuid})
			if err == nil && conn.Path != "/dev/vdc" {
				err = fmt.Errorf("connected %s", conn.Path)
			}
			return err
		},
		"locate": func(ctx context.Context, c *Connector) error {
			conn, ok, err := c.Locate(ctx, uuid)
			if err == nil && (!ok || conn.Path != "/dev/vdc") {
				err = fmt.Errorf("located %s, %t", conn.Path, ok)
			}
			return err
		},
		"disconnect": func(ctx context.Context, c *Connector) error { return c.Disconnect(ctx, uuid) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &fakeMachine{}
				m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
				m.plug("vdc", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
				connector := newConnector(t, m)
				// A call that has less time than a disk has to go knows nothing for good.
				ctx, cancel := context.WithTimeout(t.Context(), settleGrace/2)
				defer cancel()
				wantError(t, call(ctx, connector), volume.KindDeadline, "/dev/vdb", "/dev/vdc", "next step")
				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(settleGrace/2, cancel)
				wantError(t, call(ctx, connector), volume.KindCanceled, "/dev/vdb", "/dev/vdc")
				// Two that stay want a person.
				started := time.Now()
				wantError(t, call(t.Context(), connector), volume.KindPrecondition, "/dev/vdb", "/dev/vdc", "detach the other")
				if took := time.Since(started); took < settleGrace || took > settleGrace+2*maxPollInterval {
					t.Errorf("judged after %s", took)
				}
				time.AfterFunc(settleGrace-maxPollInterval, func() {
					m.mu.Lock()
					defer m.mu.Unlock()
					m.unplug("vdb")
				})
				if err := call(t.Context(), connector); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A rival that has become slow is still there: the other disk is no clear case
// before it has answered, or gone.
func TestASlowRivalIsNotAGoneOne(t *testing.T) {
	for name, c := range map[string]struct {
		after  func(m *fakeMachine, rival *fakeDisk) // some looks that it did not answer
		chosen bool
	}{
		"stays": {func(*fakeMachine, *fakeDisk) {}, false},
		"goes":  {func(m *fakeMachine, _ *fakeDisk) { m.unplug("vdb") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &fakeMachine{}
				rival := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
				m.plug("vdc", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
				m.onList = func(m *fakeMachine) {
					switch m.listings {
					case 2:
						rival.holdSerial = make(chan struct{})
					case 3:
						c.after(m, rival)
					}
				}
				conn, err := newConnector(t, m).Connect(t.Context(), volume.ConnectRequest{ID: uuid})
				if c.chosen {
					if err != nil || conn.Path != "/dev/vdc" {
						t.Errorf("%+v, %v", conn, err)
					}
				} else {
					wantError(t, err, volume.KindPrecondition, "/dev/vdb", "/dev/vdc")
				}
				close(rival.holdSerial)
			})
		})
	}
}

func TestReadOnly(t *testing.T) {
	m := &fakeMachine{}
	d := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
	connector := newConnector(t, m)
	for _, want := range []bool{true, true, false} { // the last one after a crash that left the mark
		if _, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid, ReadOnly: want}); err != nil || d.readOnly != want {
			t.Errorf("read-only %t, %v; want %t", d.readOnly, err, want)
		}
	}
	d.ignoresReadOnly = true
	_, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid, ReadOnly: true})
	wantError(t, err, volume.KindInternal, "writable")
	d.readOnly = true // by the hypervisor: not for us to refuse
	if _, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid}); err != nil {
		t.Error(err)
	}
}

func TestVerify(t *testing.T) {
	m := &fakeMachine{}
	m.plug("vda", blockdev.KindVirtioBlk, otherUUID[:20], volume.GiB)
	m.plug("vdb", blockdev.KindVirtioBlk, "", volume.GiB)
	m.plug("loop0", blockdev.KindLoop, uuid, volume.GiB)
	connector := newConnector(t, m)
	for path, c := range map[string]struct {
		kind volume.Kind
		word string
	}{
		"/dev/vda": {volume.KindPrecondition, otherUUID[:20]}, "/dev/vdb": {volume.KindPrecondition, "no serial"}, "/dev/loop0": {volume.KindPrecondition, "loop"},
		"/dev/gone": {volume.KindInternal, "no such device"},
	} {
		err := connector.Verify(t.Context(), uuid, path)
		wantError(t, err, c.kind, c.word, uuid)
		// Only a disk that the kernel does not have is gone; a foreign one never is,
		// whatever volume is asked for.
		for _, id := range []string{uuid, "no-volume-of-cinder", ""} {
			err := connector.Verify(t.Context(), id, path)
			if err == nil || errors.Is(err, volume.ErrGone) != (path == "/dev/gone") {
				t.Errorf("volume %q on %s: %v", id, path, err)
			}
		}
	}
}

// A disk that is pulled out while its serial is read shows an empty one.
func TestVerifyOfADiskThatGoes(t *testing.T) {
	m := &fakeMachine{}
	d := m.plug("vdb", blockdev.KindVirtioBlk, "", volume.GiB)
	m.onSerial = func(m *fakeMachine) { m.unplug("vdb") }
	err := newConnector(t, m).Verify(t.Context(), uuid, d.Path)
	wantError(t, err, volume.KindInternal, "no such device")
	if !errors.Is(err, volume.ErrGone) {
		t.Errorf("%v does not say that the disk is gone", err)
	}
}

// A disk that hangs is asked again and again, by the retries of kubelet: that costs
// one thread and not one per call. Once it answers, Verify reads anew.
func TestVerifyOfASilentDiskCostsOneThread(t *testing.T) {
	m := &fakeMachine{}
	d := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
	m.plug("vdc", blockdev.KindVirtioBlk, otherUUID[:20], volume.GiB)
	d.holdSerial = make(chan struct{})
	var serials atomic.Int64
	m.onSerial = func(*fakeMachine) { serials.Add(1) }
	connector := newConnector(t, m)
	before := runtime.NumGoroutine()
	for range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		wantError(t, connector.Verify(ctx, uuid, d.Path), volume.KindDeadline, "does not answer", d.Path)
		cancel()
	}
	if more := runtime.NumGoroutine() - before; more > 2 {
		t.Errorf("50 calls left %d goroutines, want 2 at most", more)
	}
	if err := connector.Verify(t.Context(), otherUUID, "/dev/vdc"); err != nil {
		t.Errorf("another disk: %v", err)
	}
	before = int(serials.Load())
	close(d.holdSerial)
	if err := connector.Verify(t.Context(), uuid, d.Path); err != nil {
		t.Errorf("the disk answers again: %v", err)
	}
	if n := int(serials.Load()) - before; n != 2 {
		t.Errorf("%d readings, want 2: the one that hung, and one for the last call", n)
	}
}

// A disk that does not answer proves nothing, and keeps nobody longer than the
// call lasts.
func TestVerifyOfASilentDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		d := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		d.holdSerial = make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := newConnector(t, m).Verify(ctx, uuid, d.Path)
		wantError(t, err, volume.KindDeadline)
		if errors.Is(err, volume.ErrGone) {
			t.Errorf("a disk that does not answer passes for gone: %v", err)
		}
		close(d.holdSerial)
	})
}

func TestLocate(t *testing.T) {
	m := &fakeMachine{}
	connector := newConnector(t, m)
	if _, ok, err := connector.Locate(t.Context(), uuid); ok || err != nil {
		t.Errorf("not plugged in: %t, %v", ok, err)
	}
	d := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], 0)
	if _, ok, err := connector.Locate(t.Context(), uuid); ok || err != nil {
		t.Errorf("on its way out: %t, %v", ok, err)
	}
	d.sizeErr = errHardware
	if _, ok, err := connector.Locate(t.Context(), uuid); ok || err == nil {
		t.Errorf("unusable: %t, %v", ok, err)
	}
}

func TestDisconnect(t *testing.T) {
	m := &fakeMachine{}
	connector := newConnector(t, m)
	for _, id := range []string{"", uuid} {
		if err := connector.Disconnect(t.Context(), id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	d := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
	if err := connector.Disconnect(t.Context(), uuid); err != nil || d.flushed != 1 {
		t.Errorf("%v, flushed %d times", err, d.flushed)
	}
	d.flushErr = volume.Errorf(volume.KindPrecondition, "in use by dm-0")
	wantError(t, connector.Disconnect(t.Context(), uuid), volume.KindPrecondition, "dm-0", uuid)
	// An error of a disk that stays is about the disk; one of a disk that goes
	// is its end.
	d.flushErr = volume.Errorf(volume.KindInternal, "flush: %w", unix.EIO)
	wantError(t, connector.Disconnect(t.Context(), uuid), volume.KindInternal, "flush")
	m.onFlush = func(m *fakeMachine) { m.unplug("vdb") }
	if err := connector.Disconnect(t.Context(), uuid); err != nil {
		t.Error(err)
	}
	d = m.plug("vdc", blockdev.KindVirtioBlk, uuid[:20], 0)
	if err := connector.Disconnect(t.Context(), uuid); err != nil || d.flushed != 0 {
		t.Errorf("on its way out: %v, flushed %d times", err, d.flushed)
	}
}

// A flush that takes longer than its call keeps the disk for itself. The retry,
// and a new use of the volume, wait for it instead of finding the disk in use.
func TestFlushOutlivesItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		d := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		d.holdFlush = make(chan struct{})
		m.plug("vdc", blockdev.KindVirtioBlk, otherUUID[:20], volume.GiB)
		connector := newConnector(t, m)
		call := func(what func(ctx context.Context) error) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			started := time.Now()
			err := what(ctx)
			if took := time.Since(started); took > time.Second {
				t.Errorf("a call of 1s took %s", took)
			}
			return err
		}
		disconnect := func(ctx context.Context) error { return connector.Disconnect(ctx, uuid) }
		connect := func(ctx context.Context) error {
			_, err := connector.Connect(ctx, volume.ConnectRequest{ID: uuid})
			return err
		}
		wantError(t, call(disconnect), volume.KindDeadline, "flushing /dev/vdb", uuid)
		wantError(t, call(disconnect), volume.KindDeadline, "earlier operation", "next step", uuid)
		wantError(t, call(connect), volume.KindDeadline, "earlier operation", uuid)
		// Another volume is in nobody's way.
		if err := connector.Disconnect(t.Context(), otherUUID); err != nil {
			t.Error(err)
		}
		time.AfterFunc(time.Second/2, func() { close(d.holdFlush) })
		// What was written since the first flush began is flushed as well.
		if err := call(disconnect); err != nil || d.flushed != 2 {
			t.Errorf("%v, flushed %d times, want 2", err, d.flushed)
		}
		if err := call(connect); err != nil {
			t.Error(err)
		}
	})
}

// A call that was given up never changes the disk of a later one.
func TestReadOnlyOutlivesItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		d := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		d.holdFlush = make(chan struct{})
		connector := newConnector(t, m)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := connector.Connect(ctx, volume.ConnectRequest{ID: uuid, ReadOnly: true})
		wantError(t, err, volume.KindDeadline, "/dev/vdb", "read-only")
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

func TestNode(t *testing.T) {
	if info, err := newConnector(t, &fakeMachine{}).Node(t.Context()); err != nil || info.MaxVolumes != 7 {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := New(Options{}); !volume.IsKind(err, volume.KindInvalid) {
		t.Errorf("%v", err)
	}
}

// Whatever the id and the serials are: no panic, and a disk is found only if
// its serial is the id, or the 20 characters of it that its bus can show.
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

// checkConnect looks for the volume of this id among disks with these serials.
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
