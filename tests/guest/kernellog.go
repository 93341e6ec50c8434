package guest

import (
	"fmt"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// KernelLog returns the log of the running kernel, oldest line first. A guest's
// kernel keeps 1 MiB.
//
// Source: syslog(2), SYSLOG_ACTION_READ_ALL.
func KernelLog() (string, error) {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return "", fmt.Errorf("read the size of the kernel log: %w", err)
	}
	buf := make([]byte, size)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf)
	if err != nil {
		return "", fmt.Errorf("read the kernel log: %w", err)
	}
	return string(buf[:n]), nil
}

// StorageErrors returns the lines of a kernel log that report a damaged filesystem
// or failed I/O. Tests that damage nothing on purpose want none.
func StorageErrors(log string) []string {
	pattern := regexp.MustCompile(`EXT4-fs error|EXT4-fs \(.*\): .*(corrupt|Remounting filesystem read-only)` +
		`|XFS \(.*\): .*([Cc]orruption|[Ii]nternal error|I/O [Ee]rror|shut ?down)` +
		`|BTRFS (error|critical)|I/O error`)
	var found []string
	for line := range strings.Lines(log) {
		if pattern.MatchString(line) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}
