//go:build ceph

package librbd

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file tests what only a real Ceph can show. The comparison of package fakeceph tests what the
// interface promises.

// wantErrno fails the test unless err wraps the errno.
func wantErrno(t *testing.T, err error, want unix.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mustCreate makes an image and opens it.
func mustCreate(t *testing.T, p *pool, name string, size uint64, o ceph.ImageOptions, readOnly bool) ceph.Image {
	t.Helper()
	check(t, p.Create(name, size, o))
	opened, err := p.Open(name, readOnly)
	check(t, err)
	t.Cleanup(func() { check(t, opened.Close()) })
	return opened
}

func TestConnectFailsInTime(t *testing.T) {
	config := rigConfig(t)
	wrongKey, wrongUser, malformed, unreachable := config, config, config, config
	wrongKey.Key = "AQDfUW9lAAAAABAAc2VjcmV0c2VjcmV0c2Vjcg=="
	wrongUser.User = "nobody"
	malformed.Key = "AQDfUW9lAAAAABAAc2VjcmV0c2VjcmV0cw=="
	unreachable.Monitors = []string{"127.0.0.1:1"}
	for name, c := range map[string]struct {
		config cluster.Cluster
		want   unix.Errno
	}{
		"wrong key": {wrongKey, unix.EACCES}, "wrong user": {wrongUser, unix.EACCES},
		"malformed key": {malformed, unix.EINVAL}, "no monitor": {unreachable, unix.ETIMEDOUT},
	} {
		start := time.Now()
		_, err := Dialer{}.Connect(c.config)
		wantErrno(t, err, c.want)
		if err == nil || strings.Contains(err.Error(), c.config.Key) {
			t.Errorf("%s: got %v, want an error without the key", name, err)
		}
		if duration := time.Since(start); duration > time.Minute {
			t.Errorf("%s: got the error %v after %s, want it within a minute", name, err, duration)
		}
		t.Logf("%s: %v after %s", name, err, time.Since(start))
	}
}

// A connection that fences a node when it breaks its lock, or that waits for ever, looks right
// until a node or the cluster does not answer: so the test reads back what Ceph has taken.
func TestConnectionIsSafeForNodesAndEnds(t *testing.T) {
	c := connect(t, rigConfig(t))
	read := func(name string) string {
		value, err := c.conn.GetConfigOption(name)
		check(t, err)
		return value
	}
	if got := read("rbd_blocklist_on_break_lock"); got != "false" {
		t.Errorf("rbd_blocklist_on_break_lock is %s, want false", got)
	}
	// A resize may take 28 s.
	for name, limits := range map[string][2]time.Duration{
		"rados_osd_op_timeout": {30 * time.Second, time.Minute},
		"rados_mon_op_timeout": {5 * time.Second, time.Minute},
		"client_mount_timeout": {5 * time.Second, 30 * time.Second},
	} {
		got, err := strconv.ParseFloat(read(name), 64)
		check(t, err)
		if d := time.Duration(got * float64(time.Second)); d < limits[0] || d > limits[1] {
			t.Errorf("%s is %s, want %s to %s", name, d, limits[0], limits[1])
		}
	}
}

// The largest number of metadata keys that are read by one operation is passed.
func TestMetadataOfManyKeys(t *testing.T) {
	p, prefix := testPool(t, connect(t, rigConfig(t)))
	check(t, p.Create(prefix+"a", 1<<30, layering()))
	id, err := p.ImageID(prefix + "a")
	check(t, err)
	const n = metadataPage + 100
	for i := range n {
		check(t, p.SetMetadata(id, fmt.Sprintf("key%d", i), fmt.Sprint(i)))
	}
	check(t, p.SetMetadata(id, "large", strings.Repeat("x", 64<<10)))
	got, err := p.Metadata(id)
	check(t, err)
	if len(got) != n+1 || got["key1100"] != "1100" || len(got["large"]) != 64<<10 {
		t.Errorf("got %d keys, key1100 = %q, a large value of %d bytes", len(got), got["key1100"], len(got["large"]))
	}
}

// Growing an image at the same time through several connections ends with the largest size: no call
// makes it smaller.
func TestConcurrentGrowthNeverShrinks(t *testing.T) {
	p, prefix := testPool(t, connect(t, rigConfig(t)))
	image := mustCreate(t, p, prefix+"a", 1<<30, layering(), false)
	var group sync.WaitGroup
	for n := range 8 {
		other, err := connect(t, rigConfig(t)).Pool("volumes", "")
		check(t, err)
		group.Go(func() {
			opened, err := other.Open(prefix+"a", false)
			if err != nil {
				t.Error(err)
				return
			}
			for step := range uint64(10) {
				size := 1<<30 + (step*8+uint64(n)+1)<<20 //nolint:gosec // a small number
				if err := opened.Grow(size); err != nil && !errors.Is(err, unix.EINVAL) {
					t.Error(err)
				}
				if got, err := opened.Size(); err != nil || got < size {
					t.Errorf("got %d bytes (%v) after growing to %d", got, err, size)
				}
			}
		})
	}
	group.Wait()
	if got, err := image.Size(); err != nil || got != 1<<30+80<<20 {
		t.Errorf("got %d bytes (%v), want %d", got, err, 1<<30+80<<20)
	}
}

// A client that has the image open, as the kernel of a node, is told of the growth.
func TestGrowTellsTheClients(t *testing.T) {
	p, prefix := testPool(t, connect(t, rigConfig(t)))
	grown := mustCreate(t, p, prefix+"a", 1<<30, layering(), false)
	opened, err := connect(t, rigConfig(t)).Pool("volumes", "")
	check(t, err)
	open, err := opened.Open(prefix+"a", false)
	check(t, err)
	other, err := open.(*image).open() //nolint:forcetypeassert,errcheck // of this package
	check(t, err)
	check(t, grown.Grow(2<<30))
	if size, err := other.GetSize(); err != nil || size != 2<<30 {
		t.Errorf("another client has the size %d (%v) when Grow has returned, want 2 GiB", size, err)
	}
	check(t, open.Close())
}

// An image with an object map grows through librbd, also while another client has it open.
func TestGrowWithObjectMap(t *testing.T) {
	p, prefix := testPool(t, connect(t, rigConfig(t)))
	options := ceph.ImageOptions{
		Features: []string{"layering", "exclusive-lock", "object-map", "fast-diff", "deep-flatten"},
		DataPool: "ecdata", ObjectSize: 8 << 20,
	}
	image := mustCreate(t, p, prefix+"a", 1<<30, options, false)
	check(t, image.Grow(3<<30))
	wantErrno(t, image.Grow(2<<30), unix.EINVAL)
	info, err := image.Info()
	if err != nil || info.Size != 3<<30 || info.IsObjectMapInvalid || info.DataPool != "ecdata" ||
		info.ObjectSize != 8<<20 {
		t.Errorf("got %+v (%v)", info, err)
	}
	// The kernel panics if the map is too short. It has two bits for each object of 8 MiB.
	stat, err := p.io.Stat("rbd_object_map." + info.ID)
	if want := uint64(3 << 30 / (8 << 20) / 4); err != nil || stat.Size < want {
		t.Errorf("the object map has %d bytes (%v), want at least %d", stat.Size, err, want)
	}
	readOnly, err := p.Open(prefix+"a", true)
	check(t, err)
	wantErrno(t, readOnly.Grow(4<<30), unix.EROFS)
}

// A client that is fenced gets ESHUTDOWN from then on; the address that watchers show fences it.
func TestFence(t *testing.T) {
	admin := connect(t, adminConfig(t))
	p, prefix := testPool(t, admin)
	victims := connect(t, rigConfig(t))
	victimPool, err := victims.Pool("volumes", "")
	check(t, err)
	check(t, p.Create(prefix+"a", 1<<30, layering()))
	image, err := victimPool.Open(prefix+"a", false)
	check(t, err)
	_, err = image.Snapshots() // opens the image
	check(t, err)
	check(t, image.CreateSnapshot("s")) // takes the exclusive lock
	observer, err := p.Open(prefix+"a", true)
	check(t, err)
	watchers, err := observer.Watchers()
	check(t, err)
	holder, isHeld, err := observer.LockHolder()
	check(t, err)
	check(t, observer.Close())
	if len(watchers) != 1 || !isHeld || holder.Address != watchers[0].Address || holder.Client != watchers[0].Client {
		t.Fatalf("got the watchers %v and the holder %v, want one and the same client", watchers, holder)
	}
	if own, err := image.Watchers(); err != nil || len(own) != 0 {
		t.Errorf("got the watchers %v (%v) of the image that this client has open, want none", own, err)
	}

	wantErrno(t, admin.Fence("10.77.0.0/24", time.Minute), unix.EINVAL)
	check(t, admin.Fence(holder.Address, time.Minute))
	// An OSD that has no other news refuses the client after a moment, and at once when a client
	// that knows of the fencing has used it.
	id, err := p.ImageID(prefix + "a")
	check(t, err)
	check(t, p.SetMetadata(id, "k", "by the other"))
	wantErrno(t, image.Grow(2<<30), unix.ESHUTDOWN)
	wantErrno(t, victimPool.SetMetadata(id, "k", "by the fenced"), unix.ESHUTDOWN)
	if got, err := p.Metadata(id); err != nil || got["k"] != "by the other" {
		t.Errorf("got the metadata %v (%v), want those of the other client", got, err)
	}
	start := time.Now()
	_ = image.Close()
	if duration := time.Since(start); duration > time.Minute {
		t.Errorf("closing the image of a fenced client took %s", duration)
	}
	check(t, admin.Unfence(holder.Address))
	// Other tests fence clients too.
	listed, err := admin.Blocklist()
	check(t, err)
	if _, isListed := listed[holder.Address]; isListed {
		t.Errorf("got the blocklist %v, want it without %s", listed, holder.Address)
	}
}

// awaitUsage waits until the pool's usage satisfies done.
func awaitUsage(t *testing.T, c *connection, name string, done func(ceph.PoolUsage) bool) ceph.PoolUsage {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		usage, err := c.PoolUsage(name)
		check(t, err)
		if done(usage) {
			return usage
		}
		select {
		case <-deadline:
			t.Fatalf("got the usage %+v after 2 minutes", usage)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// In a full pool creation fails at once, and deletion works.
func TestFullPool(t *testing.T) {
	admin := connect(t, adminConfig(t))
	opened, err := admin.Pool("other", "")
	check(t, err)
	p := opened.(*pool) //nolint:forcetypeassert,errcheck // of this package
	removeImages(t, p, "full-")
	// librbd writes an object before the first removal in a pool, which a full pool refuses.
	check(t, mustCreate(t, p, "full-first", 1<<20, layering(), false).Close())
	check(t, p.Remove("full-first"))
	for _, name := range []string{"full-a", "full-b"} {
		image := mustCreate(t, p, name, 1<<30, layering(), false)
		check(t, image.CreateSnapshot("s"))
		check(t, image.Close())
	}
	check(t, p.CreateObject("full-content", make([]byte, 1<<20)))
	setQuota := func(bytes string) {
		_, err := admin.command(map[string]any{
			"prefix": "osd pool set-quota", "pool": "other", "field": "max_bytes", "val": bytes,
		})
		check(t, err)
	}
	setQuota("1000")
	t.Cleanup(func() {
		setQuota("0")
		awaitUsage(t, admin, "other", func(u ceph.PoolUsage) bool { return !u.IsFull })
		removeImages(t, p, "full-")
		_ = p.RemoveObject("full-content")
	})
	usage := awaitUsage(t, admin, "other", func(u ceph.PoolUsage) bool { return u.IsFull })
	t.Logf("usage of the full pool: %+v", usage)
	if usage.QuotaBytes != 1000 || usage.Stored < 1<<20 {
		t.Errorf("got %+v, want the quota of 1000 bytes and 1 MiB stored", usage)
	}
	inTime := func(what string, call func() error) error {
		start := time.Now()
		err := call()
		t.Logf("%s: %v after %s", what, err, time.Since(start))
		if duration := time.Since(start); duration > time.Minute {
			t.Errorf("%s took %s, want less than a minute", what, duration)
		}
		return err
	}
	wantErrno(t, inTime("Create", func() error { return p.Create("full-c", 1<<30, layering()) }), unix.EDQUOT)
	wantErrno(t, inTime("Clone", func() error { return p.Clone(p, "full-a", "s", "full-d", layering()) }), unix.EDQUOT)
	wantErrno(t, inTime("CreateObject", func() error { return p.CreateObject("full-object", []byte("x")) }), unix.EDQUOT)
	for _, name := range []string{"full-a", "full-b"} {
		readOnly, err := p.Open(name, true)
		check(t, err)
		check(t, inTime("RemoveSnapshot", func() error { return readOnly.RemoveSnapshot("s") }))
		check(t, readOnly.Close())
		check(t, inTime("Remove", func() error { return p.Remove(name) }))
	}
	check(t, inTime("RemoveObject", func() error { return p.RemoveObject("full-content") }))
}

// A paused cluster is not a full pool.
func TestPausedClusterIsNotFull(t *testing.T) {
	admin := connect(t, adminConfig(t))
	set := func(prefix string) {
		_, err := admin.command(map[string]any{"prefix": prefix, "key": "pause"})
		check(t, err)
	}
	set("osd set")
	t.Cleanup(func() { set("osd unset") })
	usage := awaitUsage(t, admin, "volumes", func(u ceph.PoolUsage) bool { return len(u.Flags) > 0 })
	if usage.IsFull || usage.Flags[0] != "pausewr" {
		t.Errorf("got %+v, want the flag pausewr and not full", usage)
	}
}

// Diff reports what was written between two snapshots, in order.
func TestDiffOfSnapshots(t *testing.T) {
	p, prefix := testPool(t, connect(t, rigConfig(t)))
	i := mustCreate(t, p, prefix+"a", 1<<30, layering(), false).(*image) //nolint:forcetypeassert,errcheck // as above
	opened, err := i.open()
	check(t, err)
	write := func(offset int64) {
		_, err := opened.WriteAt(make([]byte, 4096), offset)
		check(t, err)
		check(t, opened.Flush())
	}
	write(0)
	check(t, i.CreateSnapshot("s1"))
	write(8 << 20)
	write(100 << 20)
	check(t, i.CreateSnapshot("s2"))
	write(200 << 20)
	for name, c := range map[string]struct {
		from, to string
		want     []uint64
	}{
		"allocated at s1": {"", "s1", []uint64{0}},
		"s1 to s2":        {"s1", "s2", []uint64{8 << 20, 100 << 20}},
		"s2 to the image": {"s2", "", []uint64{200 << 20}},
	} {
		var got []uint64
		check(t, i.Diff(c.from, c.to, 0, 1<<30, func(e ceph.Extent) error {
			if e.Exists && e.Length == 4096 {
				got = append(got, e.Offset)
			}
			return nil
		}))
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: got extents at %v, want %v", name, got, c.want)
		}
	}
	stop := errors.New("stop")
	if err := i.Diff("", "s2", 0, 1<<30, func(ceph.Extent) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want the error of the function", err)
	}
	wantErrno(t, i.Diff("s1", "missing", 0, 1<<30, func(ceph.Extent) error { return nil }), unix.ENOENT)
}

func TestMissingAndUnknown(t *testing.T) {
	c := connect(t, rigConfig(t))
	p, prefix := testPool(t, c)
	_, err := p.Open(prefix+"missing", true)
	wantErrno(t, err, unix.ENOENT)
	_, err = p.OpenID("abcdef", false)
	wantErrno(t, err, unix.ENOENT)
	wantErrno(t, p.Create(prefix+"a", 1<<30, ceph.ImageOptions{Features: []string{"unknown"}}), unix.EINVAL)
	wantErrno(t, p.Create(prefix+"a", 1<<30, ceph.ImageOptions{ObjectSize: 5000}), unix.EINVAL)
	wantErrno(t, p.Create(prefix+"a", 1<<30, ceph.ImageOptions{DataPool: "missing"}), unix.ENOENT)
	_, err = c.Pool("missing", "")
	wantErrno(t, err, unix.ENOENT)
	_, err = c.PoolName(12345)
	wantErrno(t, err, unix.ENOENT)
	missing, err := c.Pool("volumes", "missing")
	check(t, err)
	wantErrno(t, missing.Create(prefix+"a", 1<<30, layering()), unix.ENOENT)
}
