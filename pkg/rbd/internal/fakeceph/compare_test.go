package fakeceph

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file compares the fake with a real cluster: sequences of calls run on both, and the answers
// (errno, state) must be equal. compare_ceph_test.go connects to the real one.

// world is a cluster as a sequence sees it: two clients, with a pool each, and a second pool.
type world struct {
	cluster     ceph.Cluster
	pool, other ceph.Pool // volumes and other
	second      ceph.Pool // volumes, of a second client
	prefix      string    // of all names of the sequence
	images      map[string]ceph.Image
	answers     []string
}

// step runs a call and records its answer.
func (w *world) step(what string, value any, err error) {
	var errno unix.Errno
	switch {
	case err == nil:
		w.answers = append(w.answers, fmt.Sprintf("%s: %v", what, value))
	case errors.As(err, &errno):
		w.answers = append(w.answers, fmt.Sprintf("%s: %s", what, unix.ErrnoName(errno)))
	default:
		w.answers = append(w.answers, fmt.Sprintf("%s: without errno: %v", what, err))
	}
}

func (w *world) name(short string) string { return w.prefix + short }

func layering(size uint64) (uint64, ceph.ImageOptions) {
	return size, ceph.ImageOptions{Features: []string{"layering", "exclusive-lock"}}
}

func (w *world) create(name string, size uint64, features ...string) {
	_, options := layering(size)
	if len(features) > 0 {
		options.Features = features
	}
	w.step("create "+name, "", w.pool.Create(w.name(name), size, options))
}

// removeByID removes the first snapshot of an open image, and one that does not exist.
func (w *world) removeByID(key string) {
	all, err := w.images[key].Snapshots()
	if err == nil {
		err = w.images[key].RemoveSnapshotByID(all[0].ID)
	}
	w.step("remove by id", "", err)
	w.step("remove missing by id", "", w.images[key].RemoveSnapshotByID(1<<40))
}

// open opens an image under a key; with "2" at its end it is the second client that opens it.
func (w *world) open(key, name string, readOnly bool) {
	pool := w.pool
	if strings.HasSuffix(key, "2") {
		pool = w.second
	}
	im, err := pool.Open(w.name(name), readOnly)
	if err == nil && readOnly {
		_, err = im.Info() // opening may be lazy
	}
	if err == nil && !readOnly {
		_, err = im.Watchers()
	}
	w.images[key] = im
	w.step("open "+key, "", err)
}

func (w *world) closeImage(key string) {
	w.step("close "+key, "", w.images[key].Close())
	delete(w.images, key)
}

func (w *world) remove(name string) { w.step("remove "+name, "", w.pool.Remove(w.name(name))) }

func (w *world) snapshots(key string) {
	all, err := w.images[key].Snapshots()
	var texts []string
	for _, s := range all {
		if s.IsRemoved {
			s.Name = "removed"
		}
		texts = append(texts, fmt.Sprintf("%s %d %t", s.Name, s.Size, s.IsForeign))
	}
	w.step("snapshots "+key, texts, err)
}

func (w *world) clone(image, snapshot, name string) {
	_, options := layering(0)
	w.step("clone "+name, "", w.pool.Clone(w.pool, w.name(image), snapshot, w.name(name), options))
}

func (w *world) list() {
	names, err := w.pool.List()
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, w.prefix) })
	for i, name := range names {
		names[i] = strings.TrimPrefix(name, w.prefix)
	}
	slices.Sort(names)
	w.step("list", names, err)
}

func (w *world) info(key string) {
	info, err := w.images[key].Info()
	slices.Sort(info.Features)
	w.step("info "+key, fmt.Sprint(strings.TrimPrefix(info.Name, w.prefix), info.Size, info.Features, info.DataPool,
		info.ObjectSize, info.IsObjectMapInvalid), err)
}

func (w *world) parent(key string) {
	parent, ok, err := w.images[key].Parent()
	snapshot := parent.Snapshot
	if strings.Count(snapshot, "-") == 4 {
		snapshot = "removed"
	}
	image := strings.TrimPrefix(parent.Image, w.prefix)
	w.step("parent "+key, fmt.Sprint(ok, parent.Pool, parent.Namespace, image, snapshot, parent.IsInTrash), err)
}

func (w *world) children(key string) {
	all, err := w.images[key].Children()
	var texts []string
	for _, child := range all {
		texts = append(texts, child.Pool+"/"+strings.TrimPrefix(child.Image, w.prefix))
	}
	slices.Sort(texts)
	w.step("children "+key, texts, err)
}

func (w *world) watchers(key string) {
	all, err := w.images[key].Watchers()
	w.step("watchers "+key, len(all), err)
}

const mib = 1 << 20

