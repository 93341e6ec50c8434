// Command app is what runs in the pods of the tests: an application that
// writes to its volume, and the questions that tests ask in its pod.
//
//	app write PATH      writes checksummed data to the volume, until `app stop`; then it idles
//	app stop            ends the writing and reads everything back
//	app verify PATH     reads back what an earlier pod has written to the directory
//	app size PATH       the sizes of the volume
//	app use PATH BYTES  proves that so much of the volume can be used
//	app pause           does nothing
//
// PATH is the directory where the volume is mounted, or its block device. The
// answers are one line of JSON.
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
	"strconv"
	"syscall"

	"github.com/growvol/growvol/pkg/operation"
)

// socket is where `app stop` finds `app write`.
const socket = "/app.sock"

// answer is what is printed.
type answer struct {
	Bytes      int64  `json:"bytes,omitempty"`      // written and read back
	Sum        string `json:"sum,omitempty"`        // checksum of the files' checksums: other data has another
	StallMS    int64  `json:"stall_ms,omitempty"`   // the longest that one write or fsync took
	Device     int64  `json:"device,omitempty"`     // size of the block device, in bytes
	Filesystem int64  `json:"filesystem,omitempty"` // size of the filesystem, in bytes, as df shows it
	Error      string `json:"error,omitempty"`
}

// writer is data under way to a volume.
type writer interface {
	// Finish ends it, once there is enough or ctx has ended; it reads everything
	// back and compares.
	Finish(ctx context.Context) (answer, error)
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

func run(ctx context.Context, args []string) (answer, error) {
	var command, path, count string
	for i, to := range []*string{&command, &path, &count} {
		if i < len(args) {
			*to = args[i]
		}
	}
	switch command {
	case "write":
		return answer{}, write(ctx, path)
	case "stop":
		return ask(ctx)
	case "verify":
		return verify(path)
	case "size":
		return size(path)
	case "use":
		n, err := strconv.ParseInt(count, 10, 64)
		if err != nil {
			return answer{}, err
		}
		return answer{Bytes: n}, use(path, n)
	case "pause":
		<-ctx.Done()
		return answer{}, nil
	default:
		return answer{}, fmt.Errorf("unknown command %q", command)
	}
}

// write writes until it is asked to stop, and answers what came of it.
func write(ctx context.Context, path string) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	w, err := start(ctx, path)
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
			return nil //nolint:nilerr // closed above: the pod ends
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

func start(ctx context.Context, path string) (writer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return startFiles(ctx, path)
	}
	return startBlocks(ctx, path)
}

// ask hands on the answer of the process that writes, which may have been
// started only just now.
func ask(ctx context.Context) (answer, error) {
	starting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	for err != nil && operation.Sleep(starting, pause) == nil {
		conn, err = (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	if err != nil {
		return answer{}, err
	}
	content, err := io.ReadAll(conn)
	if err := errors.Join(err, conn.Close()); err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal(content, &a); err != nil {
		return answer{}, fmt.Errorf("the process that writes answers %q: %w", content, err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}
