package volume

import "testing"

func TestWhatMayBeShared(t *testing.T) {
	t.Parallel()
	for access, want := range map[struct {
		mode  AccessMode
		block bool
	}]bool{
		{SingleNodeWriter, true}:      false,
		{SingleNodeReaderOnly, false}: false,
		{MultiNodeReaderOnly, false}:  true,
		{MultiNodeReaderOnly, true}:   true,
		{MultiNodeSingleWriter, true}: true,
		{MultiNodeMultiWriter, true}:  true,
		// Writing to a filesystem that another node has mounted destroys it.
		{MultiNodeSingleWriter, false}: false,
		{MultiNodeMultiWriter, false}:  false,
	} {
		if got := (Access{Mode: access.mode, Block: access.block}).Shared(); got != want {
			t.Errorf("%s, block %v: %v, want %v", access.mode, access.block, got, want)
		}
	}
}
