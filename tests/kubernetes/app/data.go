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

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/co"
)

const (
	// budget bounds what is written, so that a volume of 512 MiB has room.
	budget = 192 << 20
	// pause comes after each 64 KiB: some 3 MB a second, for a minute.
	pause = 20 * time.Millisecond
	chunk = 64 << 10
	// record is the file of the volume that lists what was written.
	record = "record.json"
)

// files writes files into a directory.
type files struct {
	dir string
	*co.Writer
}

func startFiles(ctx context.Context, path string) (writer, error) {
	dir := filepath.Join(path, "data")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return files{path, co.StartWriter(ctx, dir, budget, pause)}, nil
}

// Finish implements writer. The list of the files goes to the volume, for a
// later pod.
func (f files) Finish() (int64, time.Duration, error) {
	if err := f.Stop(); err != nil {
		return 0, 0, err
	}
	list, err := json.Marshal(f.Files())
	if err != nil {
		return 0, 0, err
	}
	if err := save(filepath.Join(f.dir, record), list); err != nil {
		return 0, 0, err
	}
	n, err := verify(f.dir)
	return n, f.Stall(), err
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
func verify(path string) (int64, error) {
	content, err := os.ReadFile(filepath.Join(path, record))
	if err != nil {
		return 0, err
	}
	var list []co.File
	if err := json.Unmarshal(content, &list); err != nil {
		return 0, err
	}
	return co.VerifyFiles(filepath.Join(path, "data"), list)
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
			_ = volume.Pause(ctx, pause) // the loop looks at ctx
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
func (b *blocks) Finish() (int64, time.Duration, error) {
	b.stop()
	<-b.done
	if b.err != nil {
		return 0, 0, b.err
	}
	if b.written == 0 {
		return 0, 0, errors.New("nothing was written")
	}
	buf := make([]byte, chunk)
	for n := range b.written {
		if _, err := b.device.ReadAt(buf, n*chunk); err != nil {
			return 0, 0, err
		}
		if !bytes.Equal(buf, content(n)) {
			return 0, 0, fmt.Errorf("the %d bytes at %d are not what was written: data is lost", chunk, n*chunk)
		}
	}
	return b.written * chunk, b.stall, nil
}
