package hotplug

import (
	"context"
	"strings"
	"syscall"
	"testing"

	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// writer is a program in the guest that writes checksummed files to a volume.
type writer struct {
	process *vm.Process
	record  string // path of the file with the checksums
}

// startWriter starts a writer on the published volume.
func (d *disk) startWriter(t *testing.T) writer {
	t.Helper()
	w := writer{record: "/tmp/record-" + d.name}
	p, err := machine.Start(t.Context(), vm.Command{Argv: []string{"writer", "write", d.Target, w.record}})
	must.Succeed(t, err)
	t.Cleanup(func() { _ = p.Kill(context.WithoutCancel(t.Context())) }) // in case the test has failed
	w.process = p
	return w
}

// stop ends the writer and returns its report. It ends the test if the writer has
// failed before.
func (w writer) stop(t *testing.T) string {
	t.Helper()
	must.Succeed(t, w.process.Signal(t.Context(), syscall.SIGTERM))
	must.Succeed(t, w.process.Wait(t.Context()))
	log, err := w.process.Log(t.Context())
	must.Succeed(t, err)
	return strings.TrimSpace(log)
}

// verify reads back from dir what was written and returns a report.
func (w writer) verify(t *testing.T, dir string) string {
	t.Helper()
	return sh(t, "writer verify "+dir+" "+w.record+" && rm "+w.record)
}