// sequences are the compared sequences of calls.
func sequences() map[string]func(*world) {
	return map[string]func(*world){
		"names": func(w *world) {
			w.create("a", 8*mib)
			w.create("a", 8*mib)
			w.create("b", 8*mib)
			w.step("rename to existing", "", w.pool.Rename(w.name("a"), w.name("b")))
			w.step("rename missing", "", w.pool.Rename(w.name("x"), w.name("y")))
			w.step("rename", "", w.pool.Rename(w.name("a"), w.name("c")))
			_, err := w.pool.ImageID(w.name("a"))
			w.step("id of the former name", "", err)
			_, err = w.pool.ImageID(w.name("c"))
			w.step("id", "", err)
			w.list()
			w.remove("a")
			w.remove("c")
			w.remove("c")
			w.remove("b")
			w.list()
			w.open("x", "x", true)
		},
		"features": func(w *world) {
			w.create("object-map without lock", mib, "layering", "object-map")
			w.create("unknown", mib, "layering", "no-such-feature")
			w.create("a", 5*mib+1, "layering", "exclusive-lock", "object-map", "fast-diff")
			w.open("a", "a", true)
			w.info("a")
			w.closeImage("a")
			w.remove("a")
			w.create("b", 0, "layering")
			w.open("b", "b", true)
			w.info("b")
			w.closeImage("b")
			_, options := layering(0)
			options.DataPool = "no-such-pool"
			w.step("missing data pool", "", w.pool.Create(w.name("c"), mib, options))
			options.DataPool = "ecdata"
			w.step("data pool", "", w.pool.Create(w.name("d"), mib, options))
			w.open("d", "d", true)
			w.info("d")
			w.closeImage("d")
			_, options = layering(0)
			options.ObjectSize = 3 * mib
			w.step("object size", "", w.pool.Create(w.name("e"), mib, options))
		},
		"sizes": func(w *world) {
			w.create("a", 8*mib)
			w.open("a", "a", false)
			w.step("grow", "", w.images["a"].Grow(16*mib))
			w.step("shrink", "", w.images["a"].Grow(8*mib))
			w.step("same", "", w.images["a"].Grow(16*mib))
			w.open("ro2", "a", true)
			size, err := w.images["ro2"].Size()
			w.step("size", size, err)
			w.step("grow", "", w.images["a"].Grow(32*mib))
			size, err = w.images["ro2"].Size()
			w.step("size after growth", size, err)
			w.step("grow read-only", "", w.images["ro2"].Grow(64*mib))
			w.step("snapshot read-only", "", w.images["ro2"].CreateSnapshot("s"))
		},
		"watchers": func(w *world) {
			w.create("a", 8*mib)
			w.open("a", "a", false)
			w.watchers("a")
			w.remove("a")
			w.open("b2", "a", false)
			w.watchers("a")
			w.watchers("b2")
			w.open("c2", "a", true)
			w.watchers("c2")
			w.step("rename open image", "", w.pool.Rename(w.name("a"), w.name("b")))
			w.info("a")
			w.step("grow renamed", "", w.images["a"].Grow(16*mib))
			w.closeImage("a")
			w.closeImage("b2")
			w.remove("b")
			_, err := w.images["c2"].Size()
			w.step("size of a removed image", "", err)
		},
		"snapshots": func(w *world) {
			w.create("a", 8*mib)
			w.open("a", "a", false)
			w.step("snapshot", "", w.images["a"].CreateSnapshot("s"))
			w.step("again", "", w.images["a"].CreateSnapshot("s"))
			w.step("grow", "", w.images["a"].Grow(16*mib))
			w.step("second", "", w.images["a"].CreateSnapshot("t"))
			w.snapshots("a")
			w.step("remove missing", "", w.images["a"].RemoveSnapshot("x"))
			w.remove("a")
			w.closeImage("a")
			w.remove("a")
			w.open("a", "a", false)
			w.step("remove", "", w.images["a"].RemoveSnapshot("s"))
			w.snapshots("a")
			w.step("remove", "", w.images["a"].RemoveSnapshot("t"))
			w.closeImage("a")
			w.remove("a")
		},
		"clones": func(w *world) {
			w.create("a", 8*mib)
			w.open("a", "a", false)
			w.step("snapshot", "", w.images["a"].CreateSnapshot("s"))
			w.clone("a", "x", "b")
			w.clone("x", "s", "b")
			w.clone("a", "s", "b")
			w.clone("a", "s", "b")
			w.children("a")
			w.open("b", "b", true)
			w.info("b")
			w.parent("b")
			w.parent("a")
			w.info("a")
			w.step("remove the snapshot", "", w.images["a"].RemoveSnapshot("s"))
			w.snapshots("a")
			w.children("a")
			w.removeByID("a")
			w.snapshots("a")
			w.closeImage("b")
			w.open("b", "b", true)
			w.parent("b")
			w.clone("a", "s", "c")
			w.step("its name is free", "", w.images["a"].CreateSnapshot("s"))
			w.snapshots("a")
			w.step("remove", "", w.images["a"].RemoveSnapshot("s"))
			w.closeImage("a")
			w.remove("a")
			w.step("rename", "", w.pool.Rename(w.name("a"), w.name("z")))
			w.closeImage("b")
			w.open("b", "b", true)
			w.parent("b")
			w.closeImage("b")
			w.remove("b")
			w.open("z", "z", true)
			w.snapshots("z")
			w.closeImage("z")
			w.remove("z")
		},
		"other pool": func(w *world) {
			w.create("a", 8*mib)
			w.open("a", "a", false)
			w.step("snapshot", "", w.images["a"].CreateSnapshot("s"))
			_, options := layering(0)
			w.step("clone", "", w.other.Clone(w.pool, w.name("a"), "s", w.name("b"), options))
			w.children("a")
			w.step("remove", "", w.other.Remove(w.name("b")))
			w.children("a")
		},
		"metadata": func(w *world) {
			w.create("a", 8*mib)
			id, err := w.pool.ImageID(w.name("a"))
			w.step("id", "", err)
			values, err := w.pool.Metadata(id)
			w.step("none", values, err)
			w.step("set", "", w.pool.SetMetadata(id, "k", "v"))
			w.step("set", "", w.pool.SetMetadata(id, "l", "{}"))
			w.step("replace", "", w.pool.SetMetadata(id, "k", "w"))
			values, err = w.pool.Metadata(id)
			w.step("two", values, err)
			w.step("remove", "", w.pool.RemoveMetadata(id, "k"))
			w.step("remove missing", "", w.pool.RemoveMetadata(id, "k"))
			w.open("a", "a", false)
			w.step("snapshot", "", w.images["a"].CreateSnapshot("s"))
			w.clone("a", "s", "b")
			clone, err := w.pool.ImageID(w.name("b"))
			w.step("id", "", err)
			values, err = w.pool.Metadata(clone)
			w.step("the clone has a copy", values, err)
			w.step("missing image", "", w.pool.SetMetadata("10000deadbeef", "k", "v"))
			_, err = w.pool.Metadata("10000deadbeef")
			w.step("missing image", "", err)
			w.step("missing image", "", w.pool.RemoveMetadata("10000deadbeef", "k"))
		},
		"objects": func(w *world) {
			w.step("create", "", w.pool.CreateObject(w.name("o"), []byte("content")))
			w.step("again", "", w.pool.CreateObject(w.name("o"), []byte("other")))
			content, err := w.pool.ReadObject(w.name("o"))
			w.step("read", string(content), err)
			values, err := w.pool.OmapValues(w.name("o"))
			w.step("omap", values, err)
			values, err = w.pool.OmapValues(w.name("o"), "k")
			w.step("omap key", values, err)
			w.step("remove key", "", w.pool.RemoveOmapKeys(w.name("o"), "k"))
			w.step("remove", "", w.pool.RemoveObject(w.name("o")))
			w.step("remove", "", w.pool.RemoveObject(w.name("o")))
			_, err = w.pool.ReadObject(w.name("o"))
			w.step("read", "", err)
			_, err = w.pool.OmapValues(w.name("o"))
			w.step("omap", "", err)
			_, err = w.pool.OmapValues(w.name("o"), "k")
			w.step("omap key", "", err)
			w.step("remove key", "", w.pool.RemoveOmapKeys(w.name("o"), "k"))
		},
		"names by id": func(w *world) {
			w.create("a", 8*mib)
			w.open("a", "a", false)
			w.step("snapshot", "", w.images["a"].CreateSnapshot("s"))
			id, err := w.pool.ImageID(w.name("a"))
			w.step("id", "", err)
			values, err := w.pool.OmapValues("rbd_directory", "id_"+id)
			w.step("name", strings.ReplaceAll(values["id_"+id][4:], w.prefix, ""), err)
			all, err := w.images["a"].Snapshots()
			w.step("snapshots", len(all), err)
			key := fmt.Sprintf("snapshot_%016x", all[0].ID)
			values, err = w.pool.OmapValues("rbd_header."+id, key)
			w.step("snapshot", fmt.Sprintf("%q", values[key][14:19]), err)
			w.clone("a", "s", "b")
			w.step("remove the snapshot", "", w.images["a"].RemoveSnapshot("s"))
			values, err = w.pool.OmapValues("rbd_header."+id, key)
			w.step("removed snapshot", fmt.Sprintf("%q", values[key][14:18]), err) // length of a UUID
			_, err = w.pool.OmapValues("rbd_header.10000deadbeef", key)
			w.step("missing image", "", err)
		},
		"lock": func(w *world) {
			w.create("a", 8*mib)
			w.open("a", "a", false)
			w.step("snapshot", "", w.images["a"].CreateSnapshot("s"))
			_, held, err := w.images["a"].LockHolder()
			w.step("holder", held, err)
			w.open("b2", "a", false)
			_, held, err = w.images["b2"].LockHolder()
			w.step("holder", held, err)
			w.step("grow by the other", "", w.images["b2"].Grow(16*mib))
			w.step("snapshot by the other", "", w.images["b2"].CreateSnapshot("t"))
			_, held, err = w.images["b2"].LockHolder()
			w.step("holder", held, err)
			w.create("plain", 8*mib, "layering")
			w.open("plain", "plain", false)
			w.step("snapshot without the feature", "", w.images["plain"].CreateSnapshot("s"))
			_, held, err = w.images["plain"].LockHolder()
			w.step("holder", held, err)
			w.step("remove a snapshot", "", w.images["plain"].RemoveSnapshot("s"))
			w.step("remove a snapshot", "", w.images["b2"].RemoveSnapshot("s"))
			w.step("remove a snapshot", "", w.images["b2"].RemoveSnapshot("t"))
		},
		"pools": func(w *world) {
			_, err := w.cluster.Pool("no-such-pool", "")
			w.step("pool", "", err)
			_, err = w.cluster.PoolName(1 << 40)
			w.step("name", "", err)
			name, err := w.cluster.PoolName(w.pool.ID())
			w.step("name", name, err)
			missing, err := w.cluster.Pool("volumes", "no-such-namespace")
			w.step("namespace", "", err)
			names, err := missing.List()
			w.step("list", names, err)
			_, options := layering(0)
			w.step("create", "", missing.Create(w.name("n"), mib, options))
			_, err = missing.ImageID("x")
			w.step("id", "", err)
			_, err = w.cluster.PoolUsage("no-such-pool")
			w.step("usage", "", err)
			usage, err := w.cluster.PoolUsage("other")
			w.step("usage", fmt.Sprint(usage.QuotaBytes, usage.IsFull, usage.Flags), err)
		},
		"fenced": func(w *world) {
			w.create("a", 8*mib)
			w.open("a2", "a", false)
			w.open("a", "a", true)
			watchers, err := w.images["a"].Watchers()
			if err != nil || len(watchers) != 1 {
				w.step("watchers", watchers, err)
				return
			}
			address := watchers[0].Address
			w.step("fence", "", w.cluster.Fence(address, 1<<40))
			ends, err := w.cluster.Blocklist()
			end, isListed := ends[address]
			w.step("listed", isListed, err)
			w.step("fence for longer", "", w.cluster.Fence(address, 1<<42))
			ends, err = w.cluster.Blocklist()
			w.step("end is kept", ends[address].Equal(end), err)
			w.step("await the map", "", w.pool.AwaitMap())
			_, err = w.second.ImageID(w.name("a"))
			w.step("call of the fenced client", "", err)
			w.step("unfence", "", w.cluster.Unfence(address))
			ends, err = w.cluster.Blocklist()
			_, isListed = ends[address]
			w.step("listed", isListed, err)
		},
	}
}

