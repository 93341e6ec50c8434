package volume

import "testing"

func TestIsShared(t *testing.T) {
	t.Parallel()
	for access, want := range map[struct {
		mode  AccessMode
		block bool
	}]bool{
		{AccessSingleNodeWriter, true}:      false,
		{AccessSingleNodeReaderOnly, false}: false,
		{AccessMultiNodeReaderOnly, false}:  true,
		{AccessMultiNodeReaderOnly, true}:   true,
		{AccessMultiNodeSingleWriter, true}: true,
		{AccessMultiNodeMultiWriter, true}:  true,
		// Writing to a filesystem that another node has mounted destroys it.
		{AccessMultiNodeSingleWriter, false}: false,
		{AccessMultiNodeMultiWriter, false}:  false,
	} {
		if got := (Access{Mode: access.mode, Block: access.block}).IsShared(); got != want {
			t.Errorf("%s, block %v: %v, want %v", access.mode, access.block, got, want)
		}
	}
}

func TestTopologyIsWithin(t *testing.T) {
	zone := Topology{"zone": "a", "node": "n1"}
	if !zone.IsWithin(Topology{"zone": "a"}) || !zone.IsWithin(nil) || zone.IsWithin(Topology{"zone": "b"}) ||
		zone.IsWithin(Topology{"rack": "1"}) {
		t.Error("a place is within another when it has all its segments")
	}
}

func TestVolumeCloneSharesNothing(t *testing.T) {
	v := Volume{Topology: []Topology{{"zone": "a"}}, VolumeContext: map[string]string{"k": "v"}, Nodes: []string{"n"}}
	c := v.Clone()
	c.Topology[0]["zone"], c.VolumeContext["k"], c.Nodes[0] = "b", "w", "m"
	if v.Topology[0]["zone"] != "a" || v.VolumeContext["k"] != "v" || v.Nodes[0] != "n" {
		t.Error("the copy shares memory with the original")
	}
}
