package table

import (
	"io"

	"github.com/growvol/growvol/pkg/claim"
)

// PrintShort prints a row for each claim whose filesystem is smaller than the claim says, with the
// bytes that it lacks at least. This file has the table of `kubectl growvol doctor --all`.
func PrintShort(w io.Writer, statuses []claim.Status, o Options) error {
	rows := [][]cell{texts("NAMESPACE", "NAME", "CLAIM", "FILESYSTEM", "MISSING", "READ", "NODE", "DRIVER")}
	for i := range statuses {
		s := &statuses[i]
		filesystem := s.Filesystem()
		pod, _ := s.RunningPod()
		rows = append(rows, []cell{
			{text: s.Namespace},
			{text: s.Name},
			{text: sizeText(s.Layer(claim.LayerClaim))},
			layerSize(filesystem),
			{"≥ " + ShortSize(s.Missing), colorRed},
			{text: age(o.Now, filesystem.ReadAt)},
			{text: dash(pod.Node)},
			{text: dash(s.Driver)},
		})
	}
	return printTable(w, rows, o.Color)
}
