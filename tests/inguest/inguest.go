// Package inguest has what tests of volumes in a guest share: a program that writes while a volume
// grows, and marks at the ends of a raw volume.
//
//	w := inguest.StartWriter(t, agent, "writer", v.Target, record)
//	written := w.Stop(t)
//	w.Verify(t, v.Target)
package inguest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// timeout bounds each call: on a busy machine, calls that usually take seconds may take minutes.
const timeout = 4 * time.Minute

// Writer is the program of package writer (tests/vm/writer), which writes files in a guest and
// records their checksums.
type Writer struct {
	Agent   *vm.Agent
	Program string // its path in the guest
	Record  string // path in the guest of the list of checksums

	process *vm.Process
}

// StartWriter starts the program, which writes to a directory of the guest.
func StartWriter(tb testing.TB, agent *vm.Agent, program, dir, record string) *Writer {
	tb.Helper()
	command := vm.Command{Argv: []string{program, "write", dir, record}}
	process := must.Value(agent.Start(tb.Context(), command))(tb)
	return &Writer{Agent: agent, Program: program, Record: record, process: process}
}

// Written is what the program has written, or read back.
type Written struct {
	Bytes   int64 `json:"bytes"`
	StallMS int64 `json:"stall_ms"` // the longest time of one write, in milliseconds
}

// Stop ends the writing.
func (w *Writer) Stop(tb testing.TB) Written {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), timeout)
	defer cancel()
	must.Succeed(tb, w.process.Signal(ctx, syscall.SIGTERM))
	must.Succeed(tb, w.process.Wait(ctx))
	return parse(tb, must.Value(w.process.Log(ctx))(tb))
}

// Verify reads all files back from the directory, and fails the test unless they have the recorded
// checksums, or if there are none.
func (w *Writer) Verify(tb testing.TB, dir string) {
	tb.Helper()
	output := run(tb, w.Agent, w.Program, "verify", dir, w.Record)
	if parse(tb, output).Bytes == 0 {
		tb.Error("the writer has written no byte, so this test proves nothing")
	}
}

func parse(tb testing.TB, output string) (written Written) {
	tb.Helper()
	if err := json.Unmarshal([]byte(output), &written); err != nil {
		tb.Fatalf("parse the writer's output %q: %v", output, err)
	}
	return written
}

// WriteMark writes a text into the last 4 KiB before an offset of a raw volume, past the cache of
// the guest.
func WriteMark(tb testing.TB, agent *vm.Agent, path string, end int64) {
	tb.Helper()
	run(tb, agent, "sh", "-c", fmt.Sprintf("printf '%s' | dd of=%s bs=4096 seek=%d conv=notrunc,sync,fsync 2>&1",
		mark(end), path, end/4096-1))
}

// WantMark fails the test unless the text of WriteMark is before the offset.
func WantMark(tb testing.TB, agent *vm.Agent, path string, end int64) {
	tb.Helper()
	script := fmt.Sprintf("dd if=%s bs=4096 skip=%d count=1 2>/dev/null | tr -d '\\0'", path, end/4096-1)
	if got := strings.TrimSpace(run(tb, agent, "sh", "-c", script)); got != mark(end) {
		tb.Errorf("the last block before %d bytes: got %q, want %q", end, got, mark(end))
	}
}

func mark(end int64) string { return fmt.Sprintf("ends at %d", end) }

// run runs a program in the guest and returns its output.
func run(tb testing.TB, agent *vm.Agent, argv ...string) string {
	tb.Helper()
	return must.Value(agent.Run(tb.Context(), vm.Command{Argv: argv, Timeout: timeout}))(tb)
}

// VolumeName returns the name of the test in characters that names of volumes may have.
func VolumeName(tb testing.TB) string {
	tb.Helper()
	return strings.ToLower(strings.NewReplacer("/", "-", "_", "-", " ", "-").Replace(tb.Name()))
}
