package filesystem_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// memoryDevice is a Device of 1 MiB in memory. In a program blockdev.System.OpenContext
// opens the real one.
type memoryDevice struct{ *bytes.Reader }

func newMemoryDevice(content string) memoryDevice {
	data := make([]byte, volume.MiB)
	copy(data, content)
	return memoryDevice{bytes.NewReader(data)}
}

func (memoryDevice) Path() string     { return "/dev/vdb" }
func (memoryDevice) CheckPath() error { return nil }
func (memoryDevice) Number() blockdev.DeviceNumber {
	return blockdev.DeviceNumber{Major: 252, Minor: 16}
}
func (memoryDevice) Size() (volume.Size, error)           { return volume.MiB, nil }
func (memoryDevice) BlockSize() (volume.Size, error)      { return 512, nil }
func (memoryDevice) IsReadOnly() (bool, error)            { return true, nil }
func (memoryDevice) OpenWriter() (blockdev.Writer, error) { return nil, errors.New("read-only") }

// Probe tells a blank device from one that must not be touched.
func ExampleSystem_Probe() {
	fs := filesystem.New(filesystem.Options{})
	for _, content := range []string{"", "LUKS\xba\xbe", "a letter"} {
		signature, err := fs.Probe(context.Background(), newMemoryDevice(content))
		fmt.Println(signature, signature.State == filesystem.StateBlank, err)
	}
	// Output:
	// nothing true <nil>
	// LUKS encryption false <nil>
	// unknown data false <nil>
}

// Format refuses a device that is not blank, and says what it holds.
func ExampleSystem_Format() {
	fs := filesystem.New(filesystem.Options{})
	err := fs.Format(context.Background(), filesystem.FormatRequest{
		Device: newMemoryDevice("LUKS\xba\xbe"), Type: filesystem.TypeExt4,
	})
	var e *volume.Error
	if errors.As(err, &e) {
		fmt.Println(e.Kind)
		fmt.Println(strings.ReplaceAll(e.Msg, "; ", "\n"))
	}
	// Output:
	// precondition
	// cannot format device /dev/vdb (1 MiB) as ext4: it is not blank: it holds LUKS encryption
	// this driver does not overwrite data of others
}

// A volume that is requested as one type may hold another one that the kernel mounts as well.
func ExampleType_Accepts() {
	wanted, err := filesystem.ParseType("EXT4")
	fmt.Println(wanted, err)
	fmt.Println(wanted.Accepts(filesystem.TypeExt3), wanted.Accepts(filesystem.TypeXFS))
	// Output:
	// ext4 <nil>
	// true false
}

// The last one of "ro" and "rw" counts.
func ExampleRequestsReadOnly() {
	fmt.Println(filesystem.RequestsReadOnly([]string{"noatime,ro"}))
	fmt.Println(filesystem.RequestsReadOnly([]string{"ro", "rw"}))
	// Output:
	// true
	// false
}
