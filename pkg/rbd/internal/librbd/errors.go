//go:build ceph

package librbd

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// This file turns the errors of go-ceph into errors that wrap an errno.

// wrap says in which operation the error occurred. Of an error of the libraries it keeps the errno
// alone: go-ceph's text repeats it. wrap returns nil for nil.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), toErrno(err))
}

// toErrno returns the errno of an error of the libraries, and every other error unchanged. The
// libraries return negative numbers, go-ceph itself positive ones for arguments that it refuses.
func toErrno(err error) error {
	var coded interface{ ErrorCode() int }
	if !errors.As(err, &coded) {
		return err
	}
	code := coded.ErrorCode()
	return unix.Errno(max(code, -code))
}
