// Package placement computes in which placement group of its pool an object lies, as clients of
// Ceph do. Probes is what the driver needs: a name in every placement group of a pool.
package placement

import (
	"encoding/binary"
	"math/bits"
	"strconv"
)

// Probes returns one name of an object for each placement group of a pool, by its number. The
// objects need not exist. groups is the pool's pg_num; namespace is the RADOS namespace.
func Probes(prefix, namespace string, groups uint32) []string {
	out := make([]string, groups)
	for i, missing := 0, groups; missing > 0; i++ {
		name := prefix + strconv.Itoa(i)
		if g := Group(name, namespace, groups); out[g] == "" {
			out[g] = name
			missing--
		}
	}
	return out
}

// Group returns the number of the placement group of an object (ceph_stable_mod and
// pg_pool_t::raw_pg_to_pg of Ceph). The pool hashes names by rjenkins, as all pools do since 2010.
func Group(name, namespace string, groups uint32) uint32 {
	if namespace != "" {
		name = namespace + "\x1f" + name
	}
	h := hash([]byte(name))
	mask := uint32(1)<<bits.Len32(groups-1) - 1
	if h&mask < groups {
		return h & mask
	}
	return h & (mask >> 1)
}

// hash is Robert Jenkins' hash of 1996 with 32 bits, which is in the public domain
// (https://burtleburtle.net/bob/hash/evahash.html), with the initial value 0.
func hash(key []byte) uint32 {
	const golden = 0x9e3779b9
	length := uint32(len(key)) //nolint:gosec // names of objects have at most 2048 bytes
	a, b, c := uint32(golden), uint32(golden), uint32(0)
	for len(key) >= 12 {
		a += binary.LittleEndian.Uint32(key)
		b += binary.LittleEndian.Uint32(key[4:])
		c += binary.LittleEndian.Uint32(key[8:])
		a, b, c = mix(a, b, c)
		key = key[12:]
	}
	var rest [12]byte
	// The lowest byte of c is the length.
	copy(rest[:8], key)
	if len(key) > 8 {
		copy(rest[9:], key[8:])
	}
	a += binary.LittleEndian.Uint32(rest[:])
	b += binary.LittleEndian.Uint32(rest[4:])
	c += length + binary.LittleEndian.Uint32(rest[8:])
	_, _, c = mix(a, b, c)
	return c
}

func mix(a, b, c uint32) (uint32, uint32, uint32) {
	a = (a - b - c) ^ c>>13
	b = (b - c - a) ^ a<<8
	c = (c - a - b) ^ b>>13
	a = (a - b - c) ^ c>>12
	b = (b - c - a) ^ a<<16
	c = (c - a - b) ^ b>>5
	a = (a - b - c) ^ c>>3
	b = (b - c - a) ^ a<<10
	c = (c - a - b) ^ b>>15
	return a, b, c
}
