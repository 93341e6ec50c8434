package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/growvol/growvol/pkg/operation"
)

// This file holds the counters that show whether snapshots of two volumes are of one moment.

// counterFile is the file of a volume with its counter, in counterDigits digits.
const (
	counterFile   = "counter"
	counterDigits = 20
)

// writeCounters writes the numbers from 1 to the counters of the volumes until ctx ends: each
// number to the first volume, and when it is on that disk, to the next volume. At each moment the
// counters therefore differ by one at most, and that of the first volume is not the lower one.
func writeCounters(ctx context.Context, paths []string) error {
	var files []*os.File
	for _, path := range paths {
		file, err := os.OpenFile(filepath.Join(path, counterFile), os.O_CREATE|os.O_WRONLY|os.O_SYNC, 0o600)
		if err != nil {
			return err
		}
		files = append(files, file)
	}
	for number := int64(1); ctx.Err() == nil; number++ {
		for _, file := range files {
			if _, err := file.WriteAt(fmt.Appendf(nil, "%0*d", counterDigits, number), 0); err != nil {
				return err
			}
		}
		_ = operation.Sleep(ctx, pause/4) // the loop checks ctx
	}
	var errs []error
	for _, file := range files {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}

// readCounters returns the counters of the volumes.
func readCounters(paths []string) ([]int64, error) {
	var numbers []int64
	for _, path := range paths {
		content, err := os.ReadFile(filepath.Join(path, counterFile)) //nolint:gosec // of the volume
		if err != nil {
			return nil, err
		}
		number, err := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, number)
	}
	return numbers, nil
}
