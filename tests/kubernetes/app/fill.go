package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
)

// This file fills filesystems. Most of what a file occupies is allocated without being written, so
// that the test does not fill the disk of its machine; the filesystem has no space left for it in
// either case. The beginning of each file is written and read back.

// fillPause is the time between two files.
const fillPause = 200 * time.Millisecond

// filler fills a filesystem until it is stopped, or until it has no space.
type filler struct {
	dir   string
	stop  context.CancelFunc
	done  chan struct{}
	files int64 // only the goroutine uses it until done is closed
	bytes int64 // likewise
	err   error // likewise
}

// startFiller starts a filler that occupies percent of the filesystem's present size each second.
func startFiller(ctx context.Context, path string, percent int64) (writer, error) {
	dir, err := os.MkdirTemp(path, "fill-")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	f := &filler{dir: dir, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		for f.err == nil && operation.Sleep(ctx, fillPause) == nil {
			f.err = f.writeFile(percent)
		}
	}()
	return f, nil
}

// writeFile writes one file.
func (f *filler) writeFile(percent int64) error {
	var statfs unix.Statfs_t
	if err := unix.Statfs(f.dir, &statfs); err != nil {
		return &os.PathError{Op: "statfs", Path: f.dir, Err: err}
	}
	size := int64(statfs.Blocks) * statfs.Frsize * percent / 100 * fillPause.Milliseconds() / 1000
	if err := occupy(f.name(f.files), size, blockContent(f.files)); err != nil {
		return err
	}
	f.files++
	f.bytes += size
	return nil
}

func (f *filler) name(number int64) string { return filepath.Join(f.dir, fmt.Sprintf("%06d", number)) }

// Finish implements writer.
func (f *filler) Finish(context.Context) (report, error) {
	f.stop()
	<-f.done
	for n := range f.files {
		content, err := os.Open(f.name(n))
		if err != nil {
			return report{}, err
		}
		err = checkBeginning(content, blockContent(n))
		if err := errors.Join(err, content.Close()); err != nil {
			return report{}, err
		}
	}
	return report{Bytes: f.bytes}, f.err
}

func checkBeginning(file *os.File, want []byte) error {
	if err := dropCache(file); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if _, err := file.ReadAt(got, 0); err != nil {
		return err
	}
	if string(got) != string(want) {
		return fmt.Errorf("data is lost: the beginning of %s differs from what was written", file.Name())
	}
	return nil
}

// occupy creates a file of the size that begins with the content, and synchronizes it.
func occupy(name string, size int64, content []byte) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	err = os.NewSyscallError("fallocate", unix.Fallocate(int(file.Fd()), 0, 0, size))
	if err == nil {
		_, err = file.WriteAt(content, 0)
	}
	if err != nil {
		err = fmt.Errorf("write %d bytes to %s: %w", size, name, err)
	}
	return errors.Join(err, file.Sync(), file.Close())
}
