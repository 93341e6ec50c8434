package table

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/volume"
)

var update = flag.Bool("update", false, "write the golden files")

var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// growing returns a claim whose filesystem has not grown yet.
func growing() claim.Status {
	return claim.Status{
		Namespace: "shop", Name: "data-db-0", Phase: "Bound", Class: "fast", Driver: "loop.growvol.io", Handle: "handle-1",
		Volume: "pvc-1", Step: "NodeResizeInProgress",
		Pods: []claim.Pod{{Name: "db-0", Node: "node1", Runs: true}},
		Layers: []claim.Layer{
			{
				Name:   claim.LayerRequest,
				Size:   20 * volume.GiB,
				State:  claim.StateOK,
				Source: "PersistentVolumeClaim",
				ReadAt: now,
			},
			{
				Name:   claim.LayerClaim,
				Size:   10 * volume.GiB,
				State:  claim.StateWaits,
				Source: "PersistentVolumeClaim",
				ReadAt: now,
			},
			{Name: claim.LayerPV, Size: 20 * volume.GiB, State: claim.StateOK, Source: "PersistentVolume pvc-1", ReadAt: now},
			{
				Name: claim.LayerVolume, Size: 20 * volume.GiB, State: claim.StateOK, Source: "Cinder handle-1, in-use",
				ReadAt: now.Add(-2 * time.Second),
			},
			{
				Name: claim.LayerDevice, Size: 10 * volume.GiB, State: claim.StateShort, Source: "/dev/vdc on node1",
				ReadAt: now.Add(-2 * time.Second),
			},
			{Name: claim.LayerMapping, State: claim.StateAbsent, Source: "not encrypted"},
			{
				Name: claim.LayerFilesystem, Size: 10*volume.GiB - 69*volume.MiB, State: claim.StateWaits,
				Source: "kubelet of node1, ext4, 93% used", ReadAt: now.Add(-41 * time.Second),
			},
		},
		Usage: &claim.Usage{UsedPercent: 93},
		Conditions: []claim.Condition{
			{Type: "FileSystemResizePending", Since: now.Add(-3 * time.Minute), Message: "Waiting for user to (re-)start a pod"},
		},
		Events: []claim.Event{
			{
				Object: "PersistentVolumeClaim/data-db-0", Reason: "Resizing", Message: "External resizer is resizing volume pvc-1",
				Last: now.Add(-3 * time.Minute), Count: 2,
			},
		},
		Diagnosis: claim.Diagnosis{
			Severity: claim.SeverityWaits, Kind: "node", Subject: "NodeResizeInProgress", Since: now.Add(-3 * time.Minute),
			Problem: "kubelet calls the node plugin", Next: "wait",
		},
	}
}

// unread returns a claim of which a user without rights reads the claim only.
func unread() claim.Status {
	const right = "the right to get persistentvolumes is missing (next step: ask for a role)"
	layer := func(name claim.LayerName) claim.Layer {
		return claim.Layer{Name: name, State: claim.StateUnknown, Source: "driver (unknown)", Problem: right}
	}
	return claim.Status{
		Namespace: "shop", Name: "logs", Phase: "Bound", Class: "fast", Volume: "pvc-2",
		Layers: []claim.Layer{
			{Name: claim.LayerRequest, Size: volume.GiB, State: claim.StateOK, Source: "PersistentVolumeClaim", ReadAt: now},
			{Name: claim.LayerClaim, Size: volume.GiB, State: claim.StateOK, Source: "PersistentVolumeClaim", ReadAt: now},
			{Name: claim.LayerPV, State: claim.StateUnknown, Source: "PersistentVolume pvc-2", Problem: right},
			layer(claim.LayerVolume), layer(claim.LayerDevice), layer(claim.LayerMapping),
			{
				Name: claim.LayerFilesystem, State: claim.StateUnknown, Source: "kubelet of node1",
				Problem: "the right to get nodes/proxy is missing",
			},
		},
		Problems:  []string{"the right to list events is missing"},
		Diagnosis: claim.Diagnosis{Severity: claim.SeverityUnknown, Problem: "nothing is stuck"},
	}
}

func stuck() claim.Status {
	s := growing()
	s.Name = "data-db-1"
	s.Diagnosis = claim.Diagnosis{
		Severity: claim.SeverityStuck, Subject: "ControllerResizeInfeasible", Since: now.Add(-time.Hour),
		Problem: "the storage system cannot provide that size: too large", Next: "step back",
	}
	return s
}

// The golden files are the output as users see it. `go test ./pkg/claim/table -update` writes them.
func TestGoldenFiles(t *testing.T) {
	one := func(s claim.Status, o Options) func(w *bytes.Buffer) error {
		return func(w *bytes.Buffer) error { return PrintClaim(w, &s, o) }
	}
	rows := func(o Options) func(w *bytes.Buffer) error {
		return func(w *bytes.Buffer) error {
			return PrintRows(w, []claim.Status{stuck(), growing(), unread()}, o)
		}
	}
	for name, write := range map[string]func(w *bytes.Buffer) error{
		"claim":         one(growing(), Options{Now: now}),
		"claim-color":   one(stuck(), Options{Now: now, Color: true}),
		"claim-unread":  one(unread(), Options{Now: now}),
		"rows":          rows(Options{Now: now}),
		"rows-wide":     rows(Options{Now: now, Wide: true, Namespace: true}),
		"rows-color":    rows(Options{Now: now, Color: true}),
		"rows-headless": rows(Options{Now: now, NoHeaders: true}),
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := write(&got); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got.String(), want)
			}
		})
	}
}

func TestShortSize(t *testing.T) {
	for size, want := range map[volume.Size]string{
		0: "0 B", 1023: "1023 B", volume.GiB: "1 GiB", volume.GiB - 1: "1023 MiB", 20*volume.GiB - 1: "19.9 GiB",
		1536 * volume.MiB: "1.5 GiB", 17 * volume.TiB: "17 TiB",
	} {
		if got := ShortSize(size); got != want {
			t.Errorf("ShortSize(%d) = %q, want %q", size, got, want)
		}
	}
}
