// Command init is the part of package guest that runs beside and in the guest. It
// has four roles:
//
//   - process 1 of the guest: it mounts, loads modules, runs the command, reports its
//     end and powers off;
//   - "supervise" on the machine: process 1 of the PID namespace of the guest
//     kernel's processes, so that they all end with it;
//   - "confine" on the machine: it makes the machine's files read-only for itself and
//     executes the guest's kernel;
//   - "modprobe" in the guest: it executes the machine's modprobe with the directory
//     of the guest kernel's modules.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/growvol/growvol/tests/guest/internal/protocol"
)

func main() {
	switch {
	case filepath.Base(os.Args[0]) == filepath.Base(protocol.ModprobePath):
		exit(modprobe(os.Args[1:]))
	case len(os.Args) > 1 && os.Args[1] == "supervise":
		os.Exit(supervise(os.Args[2:]))
	case len(os.Args) > 1 && os.Args[1] == "confine":
		exit(confine(os.Args[2:]))
	case os.Getpid() == 1 && exists(protocol.TaskFile):
		runGuest()
	default:
		exit(fmt.Errorf("%s is a part of package guest and runs only there", os.Args[0]))
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
