package node

import (
	"context"
	"errors"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
)

// processMappings are the mappings as the process sees them.
type processMappings struct {
	fakeMappings

	p *process
}

func (m processMappings) Header(ctx context.Context, dev blockdev.Device) (luks.Header, error) {
	if err := m.p.simulateCall(ctx); err != nil {
		return luks.Header{}, err
	}
	return m.fakeMappings.Header(ctx, dev)
}

// Format leaves a header without a key slot, and its marker, when the process ends
// before the format is complete.
func (m processMappings) Format(ctx context.Context, req luks.FormatRequest) (luks.Header, bool, error) {
	if err := m.p.simulateCall(ctx); err != nil {
		return luks.Header{}, false, err
	}
	if m.killNextFormat(req.Device.Path) {
		if h, _, err := m.fakeMappings.Format(ctx, req); h.State != luks.HeaderUnfinished {
			return h, false, err
		}
		if err := m.p.simulateCall(ctx); err != nil {
			return luks.Header{}, false, err
		}
	}
	h, fresh, err := m.fakeMappings.Format(ctx, req)
	return h, fresh, m.p.loseAnswer(err)
}

// killNextFormat makes the next luksFormat of a disk without a header end early. It
// reports whether it does.
func (m processMappings) killNextFormat(path string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, connected := m.diskAt(path)
	if !connected || d.luks.header.State != luks.HeaderAbsent {
		return false
	}
	if at, used := m.findUser(d, diskNumberOf(d)); used {
		m.p.addViolation(path + " is encrypted while it is in use at " + at)
	}
	d.luks.killNextFormat = true
	return true
}

func (m processMappings) Open(ctx context.Context, req luks.OpenRequest) (luks.Mapping, error) {
	if err := m.p.simulateCall(ctx); err != nil {
		return luks.Mapping{}, err
	}
	opened, err := m.fakeMappings.Open(ctx, req)
	return opened, m.p.loseAnswer(err)
}

func (m processMappings) Find(ctx context.Context, id string) (luks.Mapping, bool, error) {
	if err := m.p.simulateCall(ctx); err != nil {
		return luks.Mapping{}, false, err
	}
	return m.fakeMappings.Find(ctx, id)
}

func (m processMappings) Close(ctx context.Context, id string) error {
	if err := m.p.simulateCall(ctx); err != nil {
		return err
	}
	return m.p.loseAnswer(m.fakeMappings.Close(ctx, id))
}

func (m processMappings) Grow(ctx context.Context, dev blockdev.Device, key []byte) (volume.Size, error) {
	if err := m.p.simulateCall(ctx); errors.Is(err, errCrashed) { // no caller gets this error
		return 0, volume.Errorf(volume.KindDeadline, "%w", err)
	} else if err != nil {
		return 0, err
	}
	size, err := m.fakeMappings.Grow(ctx, dev, key)
	return size, m.p.loseAnswer(err)
}
