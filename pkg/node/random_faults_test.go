package node

import (
	"fmt"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// injectFaults changes disks, mounts and plugins at random until over is closed.
func (n *randomNode) injectFaults(over <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(n.dice.between(0, 20*time.Second))
		select {
		case <-over:
			n.covering.Wait()
			for _, v := range n.volumes {
				n.plugDisk(v)
			}
			return
		case <-timer.C:
		}
		v := n.volumes[n.dice.intN(len(n.volumes))]
		switch n.dice.intN(8) {
		case 0, 1:
			n.growDisk(v)
		case 2:
			n.unplugDisk(v)
		case 3:
			n.plugDisk(v)
		case 4:
			n.covering.Go(func() { n.mountOver(v) })
		case 5:
			n.restart()
		case 6:
			n.crash()
		case 7:
			n.failFilesystem(v)
		}
	}
}

// growDisk makes the volume larger; the device shows it immediately, after a rescan, or
// late.
func (n *randomNode) growDisk(v *randomVolume) {
	n.mu.Lock()
	d := v.disk
	d.backendSize += volume.GiB
	announce := d.connected && n.dice.oneIn(2)
	if announce {
		d.deviceSize = d.backendSize
	}
	d.ignoresRescan = !announce && n.dice.oneIn(2)
	e := blockdev.SizeEvent{Major: diskMajor, Minor: d.number}
	n.mu.Unlock()
	if announce {
		select {
		case n.events <- e:
		case <-time.After(time.Minute): // the watcher does not listen
		}
	}
}

// unplugDisk unplugs the disk. Its mounts and open descriptors stay and keep its number; without
// them a foreign disk may get the number.
func (n *randomNode) unplugDisk(v *randomVolume) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := v.disk
	if !d.connected || d.hasMapping() { // on which the number would stay
		return
	}
	free := d.openHandles == 0
	for i, m := range n.mounts {
		if m.DeviceNode == diskNumberOf(d) { // devtmpfs removes the node
			n.mounts[i].Root += "//deleted"
		}
		free = free && !n.isOnDisk(m, d)
	}
	number := d.number
	d.connected, d.deviceSize, d.openHandles = false, 0, 0
	d.plugCount++
	d.number += 10
	d.path = fmt.Sprintf("/dev/fake%d", d.number)
	if free && n.dice.oneIn(2) {
		n.addOther(number)
	}
}

// addOther plugs in and mounts a foreign disk. The machine is locked.
func (n *randomNode) addOther(number uint32) {
	d := n.add(fmt.Sprintf("other-%d", number), 7*volume.GiB)
	d.number, d.path = number, fmt.Sprintf("/dev/fake%d", number)
	d.content, d.connected, d.deviceSize = ext4Signature(), true, 7*volume.GiB
	n.otherDisks = append(n.otherDisks, d)
	for i, m := range []filesystem.Mount{mountOf(d), nodeMountOf(d)} {
		n.others = append(n.others, n.addMount(fmt.Sprintf("/other/%d/%d", number, i), m))
	}
}

// failFilesystem makes the filesystem fail until it is mounted again.
func (n *randomNode) failFilesystem(v *randomVolume) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failures++
	mounted := slices.ContainsFunc(n.mounts, func(m filesystem.Mount) bool { return n.isOnDisk(m, v.disk) })
	if mounted && v.capability.GetMount() != nil {
		v.disk.mountFailure = volume.Errorf(volume.KindPrecondition, "the filesystem has shut down")
	}
}

// plugDisk plugs the disk of a hypervisor in again, and makes each disk show its size after a
// rescan.
func (n *randomNode) plugDisk(v *randomVolume) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := v.disk
	d.ignoresRescan = false
	if d.staysPlugged && !d.connected {
		d.connected, d.deviceSize = true, d.backendSize
	}
}

// mountOver mounts a foreign filesystem over a path of the volume for a while.
func (n *randomNode) mountOver(v *randomVolume) {
	target := v.targets[n.dice.intN(len(v.targets))]
	n.mu.Lock()
	m := n.addMount(target, mountOf(n.otherDisks[0]))
	n.covers[m.ID] = true
	n.mu.Unlock()
	_ = operation.Sleep(n.t.Context(), n.dice.between(0, time.Minute))
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.IndexFunc(n.mounts, func(o filesystem.Mount) bool { return o.ID == m.ID })
	if i < 0 {
		n.t.Errorf("the foreign mount at %s is gone", target)
		return
	}
	n.mounts = slices.Delete(n.mounts, i, i+1)
}
