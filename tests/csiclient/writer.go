package csiclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/operation"
)

// Writer plays the application on a volume: it writes files of random content one
// after the other, synchronizes each, and records their checksums and the longest
// stall of a write.
type Writer struct {
	dir    string
	stop   context.CancelFunc
	full   chan struct{} // closed once maxBytes are written
	done   chan struct{} // closed when the goroutine ends
	random *rand.ChaCha8
	err    error // set before done is closed

	mu    sync.Mutex
	files []WrittenFile
	stall time.Duration
	bytes int64
}

// WrittenFile is what the writer knows of one file.
type WrittenFile struct {
	Name string
	Size int64
	Sum  [sha256.Size]byte // SHA-256 of the content
}

const (
	writeSize = 64 << 10 // bytes of one write call
	fileSize  = 1 << 20  // bytes of one file
)

// StartWriter starts a writer in dir. The writer writes maxBytes at most, with a
// pause after each write, until Stop or the end of ctx.
func StartWriter(ctx context.Context, dir string, maxBytes int64, pause time.Duration) *Writer {
	ctx, cancel := context.WithCancel(ctx)
	w := &Writer{
		dir:    dir,
		stop:   cancel,
		full:   make(chan struct{}),
		done:   make(chan struct{}),
		random: rand.NewChaCha8(sha256.Sum256([]byte(dir))),
	}
	go func() {
		defer close(w.done)
		for n := 0; ctx.Err() == nil && int64(n)*fileSize < maxBytes; n++ {
			if w.err = w.writeFile(ctx, fmt.Sprintf("data-%06d", n), pause); w.err != nil {
				return
			}
		}
		close(w.full)
		<-ctx.Done()
	}()
	return w
}

// writeFile writes one file, or the part of it that is written when ctx ends.
func (w *Writer) writeFile(ctx context.Context, name string, pause time.Duration) (err error) {
	f, err := os.Create(filepath.Join(w.dir, name)) //nolint:gosec // the writer's own directory
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	buf := make([]byte, writeSize)
	var size int64
	for size < fileSize && ctx.Err() == nil {
		_, _ = w.random.Read(buf) // never fails
		if err := w.measure(func() error { _, err := f.Write(buf); return err }); err != nil {
			return err
		}
		sum.Write(buf)
		size += writeSize
		if pause > 0 {
			_ = operation.Sleep(ctx, pause) // the loop checks ctx
		}
	}
	if err := w.measure(f.Sync); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes += size
	w.files = append(w.files, WrittenFile{name, size, [sha256.Size]byte(sum.Sum(nil))})
	return nil
}

// measure runs a write or fsync and updates the longest stall.
func (w *Writer) measure(op func() error) error {
	start := time.Now()
	err := op()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stall = max(w.stall, time.Since(start))
	return err
}

// TakeLongestStall returns the longest duration of one write or fsync since its
// last call.
func (w *Writer) TakeLongestStall() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	stall := w.stall
	w.stall = 0
	return stall
}

// Bytes returns how many bytes are written and synchronized.
func (w *Writer) Bytes() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes
}

// WaitUntilFull waits until the writer has written maxBytes, or has failed, and
// stops it.
func (w *Writer) WaitUntilFull() error {
	select {
	case <-w.full:
	case <-w.done:
	}
	return w.Stop()
}

// Stop ends the writing and returns the error of the write that failed, if any.
func (w *Writer) Stop() error {
	w.stop()
	<-w.done
	return w.err
}

// Verify reads every file back from dir, where the same filesystem may be mounted
// now, and compares it; see VerifyFiles.
func (w *Writer) Verify(dir string) (int64, error) { return VerifyFiles(dir, w.Files()) }

// Files returns what is written and synchronized, for a VerifyFiles in another
// process.
func (w *Writer) Files() []WrittenFile {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.files)
}

// VerifyFiles reads the files back from dir and compares them. It returns the
// number of bytes that are equal. It fails when a file differs, and when there is
// no data at all, which would prove nothing.
func VerifyFiles(dir string, files []WrittenFile) (int64, error) {
	var total int64
	for _, f := range files {
		r, err := os.Open(filepath.Join(dir, f.Name)) //nolint:gosec // the writer's own directory
		if err != nil {
			return total, err
		}
		sum := sha256.New()
		n, err := io.Copy(sum, r)
		_ = r.Close() // only read from
		if err != nil {
			return total, err
		}
		if n != f.Size || !bytes.Equal(sum.Sum(nil), f.Sum[:]) {
			return total, fmt.Errorf("data is lost: %s: wrote %d bytes, but read back %d bytes with another checksum",
				f.Name, f.Size, n)
		}
		total += n
	}
	if total == 0 {
		return 0, errors.New("the writer has written nothing")
	}
	return total, nil
}
