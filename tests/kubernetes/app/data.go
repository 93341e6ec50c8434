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

	"github.com/growvol/growvol/pkg/operation"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/tests/csiclient"
)

const (
	// budget bounds what is written, so that a volume of 512 MiB has room.
	budget = 192 << 20
	// least is what must be there to prove anything, and is within patience.
	least    = 8 << 20
	patience = 3 * time.Minute
	// pause comes after each 64 KiB: some 3 MB a second, for a minute.
	pause = 20 * time.Millisecond
	chunk = 64 << 10
	// record is the file of the volume that lists what was written.
	record = "record.json"
)

// files writes files into a directory of their own.
type files struct {
	volume, dir string
	*csiclient.Writer
}

// written is the content of the record.
type written struct {
	Dir   string
	Files []csiclient.WrittenFile
}

// startFiles makes a directory whose name no other writer has: what is written
// depends on it, so that no two volumes have the same data.
func startFiles(ctx context.Context, path string) (writer, error) {
	dir, err := os.MkdirTemp(path, "data-")
	if err != nil {
		return nil, err
	}
	return files{path, dir, csiclient.StartWriter(ctx, dir, budget, pause)}, nil
}

// Finish implements writer. The list of the files goes to the volume, for a
// later pod.
func (f files) Finish(ctx context.Context) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for f.Bytes() < least && operation.Sleep(ctx, pause) == nil { // if the writing has failed, Stop tells why
	}
	if err := f.Stop(); err != nil {
		return answer{}, err
	}
	list, err := json.Marshal(written{filepath.Base(f.dir), f.Files()})
	if err != nil {
		return answer{}, err
	}
	if err := save(filepath.Join(f.volume, record), list); err != nil {
		return answer{}, err
	}
	a, err := verify(f.volume)
	a.StallMS = f.TakeLongestStall().Milliseconds()
	return a, err
}

// save writes a file that is in snapshots from now on.
func save(name string, content []byte) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Sync(), file.Close())
}

// verify reads back the files of the list on the volume.
func verify(path string) (answer, error) {
	content, err := os.ReadFile(filepath.Join(path, record))
	if err != nil {
		return answer{}, err
	}
	var list written
	if err := json.Unmarshal(content, &list); err != nil {
		return answer{}, err
	}
	dir := filepath.Join(path, list.Dir)
	for _, f := range list.Files {
		file, err := os.Open(filepath.Join(dir, f.Name))
		if err != nil {
			return answer{}, err
		}
		if err := errors.Join(forget(file), file.Close()); err != nil {
			return answer{}, err
		}
	}
	n, err := csiclient.VerifyFiles(dir, list.Files)
	return answer{Bytes: n, Sum: fmt.Sprintf("%x", sha256.Sum256(content))}, err
}

// forget has the kernel drop its copy of what was synchronized, so that the
// next read shows what the volume has. posix_fadvise(2).
func forget(file *os.File) error {
	return os.NewSyscallError("fadvise", unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED))
}

// blocks writes to a block device from its start.
type blocks struct {
	device  *os.File
	stop    context.CancelFunc
	done    chan struct{}
	written int64         // chunks; of the goroutine until done is closed
	stall   time.Duration // likewise
	err     error         // likewise
}

func startBlocks(ctx context.Context, path string) (writer, error) {
	device, err := os.OpenFile(path, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	b := &blocks{device: device, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		for b.err == nil && ctx.Err() == nil && b.written*chunk < budget {
			begin := time.Now()
			if _, b.err = device.WriteAt(content(b.written), b.written*chunk); b.err == nil {
				b.written++
			}
			b.stall = max(b.stall, time.Since(begin))
			_ = operation.Sleep(ctx, pause) // the loop looks at ctx
		}
	}()
	return b, nil
}

// content is what belongs into a chunk of the device.
func content(number int64) []byte {
	seed := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(number)))
	buf := make([]byte, chunk)
	_, _ = rand.NewChaCha8(seed).Read(buf) // never fails
	return buf
}

// Finish implements writer.
func (b *blocks) Finish(context.Context) (answer, error) {
	b.stop()
	<-b.done
	if b.err != nil {
		return answer{}, b.err
	}
	if b.written == 0 {
		return answer{}, errors.New("nothing was written")
	}
	if err := forget(b.device); err != nil {
		return answer{}, err
	}
	buf := make([]byte, chunk)
	for n := range b.written {
		if _, err := b.device.ReadAt(buf, n*chunk); err != nil {
			return answer{}, err
		}
		if !bytes.Equal(buf, content(n)) {
			return answer{}, fmt.Errorf("the %d bytes at %d are not what was written: data is lost", chunk, n*chunk)
		}
	}
	return answer{Bytes: b.written * chunk, StallMS: b.stall.Milliseconds()}, nil
}
