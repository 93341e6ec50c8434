package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// size tells how large the volume is.
func size(path string) (answer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return answer{}, err
	}
	if !info.IsDir() {
		device, err := os.Open(path)
		if err != nil {
			return answer{}, err
		}
		end, err := device.Seek(0, io.SeekEnd)
		return answer{Device: end}, errors.Join(err, device.Close())
	}
	var statfs unix.Statfs_t
	if err := unix.Statfs(path, &statfs); err != nil {
		return answer{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	device, err := deviceSize(path)
	return answer{Device: device, Filesystem: int64(statfs.Blocks) * statfs.Frsize}, err
}

// deviceSize is that of the device on which the directory's filesystem is.
func deviceSize(path string) (int64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	number := fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev))
	content, err := os.ReadFile(filepath.Join("/sys/dev/block", number, "size"))
	if err != nil {
		return 0, err
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
	return sectors * 512, err
}

// use allocates a file of so many bytes, or writes to the device up to there.
// ext3 cannot allocate without writing, which takes minutes in an emulated
// machine: there it is enough that so much is free, and that some can be used.
func use(path string, n int64) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return useDevice(path, n)
	}
	name := filepath.Join(path, "allocated")
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(file.Fd()), 0, 0, n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = useSome(file, n)
	}
	if err != nil {
		err = fmt.Errorf("allocate %d bytes for %s: %w", n, name, err)
		return errors.Join(err, file.Close(), os.Remove(name))
	}
	return errors.Join(file.Sync(), file.Close(), os.Remove(name))
}

// useSome writes a part of what it demands to be free.
func useSome(file *os.File, n int64) error {
	var statfs unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &statfs); err != nil {
		return err
	}
	if free := int64(statfs.Bavail) * statfs.Frsize; free < n {
		return fmt.Errorf("%d bytes are free", free)
	}
	_, err := file.Write(make([]byte, min(n, 32<<20)))
	return err
}

func useDevice(path string, n int64) error {
	device, err := os.OpenFile(path, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return err
	}
	defer device.Close() //nolint:errcheck // each write is synchronous
	wrote, read := content(n), make([]byte, chunk)
	if _, err := device.WriteAt(wrote, n-chunk); err != nil {
		return err
	}
	if err := forget(device); err != nil {
		return err
	}
	if _, err := device.ReadAt(read, n-chunk); err != nil {
		return err
	}
	if !bytes.Equal(wrote, read) {
		return fmt.Errorf("the last %d bytes of %s read back differ from what was written", chunk, path)
	}
	return nil
}
