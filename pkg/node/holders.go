package node

import (
	"context"
	"slices"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// devicesAbove returns the devices that rest on d, directly or on one another.
func (s *Server) devicesAbove(d blockdev.Device) ([]blockdev.Device, error) {
	var above []blockdev.Device
	for next := []blockdev.Device{d}; len(next) > 0; next = next[1:] {
		holders, err := s.opts.Devices.Holders(next[0])
		if err != nil {
			return nil, err
		}
		for _, h := range holders {
			if !isAmong(above, h) {
				above, next = append(above, h), append(next, h)
			}
		}
	}
	return above, nil
}

// checkAbove refuses a volume whose disk is in use through a device that rests
// on it and is not among the layers of the device asked for: one that is
// mounted or published, or the mapping of this driver, in use or not. The
// mappings of others that nobody has mounted here are the business of the pod
// that has made them on its raw device.
func (s *Server) checkAbove(ctx context.Context, id string, layers []blockdev.Device) error {
	disk := layers[len(layers)-1]
	above, err := s.devicesAbove(disk)
	if err != nil {
		return err
	}
	for _, dev := range above {
		if isAmong(layers, dev) {
			continue
		}
		if err := s.checkMounts(ctx, dev, nil); err != nil {
			return err
		}
	}
	m, mapped, err := s.findMapping(ctx, id, disk)
	if err != nil || !mapped || isAmong(layers, m.Device) {
		return err
	}
	return volume.Errorf(volume.Precondition, "the volume is encrypted and open on this node as %s, so its disk %s cannot be used directly", m, disk.Path).
		WithRemedy("use the volume with " + volume.EncryptedKey + ": \"true\" in its volume context, or delete the pods that use it with encryption first")
}

func isAmong(devices []blockdev.Device, d blockdev.Device) bool {
	return slices.ContainsFunc(devices, func(o blockdev.Device) bool { return o.Number() == d.Number() })
}
