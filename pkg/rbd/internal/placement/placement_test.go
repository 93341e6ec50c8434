package placement

import "testing"

// The values are those of `ceph osd map POOL OBJECT NAMESPACE` of Ceph 16.2 for a pool of 8 groups.
func TestHashIsThatOfCeph(t *testing.T) {
	for _, c := range []struct {
		name, namespace string
		hash, group     uint32
	}{
		{"rbd_header.1234", "", 0xad4ccb1f, 7},
		{"rbd_header.1234", "tenant", 0x7da6f585, 5},
		{"rbd_data.abc.0000000000000001", "", 0x3601b467, 7},
		{"growvol-map-12", "", 0xa1ba3fc4, 4},
		{"growvol-map-12", "tenant", 0x356ddccd, 5},
		{"abcdefghijklmnopqrstuvwxyz0123456789", "", 0x92c983c7, 7},
		{"abcdefghijklmnopqrstuvwxyz0123456789", "tenant", 0x4ca0a47f, 7},
	} {
		key := c.name
		if c.namespace != "" {
			key = c.namespace + "\x1f" + c.name
		}
		if got := hash([]byte(key)); got != c.hash {
			t.Errorf("%q: got the hash %x, want %x", key, got, c.hash)
		}
		if got := Group(c.name, c.namespace, 8); got != c.group {
			t.Errorf("%q: got the group %d, want %d", key, got, c.group)
		}
	}
}

func TestProbesReachEveryGroup(t *testing.T) {
	for _, groups := range []uint32{1, 2, 8, 12, 33, 1000, 4096} {
		probes := Probes("p.", "ns", groups)
		for want, name := range probes {
			if name == "" || Group(name, "ns", groups) != uint32(want) { //nolint:gosec // below 4096
				t.Fatalf("%d groups: the probe of group %d is %q", groups, want, name)
			}
		}
	}
}
