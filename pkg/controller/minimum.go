package controller

import (
	"fmt"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/volume"
)

// requestAtLeast begins a remedy, which ends with a size.
const requestAtLeast = "set resources.requests.storage of the claim, and its limit if it has one, to at least "

// minimum is the smallest size with which a volume can be used as requested.
type minimum struct {
	size    volume.Size
	purpose string // what needs the size, for messages
}

// minimumFor returns the minimum of a new volume; zero if none is known: for a request
// that names no filesystem (the node chooses one), for a class whose mkfs options lower
// the minimum, and for a block volume that is not encrypted.
func minimumFor(accesses []volume.Access, parameters map[string]string, encrypted bool) minimum {
	var result minimum
	for _, a := range accesses {
		fsType := strings.ToLower(strings.TrimSpace(a.FSType))
		if lowersMinimum(fsType, parameters[volume.MkfsOptionsKey]) {
			continue
		}
		if size := capability.MinFilesystemSize(fsType); size > result.size {
			result = minimum{size, "the filesystem " + fsType}
		}
	}
	if !encrypted {
		return result
	}
	encryption := fmt.Sprintf("encryption (%s for the LUKS2 header)", volume.EncryptionHeaderSize)
	if result.size == 0 {
		return minimum{volume.EncryptionHeaderSize + volume.MiB, encryption}
	}
	return minimum{volume.EncryptionHeaderSize + result.size, result.purpose + " with " + encryption}
}

// lowersMinimum reports whether options of mkfs may allow filesystems smaller than
// capability.MinFilesystemSize. For btrfs that depends on many options (profiles, node size).
func lowersMinimum(fsType, mkfsOptions string) bool {
	words := capability.SplitMkfsOptions(mkfsOptions)
	switch fsType {
	case "btrfs":
		return len(words) > 0
	case "xfs":
		return slices.Contains(words, "--unsupported")
	}
	return false
}

// apply returns the size of the new volume: size, or the minimum if size is smaller and
// the request allows the minimum explicitly, by its limit or by naming no size at all.
// Without a limit CSI allows a larger size too, but then a user who requests a small
// volume would pay for a much larger one without notice. Error kind OutOfRange: the request
// does not allow the minimum.
func (m minimum) apply(size volume.Size, r volume.Range, limits volume.Limits) (volume.Size, error) {
	if size >= m.size {
		return size, nil
	}
	if r.Limit >= m.size || r == (volume.Range{}) {
		return volume.Range{Required: m.size, Limit: r.Limit}.Resolve(limits)
	}
	found := "the request has a limit of " + r.Limit.String()
	if r.Required > 0 {
		found = "the request is for " + r.Required.String()
	}
	rounded, ok := m.size.RoundUp(limits.Granularity)
	if !ok {
		rounded = m.size
	}
	return 0, volume.Errorf(volume.KindOutOfRange, "a volume for %s needs at least %s, but %s", m.purpose, m.size, found).
		WithRemedy(requestAtLeast + rounded.String())
}
