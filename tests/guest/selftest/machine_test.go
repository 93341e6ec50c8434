package selftest

import (
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/tests/guest"
)

func TestInsideAsRootWithEveryCapability(t *testing.T) {
	if !guest.Inside() {
		t.Fatal("not in a guest")
	}
	if uid := os.Geteuid(); uid != 0 {
		t.Errorf("uid %d, want 0", uid)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(last)))
	if err != nil {
		t.Fatal(err)
	}
	all := strconv.FormatUint(1<<(n+1)-1, 16)
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			if got := strings.TrimLeft(strings.TrimSpace(value), "0"); got != all {
				t.Errorf("effective capabilities %s, want %s", got, all)
			}
			return
		}
	}
	t.Error("no CapEff in /proc/self/status")
}

func TestWorkingDirectoryIsThePackage(t *testing.T) {
	if _, err := os.Stat("machine_test.go"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join("..", "..", "..", "go.mod")); err != nil {
		t.Error(err)
	}
}

func TestMachineIsReadOnly(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/usr/x", "/etc/x", "/x", dir + "/x"} {
		if err := os.WriteFile(path, nil, 0o600); !errors.Is(err, syscall.EROFS) {
			t.Errorf("write %s: %v, want EROFS", path, err)
		}
	}
	// Root of the guest can ask its kernel for any directory of the machine.
	// It gets it read-only, whatever it asks for (and with the rights of the
	// user that started the harness).
	mnt := t.TempDir()
	if err := unix.Mount("host", mnt, "hostfs", 0, "/"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
	})
	for _, path := range []string{"/usr/x", "/dev/shm/x", "/tmp/x", dir + "/x"} {
		err := os.WriteFile(mnt+path, nil, 0o600)
		if !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.EACCES) {
			t.Errorf("write the machine's %s: %v, want EROFS or EACCES", path, err)
			_ = os.Remove(mnt + path)
		}
	}
}

func TestEnvironment(t *testing.T) {
	want := map[string]string{
		"HOME": "/root", "TMPDIR": "/tmp", "DM_DISABLE_UDEV": "1", "FROM_OPTIONS": "yes",
		"GROWVOL_SELFTEST": os.Getenv("GROWVOL_SELFTEST"),
	}
	for name, value := range want {
		if got := os.Getenv(name); got != value {
			t.Errorf("%s=%q, want %q", name, got, value)
		}
	}
	for _, dir := range []string{"/tmp", "/run", "/var/lib", "/root", "/dev/shm"} {
		f, err := os.CreateTemp(dir, "")
		if err != nil {
			t.Error(err)
			continue
		}
		if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
			t.Error(err)
		}
	}
}

func TestLimits(t *testing.T) {
	var files, core unix.Rlimit
	if err := errors.Join(unix.Getrlimit(unix.RLIMIT_NOFILE, &files), unix.Getrlimit(unix.RLIMIT_CORE, &core)); err != nil {
		t.Fatal(err)
	}
	if files.Cur < 65536 || core.Cur != 0 {
		t.Errorf("limits: %d open files, %d bytes of core; want 65536 and 0", files.Cur, core.Cur)
	}
}

func TestLoopback(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestClockRunsAtItsPace(t *testing.T) {
	// This source was written before it ran: an earlier time is a wrong one.
	info, err := os.Stat("machine_test.go")
	if err != nil {
		t.Fatal(err)
	}
	if now := time.Now(); now.Before(info.ModTime()) {
		t.Errorf("it is %v here, before this file was written (%v)", now, info.ModTime())
	}
	start := time.Now()
	<-time.After(100 * time.Millisecond)
	if took := time.Since(start); took < 100*time.Millisecond {
		t.Errorf("100 ms took %v", took)
	}
}

func TestEntropyDoesNotBlock(t *testing.T) {
	start := time.Now()
	if _, err := rand.Read(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/dev/random")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Read(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("random numbers took %v", took)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	// The shell goes at once and leaves its child to process 1.
	pid := strings.TrimSpace(run(t, "sh", "-c", "sleep 0.2 >/dev/null & echo $!"))
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			return
		}
	}
	t.Errorf("process %s, an orphan, was not collected", pid)
}
