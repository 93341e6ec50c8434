package controller

import (
	"fmt"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/volume"
)

// minimum is the least size of a volume that can be used as it was asked for.
type minimum struct {
	size    volume.Size
	purpose string // what needs it, for messages
}

// minimumOf returns the minimum of a new volume; zero if none is known. Which
// filesystem a node makes if none is named is not known here. A class with
// options that make mkfs accept less is not judged. A block volume needs
// nothing, unless it is encrypted.
func minimumOf(accesses []volume.Access, parameters map[string]string, encrypted bool) minimum {
	var least minimum
	for _, a := range accesses {
		fstype := strings.ToLower(strings.TrimSpace(a.FSType))
		if lowersMinimum(fstype, parameters[volume.MkfsOptionsKey]) {
			continue
		}
		if size := capability.MinSize(fstype); size > least.size {
			least = minimum{size, "the filesystem " + fstype}
		}
	}
	if !encrypted {
		return least
	}
	purpose := fmt.Sprintf("encryption (%s for the LUKS2 header)", volume.EncryptionHeaderSize)
	if least.size == 0 {
		return minimum{volume.EncryptionHeaderSize + volume.MiB, purpose}
	}
	return minimum{volume.EncryptionHeaderSize + least.size, least.purpose + " with " + purpose}
}

// lowersMinimum reports whether options of mkfs may allow filesystems smaller
// than capability.MinSize. Profiles and node sizes decide how small a btrfs can
// be.
func lowersMinimum(fstype, options string) bool {
	words := capability.MkfsOptions(options)
	switch fstype {
	case "btrfs":
		return len(words) > 0
	case "xfs":
		return slices.Contains(words, "--unsupported")
	}
	return false
}

// apply returns the size of the new volume: size as resolved, or the minimum
// where the request allows that much explicitly, with its limit or by naming no
// size at all. Without a limit CSI would allow it as well, but then a user who
// asks for a little would pay for much more in silence. Kind OutOfRange: the
// volume would be of no use.
func (m minimum) apply(size volume.Size, r volume.Range, limits volume.Limits) (volume.Size, error) {
	if size >= m.size {
		return size, nil
	}
	if r.Limit >= m.size || r == (volume.Range{}) {
		return volume.Range{Required: m.size, Limit: r.Limit}.Resolve(limits)
	}
	asked := "a limit of " + r.Limit.String() + " was set"
	if r.Required > 0 {
		asked = r.Required.String() + " were asked for"
	}
	least, ok := m.size.RoundUp(limits.Granularity)
	if !ok {
		least = m.size
	}
	return 0, volume.Errorf(volume.KindOutOfRange, "a volume for %s needs at least %s, and %s", m.purpose, m.size, asked).
		WithRemedy("ask for at least " + least.String())
}
