package blockdev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// runner executes a program with an input and returns what it wrote to
// standard error.
type runner func(ctx context.Context, stdin []byte, name string, args ...string) (stderr string, err error)

// CryptOverhead returns how many bytes of the device below a dm-crypt mapping
// are not part of it: the LUKS header, 16 MiB for LUKS2 as cryptsetup makes
// it. It is read from the live mapping, so it also holds for plain dm-crypt
// and detached headers. A mapping of at least n bytes needs a device of n plus
// this.
func (s *System) CryptOverhead(d Device) (volume.Size, error) {
	t, err := s.cryptTable(d)
	return t.offset, err
}

// ResizeCrypt makes a dm-crypt mapping as large as the device below it allows
// and returns its size as read back. A mapping that fills its device is left
// alone. The key is the passphrase (or key file content) of a LUKS2 mapping
// whose volume key the kernel keeps to itself; nil if there is none. It is
// handed to cryptsetup on standard input. Kinds: Precondition (a key is needed
// and missing, or it is not accepted), Deadline, Internal.
func (s *System) ResizeCrypt(ctx context.Context, d Device, key []byte) (volume.Size, error) {
	if d.Kind != Crypt {
		return 0, volume.Errorf(volume.Precondition, "%s is not a dm-crypt mapping", d)
	}
	table, want, err := s.cryptState(d)
	if err != nil {
		return 0, err
	}
	if table.length >= want {
		return s.Size(d)
	}
	if table.keyring && len(key) == 0 {
		return 0, volume.Errorf(volume.Precondition, "the dm-crypt mapping %s has %s and could have %s, but its volume key is in the kernel's keyring: resizing it needs the passphrase",
			d, table.length, want).WithRemedy("give the passphrase as the node expansion secret (csi.storage.k8s.io/node-expand-secret-name of the StorageClass), or stage the volume again")
	}
	name, err := readLine(filepath.Join(s.dir(d), "dm", "name"))
	if err != nil {
		return 0, volume.Errorf(volume.Internal, "read the name of %s: %w", d, err)
	}
	stderr, runErr := s.cryptsetupResize(ctx, d, name, key)

	// The exit code is a hint for the message; the table is the truth.
	table, want, err = s.cryptState(d)
	if err != nil {
		return 0, errors.Join(err, runErr)
	}
	if table.length < want {
		return table.length, notResized(ctx, d, table.length, want, stderr, runErr)
	}
	return s.Size(d)
}

// cryptState reads the mapping and the size it should have: what the device
// below holds behind the offset, in whole encryption sectors.
func (s *System) cryptState(d Device) (table cryptTable, want volume.Size, err error) {
	table, err = s.cryptTable(d)
	if err != nil {
		return table, 0, err
	}
	below, _, err := s.below(d)
	if err != nil {
		return table, 0, err
	}
	size, err := s.Size(below)
	if err != nil {
		return table, 0, err
	}
	return table, (size - table.offset).RoundDown(table.sector), nil
}

// cryptsetupResize runs "cryptsetup resize". A run that was cut short by the
// context may have left the mapping suspended, with everything that writes to
// it blocked; it is resumed.
func (s *System) cryptsetupResize(ctx context.Context, d Device, name string, key []byte) (string, error) {
	args := []string{"resize", "--batch-mode"}
	if len(key) > 0 {
		args = append(args, "--key-file", "-")
	}
	stderr, err := s.run(ctx, key, s.cryptsetup, append(args, "--", name)...)
	if err == nil {
		return stderr, nil
	}
	if state, _ := readLine(filepath.Join(s.dir(d), "dm", "suspended")); state == "1" {
		if rerr := s.resume(d); rerr != nil {
			err = errors.Join(err, fmt.Errorf("%s was left suspended: %w", d, rerr))
		}
	}
	return stderr, err
}

// notResized is the error for a mapping that cryptsetup left too small.
func notResized(ctx context.Context, d Device, size, want volume.Size, stderr string, cause error) error {
	kind, remedy := volume.Internal, "see the message of cryptsetup; the data is unharmed"
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		kind, remedy, cause = volume.KindOf(ctx.Err()), "it will be retried; unlocking the key may take seconds, so give the call more time", ctx.Err()
	case errors.As(cause, &exit) && exit.ExitCode() == cryptsetupNoPermission:
		kind, remedy = volume.Precondition, "the passphrase was not accepted; correct the node expansion secret"
	case errors.Is(cause, exec.ErrNotFound):
		remedy = "the node image must contain cryptsetup"
	case cause == nil:
		cause = errors.New("cryptsetup reported success")
	}
	if stderr != "" {
		cause = fmt.Errorf("%w: %s", cause, stderr)
	}
	return volume.Errorf(kind, "the dm-crypt mapping %s has %s after its resize, not %s: %w", d, size, want, cause).WithRemedy(remedy)
}

// cryptsetupNoPermission is cryptsetup(8)'s exit status for a bad passphrase.
const cryptsetupNoPermission = 2

// execute is the runner of the real machine.
func execute(ctx context.Context, stdin []byte, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	// Without udev's semaphores: they live in the host's IPC namespace, and
	// from a container libdevmapper would wait for them for ever.
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DM_DISABLE_UDEV=1")
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	const enough = 400
	text := strings.Join(strings.Fields(stderr.String()), " ")
	return text[:min(len(text), enough)], err
}
