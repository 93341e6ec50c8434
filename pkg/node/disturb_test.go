package node

import (
	"fmt"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// disturb changes the world until over is closed.
func (n *randomNode) disturb(over <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(n.dice.between(0, 20*time.Second))
		select {
		case <-over:
			n.covering.Wait()
			for _, v := range n.volumes {
				n.plug(v)
			}
			return
		case <-timer.C:
		}
		v := n.volumes[n.dice.n(len(n.volumes))]
		switch n.dice.n(8) {
		case 0, 1:
			n.grow(v)
		case 2:
			n.pull(v)
		case 3:
			n.plug(v)
		case 4:
			n.covering.Go(func() { n.cover(v) })
		case 5:
			n.restart()
		case 6:
			n.crash()
		case 7:
			n.fail(v)
		}
	}
}

// grow makes the volume larger; the device hears of it at once, at a rescan, or
// late.
func (n *randomNode) grow(v *randomVolume) {
	n.mu.Lock()
	d := v.disk
	d.backend += volume.GiB
	announce := d.connected && n.dice.oneIn(2)
	if announce {
		d.shown = d.backend
	}
	d.deaf = !announce && n.dice.oneIn(2)
	e := blockdev.SizeEvent{Major: diskMajor, Minor: d.number}
	n.mu.Unlock()
	if announce {
		select {
		case n.events <- e:
		case <-time.After(time.Minute): // nobody listens
		}
	}
}

// pull takes the disk out. What is mounted of it, or has it open, stays and
// keeps its number; else somebody else's disk may get the number.
func (n *randomNode) pull(v *randomVolume) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := v.disk
	if !d.connected || d.hasMapping() { // on which the number would stay
		return
	}
	free := d.handles == 0
	for i, m := range n.mounts {
		if m.DeviceNode == numberOf(d) { // devtmpfs removes the node
			n.mounts[i].Root += "//deleted"
		}
		free = free && !n.rests(m, d)
	}
	number := d.number
	d.connected, d.shown, d.handles = false, 0, 0
	d.plugged++
	d.number += 10
	d.path = fmt.Sprintf("/dev/fake%d", d.number)
	if free && n.dice.oneIn(2) {
		n.addOther(number)
	}
}

// addOther plugs in and mounts somebody else's disk. The machine is locked.
func (n *randomNode) addOther(number uint32) {
	d := n.add(fmt.Sprintf("other-%d", number), 7*volume.GiB)
	d.number, d.path = number, fmt.Sprintf("/dev/fake%d", number)
	d.content, d.connected, d.shown = ext4(), true, 7*volume.GiB
	n.otherDisks = append(n.otherDisks, d)
	for i, m := range []filesystem.Mount{on(d), nodeOf(d)} {
		n.others = append(n.others, n.put(fmt.Sprintf("/other/%d/%d", number, i), m))
	}
}

// fail lets the filesystem fail, until it is mounted anew.
func (n *randomNode) fail(v *randomVolume) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failures++
	mounted := slices.ContainsFunc(n.mounts, func(m filesystem.Mount) bool { return n.rests(m, v.disk) })
	if mounted && v.capability.GetMount() != nil {
		v.disk.dead = volume.Errorf(volume.KindPrecondition, "the filesystem has shut down")
	}
}

// plug puts the disk of a hypervisor in again, and lets each disk hear of its
// size.
func (n *randomNode) plug(v *randomVolume) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := v.disk
	d.deaf = false
	if d.stays && !d.connected {
		d.connected, d.shown = true, d.backend
	}
}

// cover lets somebody mount over a path of the volume for a while.
func (n *randomNode) cover(v *randomVolume) {
	target := v.targets[n.dice.n(len(v.targets))]
	n.mu.Lock()
	m := n.put(target, on(n.otherDisks[0]))
	n.covers[m.ID] = true
	n.mu.Unlock()
	_ = operation.Sleep(n.t.Context(), n.dice.between(0, time.Minute))
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.IndexFunc(n.mounts, func(o filesystem.Mount) bool { return o.ID == m.ID })
	if i < 0 {
		n.t.Errorf("what somebody has mounted at %s is gone", target)
		return
	}
	n.mounts = slices.Delete(n.mounts, i, i+1)
}
