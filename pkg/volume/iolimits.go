package volume

import (
	"maps"
	"slices"
	"strconv"
)

// This file holds limits of a volume's I/O, which the node enforces.

// Keys of the limits: mutable parameters (VolumeAttributesClass), and keys of the publish context.
// The names are those of ceph-csi.
const (
	MaxReadBPSKey   = "maxReadBps"
	MaxWriteBPSKey  = "maxWriteBps"
	MaxReadIOPSKey  = "maxReadIops"
	MaxWriteIOPSKey = "maxWriteIops"
)

// IOLimitKeys returns the keys of the limits, sorted.
func IOLimitKeys() []string {
	return []string{MaxReadBPSKey, MaxReadIOPSKey, MaxWriteBPSKey, MaxWriteIOPSKey}
}

// IOLimits bound the I/O of a pod to a volume; zero: no limit.
type IOLimits struct {
	ReadBPS, WriteBPS   uint64 // bytes per second
	ReadIOPS, WriteIOPS uint64 // operations per second
}

// IsEmpty reports whether there are no limits.
func (l IOLimits) IsEmpty() bool { return l == IOLimits{} }

// ParseIOLimits reads the limits among the values of IOLimitKeys, and ignores other keys. An empty
// value is no limit. Kind Invalid: a value is not a whole number above zero.
func ParseIOLimits(values map[string]string) (IOLimits, error) {
	var l IOLimits
	fields := map[string]*uint64{
		MaxReadBPSKey: &l.ReadBPS, MaxWriteBPSKey: &l.WriteBPS, MaxReadIOPSKey: &l.ReadIOPS, MaxWriteIOPSKey: &l.WriteIOPS,
	}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		value := values[key]
		if value == "" {
			continue
		}
		n, err := strconv.ParseUint(value, 10, 63)
		if err != nil || n == 0 {
			return IOLimits{}, Errorf(KindInvalid, "the parameter %s is %q, but must be a whole number above zero", key, value).
				WithRemedy("correct it in the VolumeAttributesClass, or remove it there: then there is no limit")
		}
		*fields[key] = n
	}
	return l, nil
}
