package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/tests/csiclient"
)

// How much the writers write, and how fast.
const (
	// maxBytes is less than the smallest volume of the tests, 512 MiB.
	maxBytes = 192 << 20
	// minBytes are written before the writing ends, for finishTimeout at most: less
	// data would prove little.
	minBytes      = 8 << 20
	finishTimeout = 3 * time.Minute
	// pause follows each write: about 3 MB/s, for about a minute.
	pause     = 20 * time.Millisecond
	writeSize = 64 << 10 // bytes
	// recordFile is the file of the volume that lists what was written.
	recordFile = "record.json"
)

// fileWriter is the writer for a filesystem.
type fileWriter struct {
	volume, dir string
	*csiclient.Writer
}

// record is the content of recordFile.
type record struct {
	Dir   string
	Files []csiclient.WrittenFile
}

// startFileWriter starts a writer in a new directory on the volume. The data depends on
// the directory's random name, so that no two volumes have the same data.
func startFileWriter(ctx context.Context, path string) (writer, error) {
	dir, err := os.MkdirTemp(path, "data-")
	if err != nil {
		return nil, err
	}
	return fileWriter{path, dir, csiclient.StartWriter(ctx, dir, maxBytes, pause)}, nil
}

// Finish implements writer. It writes the list of the files to the volume, for the
// verification in a later pod.
func (f fileWriter) Finish(ctx context.Context) (report, error) {
	ctx, cancel := context.WithTimeout(ctx, finishTimeout)
	defer cancel()
	for f.Bytes() < minBytes && operation.Sleep(ctx, pause) == nil { // Stop returns an error of the writing
	}
	if err := f.Stop(); err != nil {
		return report{}, err
	}
	list, err := json.Marshal(record{filepath.Base(f.dir), f.Files()})
	if err != nil {
		return report{}, err
	}
	if err := writeSynced(filepath.Join(f.volume, recordFile), list); err != nil {
		return report{}, err
	}
	a, err := verify(f.volume)
	a.StallMS = f.TakeLongestStall().Milliseconds()
	return a, err
}

// writeSynced writes a file and synchronizes it, so that later snapshots contain it.
func writeSynced(name string, content []byte) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Sync(), file.Close())
}

// verify reads back the files of the list on the volume and compares them.
func verify(path string) (report, error) {
	content, err := os.ReadFile(filepath.Join(path, recordFile))
	if err != nil {
		return report{}, err
	}
	var list record
	if err := json.Unmarshal(content, &list); err != nil {
		return report{}, err
	}
	dir := filepath.Join(path, list.Dir)
	for _, f := range list.Files {
		file, err := os.Open(filepath.Join(dir, f.Name))
		if err != nil {
			return report{}, err
		}
		if err := errors.Join(dropCache(file), file.Close()); err != nil {
			return report{}, err
		}
	}
	n, err := csiclient.VerifyFiles(dir, list.Files)
	return report{Bytes: n, Sum: fmt.Sprintf("%x", sha256.Sum256(content))}, err
}

// dropCache makes the kernel drop its cached pages of a synchronized file, so that the
// next read comes from the volume. See posix_fadvise(2).
func dropCache(file *os.File) error {
	return os.NewSyscallError("fadvise", unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED))
}

// blockWriter is the writer for a block device. It writes from the device's start.
type blockWriter struct {
	device  *os.File
	stop    context.CancelFunc
	done    chan struct{}
	written int64         // parts of writeSize bytes; only the goroutine uses it until done is closed
	stall   time.Duration // likewise
	err     error         // likewise
}

// startBlockWriter starts a writer on a block device.
func startBlockWriter(ctx context.Context, path string) (writer, error) {
	device, err := os.OpenFile(path, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	b := &blockWriter{device: device, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		for b.err == nil && ctx.Err() == nil && b.written*writeSize < maxBytes {
			begin := time.Now()
			if _, b.err = device.WriteAt(blockContent(b.written), b.written*writeSize); b.err == nil {
				b.written++
			}
			b.stall = max(b.stall, time.Since(begin))
			_ = operation.Sleep(ctx, pause) // the loop checks ctx
		}
	}()
	return b, nil
}

// blockContent returns the data for a part of the device of writeSize bytes.
func blockContent(number int64) []byte {
	seed := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(number)))
	buf := make([]byte, writeSize)
	_, _ = rand.NewChaCha8(seed).Read(buf) // never fails
	return buf
}

// Finish implements writer.
func (b *blockWriter) Finish(context.Context) (report, error) {
	b.stop()
	<-b.done
	if b.err != nil {
		return report{}, b.err
	}
	if b.written == 0 {
		return report{}, errors.New("nothing was written")
	}
	if err := dropCache(b.device); err != nil {
		return report{}, err
	}
	buf := make([]byte, writeSize)
	for n := range b.written {
		if _, err := b.device.ReadAt(buf, n*writeSize); err != nil {
			return report{}, err
		}
		if !bytes.Equal(buf, blockContent(n)) {
			return report{}, fmt.Errorf("data is lost: the %d bytes at %d differ from what was written", writeSize, n*writeSize)
		}
	}
	return report{Bytes: b.written * writeSize, StallMS: b.stall.Milliseconds()}, nil
}
