// Command init is what the guest harness puts between a command and the two
// kernels. It has four roles:
//
//   - process 1 of the guest: mounts, loads modules, runs the command, reports
//     its end, powers off;
//   - "supervise" on the host: process 1 of the PID namespace that the guest
//     kernel's processes live in, so that they die together;
//   - "confine" on the host: takes the right to write to the machine away, then
//     becomes the guest kernel;
//   - "modprobe" in the guest: finds the guest kernel's modules, which are not
//     where the machine's own would be.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/growvol/growvol/tests/guest/internal/protocol"
)

func main() {
	switch {
	case filepath.Base(os.Args[0]) == filepath.Base(protocol.Modprobe):
		exit(modprobe(os.Args[1:]))
	case len(os.Args) > 1 && os.Args[1] == "supervise":
		os.Exit(supervise(os.Args[2:]))
	case len(os.Args) > 1 && os.Args[1] == "confine":
		exit(confine(os.Args[2:]))
	case os.Getpid() == 1 && exists(protocol.File):
		runGuest()
	default:
		exit(fmt.Errorf("%s is started by the guest harness only", os.Args[0]))
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
