// Package selftest has tests that run in a guest and check its properties. The
// tests of package guest run them too, with other flags.
package selftest

import (
	"os"
	"syscall"
	"testing"

	"github.com/growvol/growvol/tests/guest"
)

func TestMain(m *testing.M) {
	os.Exit(guest.Main(m, guest.Options{Env: []string{"FROM_OPTIONS=yes"}}))
}

// TestMisbehave ends as the tests of package guest ask for, in an environment
// variable.
func TestMisbehave(t *testing.T) {
	switch how := os.Getenv("GROWVOL_SELFTEST"); how {
	case "":
		t.Log("asked for nothing")
	case "fail":
		t.Fatal("failing as asked")
	case "panic":
		panic("panicking as asked")
	case "exit":
		os.Exit(42)
	case "kill":
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		select {}
	case "warn":
		logToKernel(t, "<4>WARNING: CPU: 0 PID: 1 at a/test.c:1 as_asked+0x1/0x2")
	case "hang":
		select {}
	default:
		t.Fatalf("no such misbehavior: %q", how)
	}
}

// logToKernel adds a line to the kernel's log.
func logToKernel(t *testing.T, line string) {
	t.Helper()
	if err := os.WriteFile("/dev/kmsg", []byte(line+"\n"), 0); err != nil {
		t.Fatal(err)
	}
}
