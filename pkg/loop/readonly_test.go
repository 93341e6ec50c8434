package loop

import (
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

// The node decides whether the device can be written to, not the access mode
// that the volume is attached with: a journal may have to be replayed.
func TestReadOnlyIsTheNodesChoice(t *testing.T) {
	m := newMachine(t, "")
	if err := m.b.Detach(t.Context(), m.id, node); err != nil {
		t.Fatal(err)
	}
	_, err := m.b.Attach(t.Context(), volume.AttachRequest{
		ID: m.id, Node: node, ReadOnly: true, Access: volume.Access{Mode: volume.AccessSingleNodeReaderOnly},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{false, true, false} { // unused, it is connected anew
		m.connect(readOnly)
		if d := m.devices(); len(d) != 1 || d[0].readOnly != readOnly {
			t.Errorf("%+v, want read-only %t", d, readOnly)
		}
	}
	m.mount(m.devices()[0].path)
	_, err = m.c.Connect(t.Context(), volume.ConnectRequest{ID: m.id, ReadOnly: true})
	wantKind(t, err, volume.KindPrecondition, "read-only false, not true", "in use")
	m.connect(false)
}
