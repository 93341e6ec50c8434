// Command app runs in the pods of the tests: it writes to the pod's volume, and checks
// the volume when a test executes it in the pod.
//
//	app write PATH      writes checksummed data to the volume until `app stop`, then waits
//	app fill PATH PERCENT
//	                    occupies PERCENT of the filesystem each second until `app stop`
//	app occupy PATH BYTES
//	                    occupies BYTES of the filesystem with one file, which stays
//	app stop            ends the writing and reads all data back
//	app verify PATH     reads back what an earlier pod has written to the directory
//	app size PATH       prints the sizes of the volume
//	app await PATH BYTES
//	                    waits until the filesystem has BYTES, and prints the time
//	app use PATH BYTES  prints the sizes too, and checks that BYTES of the volume can be used
//	app count PATH...   writes rising numbers to the volumes in turn
//	app counters PATH... prints the numbers on the volumes
//	app pause           waits
//
// PATH is the directory where the volume is mounted, or its block device. The output is
// one line of JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/growvol/growvol/pkg/operation"
)

// socket is the path of the socket on which `app write` listens for `app stop`.
const socket = "/app.sock"

// report is what the program prints.
type report struct {
	Bytes      int64   `json:"bytes,omitempty"`      // written, and read back
	Sum        string  `json:"sum,omitempty"`        // checksum of the files' checksums, which differs for other data
	StallMS    int64   `json:"stall_ms,omitempty"`   // the longest duration of one write or fsync
	Device     int64   `json:"device,omitempty"`     // size of the block device, in bytes
	Filesystem int64   `json:"filesystem,omitempty"` // size of the filesystem, in bytes, as df shows it
	Counters   []int64 `json:"counters,omitempty"`
	AtMS       int64   `json:"at_ms,omitempty"` // when the size was reached, in milliseconds of Unix time
	Error      string  `json:"error,omitempty"`
}

// writer writes to a volume.
type writer interface {
	// Finish ends the writing when enough data is written or ctx has ended, reads all
	// data back and compares it.
	Finish(ctx context.Context) (report, error)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	a, err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		a.Error = err.Error()
	}
	if err := errors.Join(err, json.NewEncoder(os.Stdout).Encode(a)); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

// run runs a command of the program.
func run(ctx context.Context, args []string) (report, error) {
	var command, path, count string
	for i, to := range []*string{&command, &path, &count} {
		if i < len(args) {
			*to = args[i]
		}
	}
	switch command {
	case "write":
		return report{}, write(ctx, func() (writer, error) { return startWriter(ctx, path) })
	case "stop":
		return finishWriter(ctx)
	case "verify":
		return verify(path)
	case "size":
		return readSize(path)
	case "await", "use", "fill", "occupy":
		n, err := strconv.ParseInt(count, 10, 64)
		if err != nil {
			return report{}, err
		}
		return runWithNumber(ctx, command, path, n)
	case "count":
		return report{}, writeCounters(ctx, args[1:])
	case "counters":
		numbers, err := readCounters(args[1:])
		return report{Counters: numbers}, err
	case "pause":
		<-ctx.Done()
		return report{}, nil
	default:
		return report{}, fmt.Errorf("unknown command %q", command)
	}
}

// runWithNumber runs a command with a number of bytes, or a percentage.
func runWithNumber(ctx context.Context, command, path string, n int64) (report, error) {
	switch command {
	case "await":
		return awaitSize(ctx, path, n)
	case "use":
		a, err := readSize(path)
		a.Bytes = n
		return a, errors.Join(err, checkUsable(path, n))
	case "fill":
		return report{}, write(ctx, func() (writer, error) { return startFiller(ctx, path, n) })
	default:
		return report{Bytes: n}, occupy(filepath.Join(path, "occupied"), n, blockContent(0))
	}
}

// write starts a writer and answers each connection to the socket with the report of Finish.
func write(ctx context.Context, start func() (writer, error)) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	w, err := start()
	if err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		_ = listener.Close() // ends Accept, below
	}()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return nil //nolint:nilerr // the listener is closed because the pod ends
		}
		a, err := w.Finish(ctx)
		if err != nil {
			a.Error = err.Error()
		}
		if err := errors.Join(json.NewEncoder(conn).Encode(a), conn.Close()); err != nil {
			return err
		}
	}
}

// startWriter starts the writer for a directory or a block device.
func startWriter(ctx context.Context, path string) (writer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return startFileWriter(ctx, path)
	}
	return startBlockWriter(ctx, path)
}

// finishWriter returns the report of the process that writes. It waits for the socket,
// because the process may not have started yet.
func finishWriter(ctx context.Context) (report, error) {
	starting, cancel := context.WithTimeout(ctx, finishTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	for err != nil && operation.Sleep(starting, pause) == nil {
		conn, err = (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	if err != nil {
		return report{}, err
	}
	content, err := io.ReadAll(conn)
	if err := errors.Join(err, conn.Close()); err != nil {
		return report{}, err
	}
	var a report
	if err := json.Unmarshal(content, &a); err != nil {
		return report{}, fmt.Errorf("the process that writes answered %q: %w", content, err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}
