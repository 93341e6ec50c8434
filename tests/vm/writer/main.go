// Command writer plays the application on a volume in a guest: it writes
// checksummed files until SIGTERM, or reads them back.
//
//	writer write DIRECTORY RECORD   writes files, and at the end their checksums to the file RECORD
//	writer verify DIRECTORY RECORD  reads the files of RECORD and compares them
//
// Both print one line of JSON: the number of bytes, and for "write" the longest
// stall of a write in milliseconds.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/growvol/growvol/tests/csiclient"
)

// How much the writer writes, and how fast.
const (
	// maxBytes is less than the smallest volume of the tests.
	maxBytes = 64 << 20
	// pause follows each write of 64 KiB, so that the writing lasts 40 s and volumes grow during it,
	// also where a dozen writers share two processors.
	pause = 40 * time.Millisecond
)

// report is what the program prints.
type report struct {
	Bytes   int64 `json:"bytes"`
	StallMS int64 `json:"stall_ms,omitempty"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "writer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 3 {
		return errors.New("usage: writer write|verify DIRECTORY RECORD")
	}
	var r report
	var err error
	switch dir, record := args[1], args[2]; args[0] {
	case "write":
		r, err = write(ctx, dir, record)
	case "verify":
		r, err = verify(dir, record)
	default:
		err = fmt.Errorf("got the command %q, want write or verify", args[0])
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

// write writes files to dir until ctx ends.
func write(ctx context.Context, dir, record string) (report, error) {
	w := csiclient.StartWriter(context.WithoutCancel(ctx), dir, maxBytes, pause)
	<-ctx.Done()
	if err := w.Stop(); err != nil {
		return report{}, err
	}
	r := report{Bytes: w.Bytes(), StallMS: w.TakeLongestStall().Milliseconds()}
	content, err := json.Marshal(w.Files())
	if err != nil {
		return r, err
	}
	return r, os.WriteFile(record, content, 0o600)
}

// verify compares the files in dir with the record.
func verify(dir, record string) (report, error) {
	content, err := os.ReadFile(record)
	if err != nil {
		return report{}, err
	}
	var files []csiclient.WrittenFile
	if err := json.Unmarshal(content, &files); err != nil {
		return report{}, fmt.Errorf("%s: %w", record, err)
	}
	n, err := csiclient.VerifyFiles(dir, files)
	return report{Bytes: n}, err
}
