package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Random calls for two volumes run concurrently with growths of their disks, disks that are pulled
// out, answers that are lost, foreign mounts over their paths, and a plugin that ends or crashes.
// In any order: nothing foreign is touched, a success is true, each call ends with its context, and
// in the end nothing is left.
//
// GROWVOL_RANDOM_SEED repeats the choices of a run; the order in which goroutines run
// is not repeated.
func TestCallsAtRandom(t *testing.T) {
	requireDeviceNodes(t)
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("GROWVOL_RANDOM_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	const enough = 3 * time.Second // in CI
	start := time.Now()
	runs := 0
	succeeded := map[string]int{} // a test in which all fails tests nothing
	for ; time.Since(start) < enough && !t.Failed(); runs++ {
		at := seed + uint64(runs)
		t.Run("GROWVOL_RANDOM_SEED="+strconv.FormatUint(at, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newRandomNode(t, at)
				n.run()
				for i, times := range n.succeeded {
					succeeded[randomCalls[i]] += times
				}
			})
		})
	}
	t.Logf("%d runs in %s, in which succeeded: %v", runs, time.Since(start).Round(time.Millisecond), succeeded)
	for _, call := range randomCalls {
		if runs > 2 && succeeded[call] == 0 {
			t.Errorf("not one %s has succeeded", call)
		}
	}
}

// randomCalls are the calls that are made, with their weight.
var randomCalls = [...]string{
	"stage", "stage", "publish", "publish", "unpublish", "unstage", "expand", "expand", "stats", "health",
}

const maxCalls = 100 // more than run at the same time

// randomNode is a node on which two volumes are used at random.
type randomNode struct {
	*machine
	t       *testing.T
	dice    *lockedRand
	dir     string
	end     chan struct{} // closed when everything is over
	volumes []*randomVolume
	others  []filesystem.Mount // foreign
	covers  map[int]bool       // likewise, for a while, by mount id

	otherDisks []*fakeDisk

	calls     sync.WaitGroup // of the workers
	covering  sync.WaitGroup
	failures  int // of filesystems
	succeeded [len(randomCalls)]int

	plugin  *semaphore.Weighted // a plugin that ends lets its calls end first
	process *process
	server  *Server
	stop    context.CancelFunc // of growth on device change
	watch   *sync.WaitGroup
}

// randomVolume is one of the two volumes of a randomNode.
type randomVolume struct {
	testNode

	disk    *fakeDisk
	blank   bool // at first
	targets []string
	hidden  volume.Size // by the LUKS2 header of an encrypted volume
}

func newRandomNode(t *testing.T, seed uint64) *randomNode {
	t.Helper()
	n := &randomNode{
		machine: newMachine(), t: t, dice: newLockedRand(seed), covers: map[int]bool{}, dir: t.TempDir(),
		end: make(chan struct{}), plugin: semaphore.NewWeighted(maxCalls),
	}
	n.addOther(9)
	loop := filesystem.Mount{
		FSType: "ext4", Root: "/", Source: "/dev/loop7", Device: blockdev.DeviceNumber{Major: 7, Minor: 7},
	}
	for i, m := range []filesystem.Mount{loop, tmpfs("/dir")} {
		n.others = append(n.others, n.addMount(fmt.Sprintf("/other/%d", i), m))
	}
	for i, capability := range []*csi.VolumeCapability{
		mountCapability([]string{"ext4", "xfs", "btrfs", "ext3", "ext2"}[n.dice.intN(5)]),
		[]*csi.VolumeCapability{mountCapability("xfs"), blockCapability(), mountCapability("")}[n.dice.intN(3)],
	} {
		v := &randomVolume{blank: n.dice.oneIn(2)}
		v.id, v.capability = fmt.Sprintf("vol-%d", i+1), capability
		v.staging = filepath.Join(n.dir, v.id, "staging")
		v.targets = []string{filepath.Join(n.dir, v.id, "pod-1"), filepath.Join(n.dir, v.id, "pod-2")}
		v.disk = n.add(v.id, 2*volume.GiB)
		if fstype := capability.GetMount().GetFsType(); !v.blank {
			v.disk.content = ext4Signature()
			if fstype != "" {
				v.disk.content.Type = filesystem.Type(fstype)
			}
		}
		if n.dice.oneIn(2) {
			v.encrypt()
		}
		if v.disk.staysPlugged = n.dice.oneIn(2); v.disk.staysPlugged {
			v.disk.connected, v.disk.deviceSize = true, v.disk.backendSize
		}
		n.volumes = append(n.volumes, v)
	}
	n.start()
	return n
}

