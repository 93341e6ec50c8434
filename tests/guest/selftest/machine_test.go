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
	"github.com/growvol/growvol/tests/must"
)

func TestInsideAsRootWithEveryCapability(t *testing.T) {
	if !guest.Inside() {
		t.Fatal("not in a guest")
	}
	if uid := os.Geteuid(); uid != 0 {
		t.Errorf("uid %d, want 0", uid)
	}
	status := must.Value(os.ReadFile("/proc/self/status"))(t)
	last := must.Value(os.ReadFile("/proc/sys/kernel/cap_last_cap"))(t)
	n := must.Value(strconv.Atoi(strings.TrimSpace(string(last))))(t)
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
	dir := must.Value(os.Getwd())(t)
	for _, path := range []string{"/usr/x", "/etc/x", "/x", dir + "/x"} {
		if err := os.WriteFile(path, nil, 0o600); !errors.Is(err, syscall.EROFS) {
			t.Errorf("write %s: %v, want EROFS", path, err)
		}
	}
	// Root in the guest can mount every directory of the machine, but always read-only and
	// with the rights of the user that started the guest.
	mnt := t.TempDir()
	must.Succeed(t, unix.Mount("host", mnt, "hostfs", 0, "/"))
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

func TestEnvironmentIsComplete(t *testing.T) {
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

func TestLimitsAreSet(t *testing.T) {
	var files, core unix.Rlimit
	must.Succeed(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
	must.Succeed(t, unix.Getrlimit(unix.RLIMIT_CORE, &core))
	if files.Cur < 65536 || core.Cur != 0 {
		t.Errorf("limits: %d open files, %d bytes of core; want 65536 and 0", files.Cur, core.Cur)
	}
}

func TestLoopbackWorks(t *testing.T) {
	var lc net.ListenConfig
	l := must.Value(lc.Listen(t.Context(), "tcp", "localhost:0"))(t)
	defer func() { _ = l.Close() }()
	var d net.Dialer
	c := must.Value(d.DialContext(t.Context(), "tcp", l.Addr().String()))(t)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestClockIsRight(t *testing.T) {
	// The clock is wrong if it shows a time before this file was written.
	info := must.Value(os.Stat("machine_test.go"))(t)
	if now := time.Now(); now.Before(info.ModTime()) {
		t.Errorf("got the time %v, want one after this file was written: %v", now, info.ModTime())
	}
	start := time.Now()
	<-time.After(100 * time.Millisecond)
	if took := time.Since(start); took < 100*time.Millisecond {
		t.Errorf("a timer of 100 ms took %v", took)
	}
}

func TestEntropyDoesNotBlock(t *testing.T) {
	start := time.Now()
	must.Value(rand.Read(make([]byte, 4096)))(t)
	f := must.Value(os.Open("/dev/random"))(t)
	defer func() { _ = f.Close() }()
	must.Value(f.Read(make([]byte, 64)))(t)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("random numbers took %v, want 5 s at most", took)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	// The shell ends at once and leaves its child to process 1.
	pid := strings.TrimSpace(run(t, "sh", "-c", "sleep 0.2 >/dev/null & echo $!"))
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			return
		}
	}
	t.Errorf("the orphaned process %s was not reaped within 10 s", pid)
}
