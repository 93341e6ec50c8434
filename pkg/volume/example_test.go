package volume_test

import (
	"errors"
	"fmt"
	"os"

	"github.com/growvol/growvol/pkg/volume"
)

// A size is shown in the largest unit that divides it. Two different sizes never look alike.
func ExampleSize_String() {
	fmt.Println(6 * volume.GiB)
	fmt.Println(1536 * volume.MiB)
	fmt.Println(6*volume.GiB + 1)
	// Output:
	// 6 GiB
	// 1536 MiB
	// 6 GiB (6442450945 B)
}

// A backend that makes volumes of whole GiB rounds the requested size up.
func ExampleRange_Resolve() {
	limits := volume.Limits{Granularity: volume.GiB, Default: volume.GiB}
	size, err := volume.Range{Required: 1536 * volume.MiB}.Resolve(limits)
	fmt.Println(size, err)

	_, err = volume.Range{Required: 1536 * volume.MiB, Limit: 1700 * volume.MiB}.Resolve(limits)
	fmt.Println(volume.KindOf(err))
	// Output:
	// 2 GiB <nil>
	// out_of_range
}

// An error has a kind, from which the gRPC code follows, and the next step for a person.
// Wrap adds what was attempted on which volume.
func ExampleErrorf() {
	err := volume.Errorf(volume.KindInternal, "read the state directory: %w", os.ErrNotExist).
		WithRemedy("check --state-dir of the node plugin")
	wrapped := volume.Wrap(err, "stage", "vol-1")
	fmt.Println(wrapped)
	fmt.Println(volume.KindOf(wrapped), errors.Is(wrapped, os.ErrNotExist))
	// Output:
	// stage vol-1: read the state directory: file does not exist (next step: check --state-dir of the node plugin)
	// internal true
}