// encrypt makes the node encrypt the volume.
func (v *randomVolume) encrypt() {
	v.hidden = headerSize
	v.context, v.secrets = map[string]string{volume.EncryptedKey: "true"}, map[string]string{PassphraseKey: secret}
	if !v.blank {
		v.disk.luks.header, v.disk.luks.passphrase = luksHeader(luks.HeaderSound), secret
		v.disk.content.Size = volume.GiB - headerSize
	}
}

// isForeign reports whether a mount is foreign.
func (n *randomNode) isForeign(m filesystem.Mount) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.covers[m.ID] || slices.ContainsFunc(n.others, func(o filesystem.Mount) bool { return o.ID == m.ID })
}

// start starts the plugin.
func (n *randomNode) start() {
	p := &process{machine: n.machine, dice: n.dice, foreign: n.isForeign, crashed: make(chan struct{}), end: n.end}
	s, err := New(Options{
		ID: "node-1", Connector: processConnector{fakeConnector{n.machine}, p}, Devices: processDevices{
			fakeDevices{n.machine}, p,
		},
		Mappings: processMappings{fakeMappings{n.machine}, p}, Filesystems: processFilesystems{fakeFilesystems{n.machine}, p},
		StateDir: filepath.Join(n.dir, "state"), Detached: new(operation.Tracker), Log: slog.New(slog.DiscardHandler),
		Metrics: NewMetrics(prometheus.NewRegistry()),
	})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(n.t.Context())
	n.process, n.server, n.stop, n.watch = p, s, cancel, new(sync.WaitGroup)
	n.watch.Go(func() { s.GrowOnDeviceChange(ctx) })
}

// awaitCalls waits until no call is running, and lets none begin until done is called.
func (n *randomNode) awaitCalls() (done func()) {
	_ = n.plugin.Acquire(context.Background(), maxCalls)
	return func() { n.plugin.Release(maxCalls) }
}

// restart ends the plugin as SIGTERM does, and starts another.
func (n *randomNode) restart() {
	defer n.awaitCalls()()
	n.stop()
	n.watch.Wait()
	n.server.opts.Detached.Wait(context.Background())
	n.checkLocks()
	n.check(n.process)
	n.start()
}

// checkLocks fails the test if a lock was not released. Calls that hang end within minutes.
func (n *randomNode) checkLocks() {
	for _, v := range n.volumes {
		for _, lock := range []func(context.Context, string) (*operation.Lease, error){
			n.server.lockVolumeAndPublish, n.server.lockReading,
		} {
			ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Minute)
			lease, err := lock(ctx, v.id)
			cancel()
			if err != nil {
				n.t.Errorf("a lock of %s is left: %v", v.id, err)
				continue
			}
			lease.Release()
		}
	}
}

// crash ends the plugin as SIGKILL does, and starts another.
func (n *randomNode) crash() {
	n.process.crash()
	defer n.awaitCalls()() // the callers of the crashed process give up first
	n.stop()
	n.check(n.process)
	n.start()
}

func (n *randomNode) check(p *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, what := range p.violations {
		n.t.Error(what)
	}
}

// run makes the calls and the faults concurrently, then checks what is left.
func (n *randomNode) run() {
	defer func() {
		close(n.end)
		_ = operation.Sleep(n.t.Context(), time.Hour) // what hung has ended by then
	}()
	over := make(chan struct{})
	var world sync.WaitGroup
	world.Go(func() { n.injectFaults(over) })
	for _, v := range n.volumes {
		for range 3 {
			n.calls.Go(func() {
				for range 60 {
					n.call(v, n.dice.intN(len(randomCalls)))
					_ = operation.Sleep(n.t.Context(), n.dice.between(0, 2*time.Second))
				}
			})
		}
	}
	n.calls.Wait()
	close(over)
	world.Wait()
	n.restart()
	n.process.mu.Lock()
	n.process.faultsOff = true
	n.process.mu.Unlock()
	n.unstageAll()
	n.stageAllAgain()
	n.stop()
	n.watch.Wait()
	n.check(n.process)
	if n.open != 0 {
		n.t.Errorf("%d descriptors are left open", n.open)
	}
}

// call makes one call and checks its answer.
func (n *randomNode) call(v *randomVolume, which int) {
	_ = n.plugin.Acquire(context.Background(), 1)
	defer n.plugin.Release(1)
	b := v.testNode
	b.machine, b.Server, b.target = n.machine, n.server, v.targets[n.dice.intN(len(v.targets))]
	limit := []time.Duration{time.Second, 10 * time.Second, time.Minute, 2 * time.Minute}[n.dice.intN(4)]
	ctx, cancel := context.WithTimeout(n.t.Context(), limit)
	defer cancel()
	start := time.Now()
	n.mu.Lock()
	had, failures := v.disk.backendSize, n.failures
	n.mu.Unlock()
	var err error
	switch name := randomCalls[which]; name {
	case "stage":
		err = n.checkAnswer(v, name, had, failures, b.stage(ctx))
	case "publish":
		err = b.publish(ctx, n.dice.oneIn(4))
	case "unpublish":
		err = b.unpublish(ctx)
	case "unstage":
		err = b.unstage(ctx)
	case "expand":
		_, err = b.expand(ctx, had)
		err = n.checkAnswer(v, name, had, failures, err)
	case "stats":
		_, err = b.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: b.id, VolumePath: b.target})
	case "health":
		_, err = b.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: b.id, StagingTargetPath: b.staging})
	}
	if err == nil {
		n.mu.Lock()
		n.succeeded[which]++
		n.mu.Unlock()
	}
	if took := time.Since(start); took > limit+rollbackTimeout+time.Millisecond {
		n.t.Errorf("call %d of %s took %s of %s: %v", which, v.id, took, limit, err)
	}
}

