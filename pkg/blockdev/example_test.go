package blockdev_test

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
)

// A hypervisor gives the disk of a volume the volume's id as its serial, and cuts it
// after 20 characters.
func ExampleSerialMatches() {
	const id = "d25f9882-eb5a-41ea-8d0c-7a1f0c0a9d11"
	for _, serial := range []string{id, "d25f9882-eb5a-41ea-8", "d25f9882", ""} {
		fmt.Printf("%q: %t\n", serial, blockdev.SerialMatches(serial, id))
	}
	// Output:
	// "d25f9882-eb5a-41ea-8d0c-7a1f0c0a9d11": true
	// "d25f9882-eb5a-41ea-8": true
	// "d25f9882": false
	// "": false
}

// NumberOf refuses every file that is not the node of a block device.
func ExampleNumberOf() {
	_, err := blockdev.NumberOf("/dev/null") // a character device
	fmt.Println(err)
	fmt.Println(errors.Is(err, unix.ENOTBLK))
	// Output:
	// stat /dev/null: block device required
	// true
}

// A size event names the device; the caller reads the size itself. After a loss of
// events any device may have grown.
func ExampleSizeEvent() {
	for _, event := range []blockdev.SizeEvent{{AnyDevice: true}, {Major: 252, Minor: 16}} {
		if event.AnyDevice {
			fmt.Println("read the sizes of all devices")
			continue
		}
		fmt.Println("read the size of", blockdev.DeviceNumber{Major: event.Major, Minor: event.Minor})
	}
	// Output:
	// read the sizes of all devices
	// read the size of 252:16
}
