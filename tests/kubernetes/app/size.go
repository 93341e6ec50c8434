package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
)

// readSize returns the sizes of the volume's device and filesystem.
func readSize(path string) (report, error) {
	info, err := os.Stat(path)
	if err != nil {
		return report{}, err
	}
	if !info.IsDir() {
		device, err := os.Open(path)
		if err != nil {
			return report{}, err
		}
		end, err := device.Seek(0, io.SeekEnd)
		return report{Device: end}, errors.Join(err, device.Close())
	}
	var statfs unix.Statfs_t
	if err := unix.Statfs(path, &statfs); err != nil {
		return report{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	device, err := deviceSize(path)
	return report{Device: device, Filesystem: int64(statfs.Blocks) * statfs.Frsize}, err
}

// deviceSize returns the size of the device of the directory's filesystem.
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

// checkUsable allocates a file of n bytes, or writes the last part of the first n bytes
// of the device. ext3 cannot allocate without writing, which takes minutes in an emulated
// machine: there checkUsable checks that n bytes are free and writes a part of them.
func checkUsable(path string, n int64) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return checkDeviceUsable(path, n)
	}
	name := filepath.Join(path, "allocated")
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(file.Fd()), 0, 0, n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = checkFreeSpace(file, n)
	}
	if err != nil {
		err = fmt.Errorf("allocate %d bytes for %s: %w", n, name, err)
		return errors.Join(err, file.Close(), os.Remove(name))
	}
	return errors.Join(file.Sync(), file.Close(), os.Remove(name))
}

// checkFreeSpace checks that n bytes are free and writes 32 MiB of them to the file.
func checkFreeSpace(file *os.File, n int64) error {
	var statfs unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &statfs); err != nil {
		return err
	}
	if free := int64(statfs.Bavail) * statfs.Frsize; free < n {
		return fmt.Errorf("only %d bytes are free", free)
	}
	_, err := file.Write(make([]byte, min(n, 32<<20)))
	return err
}

// checkDeviceUsable writes and reads back the last writeSize bytes of the first n bytes.
func checkDeviceUsable(path string, n int64) error {
	device, err := os.OpenFile(path, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return err
	}
	defer device.Close() //nolint:errcheck // each write is synchronous
	wrote, read := blockContent(n), make([]byte, writeSize)
	if _, err := device.WriteAt(wrote, n-writeSize); err != nil {
		return err
	}
	if err := dropCache(device); err != nil {
		return err
	}
	if _, err := device.ReadAt(read, n-writeSize); err != nil {
		return err
	}
	if !bytes.Equal(wrote, read) {
		return fmt.Errorf("the last %d bytes of %s read back differ from what was written", writeSize, path)
	}
	return nil
}

// awaitSize waits until the filesystem has at least bytes, and returns the time when it was so.
func awaitSize(ctx context.Context, path string, bytes int64) (report, error) {
	for {
		a, err := readSize(path)
		if err != nil {
			return a, err
		}
		if a.Filesystem >= bytes {
			a.AtMS = time.Now().UnixMilli()
			return a, nil
		}
		if err := operation.Sleep(ctx, 20*time.Millisecond); err != nil {
			return a, fmt.Errorf("the filesystem has %d bytes, want %d: %w", a.Filesystem, bytes, err)
		}
	}
}