// checkAnswer fails the test if a call has succeeded although the volume has not reached its size.
// A filesystem that fails meanwhile may still be staged.
func (n *randomNode) checkAnswer(v *randomVolume, call string, size volume.Size, failures int, err error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	failed := call == "stage" && (n.failures != failures || v.disk.mountFailure != nil)
	if err == nil && !failed && v.capability.GetMount() != nil && v.disk.content.Size < size-v.hidden {
		n.t.Errorf("%s of %s is a success, but its filesystem has %s, not %s", call, v.id, v.disk.content.Size, size-v.hidden)
	}
	if err == nil && v.hidden > 0 && call == "expand" && v.disk.mappingSize < size-v.hidden {
		n.t.Errorf("%s of %s is a success, but its mapping has %s, not %s", call, v.id, v.disk.mappingSize, size-v.hidden)
	}
	return err
}

// unstageAll unpublishes and unstages both volumes, and checks what is left.
func (n *randomNode) unstageAll() {
	for _, v := range n.volumes {
		b := v.testNode
		b.machine, b.Server = n.machine, n.server
		for _, b.target = range v.targets {
			if err := b.unpublish(n.t.Context()); err != nil {
				n.t.Errorf("unpublish at the end: %v", err)
			}
			if _, err := os.Lstat(b.target); err == nil {
				n.t.Errorf("%s is left", b.target)
			}
		}
		if err := b.unstage(n.t.Context()); err != nil {
			n.t.Errorf("unstage at the end: %v", err)
		}
		d := v.disk
		if d.connected != d.staysPlugged || d.openHandles+d.luks.openHandles != 0 || d.hasMapping() {
			n.t.Errorf("%s: connected %t (want %t), %d and %d open descriptors, mapping %t",
				v.id, d.connected, d.staysPlugged, d.openHandles, d.luks.openHandles, d.hasMapping())
		}
		maxFormats := 0
		if v.blank {
			maxFormats = 1
		}
		if d.formatCount > maxFormats {
			n.t.Errorf("%s was formatted %d times, blank at first: %t", v.id, d.formatCount, v.blank)
		}
		half := d.content.State == filesystem.StateFormatted && !d.content.IsComplete
		if _, err := os.Lstat(b.formatMarker(v.id)); err == nil && !half {
			n.t.Errorf("%s: the marker of a format is left, and the disk holds %s", v.id, d.content)
		}
		if done := d.content.State == filesystem.StateFormatted && d.content.IsComplete; done &&
			fileExists(b.encryptionMarker(v.id)) {
			n.t.Errorf("%s: the marker of an encryption is left, and the volume holds %s", v.id, d.content)
		}
	}
	if left, err := n.server.records.List(n.t.Context()); err != nil || len(left) != 0 {
		n.t.Errorf("records left: %+v, %v", left, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.EqualFunc(n.mounts, n.others, func(a, b filesystem.Mount) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
		n.t.Errorf("mounts left: %+v, want %+v", n.mounts, n.others)
	}
	for _, d := range n.otherDisks {
		if d.content != ext4Signature() || d.openHandles != 0 || !d.connected || d.formatCount != 0 {
			n.t.Errorf("the other's disk is now %+v", d)
		}
	}
}

// stageAllAgain stages, publishes and expands both volumes once more.
func (n *randomNode) stageAllAgain() {
	for _, v := range n.volumes {
		b := v.testNode
		b.machine, b.Server, b.target = n.machine, n.server, v.targets[0]
		if err := b.stage(n.t.Context()); err != nil {
			n.t.Errorf("stage at the end: %v", err)
			continue
		}
		if err := b.publish(n.t.Context(), false); err != nil {
			n.t.Errorf("publish at the end: %v", err)
		}
		v.disk.backendSize += volume.GiB
		_, err := b.expand(n.t.Context(), v.disk.backendSize)
		if n.checkAnswer(v, "expand", v.disk.backendSize, n.failures, err) != nil {
			n.t.Errorf("expand at the end: %v", err)
		}
	}
	n.unstageAll()
}
