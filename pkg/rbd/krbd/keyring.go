package krbd

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// linuxKernel is the running kernel.
type linuxKernel struct{}

// Write implements kernel. It creates no file.
func (linuxKernel) Write(path, text string) error { return write(path, text) }

// WriteWithKey implements kernel. The key is in the keyring of one thread, which ends with the call:
// no other process and no later mapping can use the key, whatever keyring the container of this
// process has. The kernel copies the key while it reads the options.
func (linuxKernel) WriteWithKey(path, text, keyName string, key []byte) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and no unlock: the thread ends with the goroutine, and its keyring with it
		done <- writeWithKey(path, text, keyName, key)
	}()
	return <-done
}

func writeWithKey(path, text, keyName string, key []byte) error {
	// The type "ceph" is registered by the module libceph (Linux, net/ceph/crypto.c).
	id, err := unix.AddKey("ceph", keyName, key, unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return fmt.Errorf("cannot hand the key of the Ceph user to the kernel: %w", os.NewSyscallError("add_key", err))
	}
	err = write(path, text)
	_, _ = unix.KeyctlInt(unix.KEYCTL_REVOKE, id, 0, 0, 0) // the end of the thread removes the key as well
	return err
}

func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // the write has returned the kernel's answer
	_, err = f.WriteString(text)
	return err
}