// play runs a sequence and returns its answers. Images that it has left open are closed.
func play(w *world, sequence func(*world)) []string {
	sequence(w)
	for _, im := range w.images {
		if im != nil {
			_ = im.Close()
		}
	}
	return w.answers
}

// newFakeWorld returns a world in memory.
func newFakeWorld(t *testing.T) *world {
	t.Helper()
	s := New("f", "volumes", "other", "ecdata")
	c, _ := connectTo(t, s, "volumes")
	_, second := connectTo(t, s, "volumes")
	w := &world{cluster: c, second: second, prefix: "p-", images: make(map[string]ceph.Image)}
	for name, pool := range map[string]*ceph.Pool{"volumes": &w.pool, "other": &w.other} {
		opened, err := c.Pool(name, "")
		if err != nil {
			t.Fatal(err)
		}
		*pool = opened
	}
	return w
}

func TestAnswersAreThoseOfCeph(t *testing.T) {
	for name, sequence := range sequences() {
		t.Run(name, func(t *testing.T) {
			got := play(newFakeWorld(t), sequence)
			want := play(newRealWorld(t), sequence)
			for i := range max(len(got), len(want)) {
				fake, genuine := "nothing", "nothing"
				if i < len(got) {
					fake = got[i]
				}
				if i < len(want) {
					genuine = want[i]
				}
				if fake != genuine {
					t.Errorf("the fake answers %q, Ceph %q", fake, genuine)
				}
			}
		})
	}
}
