package luks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/uuid"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// crashSize keeps the many rounds short.
const crashSize = 20 * volume.MiB

// killAt makes cryptsetup die just before its nth system call of a kind.
func (d *disk) killAt(call string, n int) {
	d.runs.wrap = func(c cryptsetupCommand) []string {
		inject := fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", call, n)
		return append([]string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call, "-e", inject, "cryptsetup"},
			c.Args...)
	}
}

func needStrace(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("needs strace, which kills cryptsetup at a chosen system call: ", err)
	}
}

// cryptsetup is killed before each of its writes in turn. Without the marker, Format never
// changes what cryptsetup has left; with the marker, it completes the format.
func TestRealFormatKilledAtEachWrite(t *testing.T) {
	needStrace(t)
	states := map[HeaderState]int{}
	for _, call := range []string{"write", "fsync"} {
		d := newDiskOf(t, crashSize)
		n := 1
		for ; !d.formatKilled(call, n, states); n++ {
			if n == 2 && call == "write" {
				n = 15 // the place of the key slots is filled with noise, MiB by MiB
			}
		}
		t.Logf("killed before %d calls of %s", n-1, call)
		mustRun(t, "cryptsetup", "open", "--test-passphrase", "--key-file", "-", d.Path)
	}
	t.Logf("states that a killed format has left: %v", states)
	for _, s := range []HeaderState{HeaderAbsent, HeaderUnfinished, HeaderDamaged} {
		if states[s] == 0 {
			t.Errorf("the state %q was never seen", s)
		}
	}
}

// formatKilled formats with a cryptsetup that is killed. It reports whether the device is
// formatted all the same: the killed write was not needed, or there was none.
func (d *disk) formatKilled(call string, n int, states map[HeaderState]int) (done bool) {
	d.t.Helper()
	d.killAt(call, n)
	defer func() { d.runs.wrap = nil }()
	h, fresh, err := d.Format(d.t.Context(), d.formatRequest())
	if err == nil {
		if h.State != HeaderSound || !fresh {
			d.t.Fatalf("kill %d: %s, fresh %t", n, h, fresh)
		}
		return true
	}
	wantError(d.t, err, volume.KindInternal, "format "+d.Path, "killed")
	now, err := d.Header(d.t.Context(), d.Device)
	if err != nil {
		d.t.Fatal(err)
	}
	if now.State == HeaderSound {
		d.t.Fatalf("kill %d: a sound header was reported as a failure: %s", n, now)
	}
	states[now.State]++
	d.wantUntouchedWithoutMarker(n)
	return false
}

// wantUntouchedWithoutMarker tries a format without the marker of the interrupted format, and
// with the marker of another volume.
func (d *disk) wantUntouchedWithoutMarker(n int) {
	d.t.Helper()
	if c, err := d.content(d.t.Context()); err != nil || c.Blank {
		return
	}
	wrap := d.runs.wrap
	defer func() { d.runs.wrap = wrap }()
	d.runs.wrap = func(cryptsetupCommand) []string { return []string{"false"} }
	other := filepath.Join(d.t.TempDir(), "marker")
	before := d.fingerprint()
	foreign := []marker{
		{},
		{UUID: uuid.NewString(), DeviceSize: crashSize, Begun: time.Now().Add(-25 * time.Hour)},
		{UUID: uuid.NewString(), DeviceSize: 2 * crashSize, Begun: time.Now()},
	}
	h, err := d.Header(d.t.Context(), d.Device)
	if err != nil {
		d.t.Fatal(err)
	}
	if h.State != HeaderAbsent { // a fresh marker of a format that chose another UUID
		foreign = append(foreign, marker{UUID: uuid.NewString(), DeviceSize: crashSize, Begun: time.Now()})
	}
	for _, m := range foreign {
		if err := writeMarker(other, m); err != nil {
			d.t.Fatal(err)
		}
		req := d.formatRequest()
		req.Marker = other
		_, _, err := d.Format(d.t.Context(), req)
		if volume.KindOf(err) != volume.KindPrecondition {
			d.t.Errorf("kill %d, marker %+v: %v", n, m, err)
		}
	}
	if d.fingerprint() != before {
		d.t.Errorf("kill %d: the refusal has changed the device", n)
	}
}

func TestRealOpenKilledAtEachCall(t *testing.T) {
	needStrace(t)
	d := newMappableOf(t, crashSize)
	d.mustFormat()
	for _, call := range []string{"ioctl", "mknodat", "unlink"} {
		n := 1
		for ; !d.openKilled(call, n); n++ {
		}
		t.Logf("killed before %d calls of %s", n-1, call)
	}
}

// openKilled opens with a cryptsetup that is killed, opens again and closes. It reports
// whether cryptsetup ended before it was killed.
func (d *disk) openKilled(call string, n int) (done bool) {
	t := d.t
	t.Helper()
	d.killAt(call, n)
	m, err := d.Open(t.Context(), d.openRequest(false))
	d.runs.wrap = nil
	done = err == nil
	if err != nil {
		wantError(t, err, volume.KindInternal, "open the LUKS2 mapping", "killed")
		m = d.mustOpen(false)
	}
	if m.Size != crashSize-DataOffset || m.Disk != d.Device {
		t.Fatalf("kill %d: %+v", n, m)
	}
	if err := d.Close(t.Context(), d.id); err != nil {
		t.Fatalf("kill %d: %v", n, err)
	}
	if holders, err := blockdev.New().Holders(d.Device); err != nil || len(holders) > 0 {
		t.Fatalf("kill %d: %v are left on the disk, %v", n, holders, err)
	}
	return done
}

func TestRealGrowKilledAtEachCall(t *testing.T) {
	needStrace(t)
	d := newMappableOf(t, crashSize)
	d.mustFormat()
	m := d.mustOpen(false)
	for n := 1; ; n++ {
		want := m.Size + volume.Size(n)*volume.MiB
		d.resize(want + DataOffset)
		d.killAt("ioctl", n)
		size, err := d.Grow(t.Context(), m.Device, nil)
		d.runs.wrap = nil
		if err != nil {
			wantError(t, err, volume.KindInternal, "grow the dm-crypt mapping", "killed")
			if f, err := os.ReadFile(m.Device.Path); err != nil || len(f) == 0 { // a suspended one would hang
				t.Fatalf("kill %d: %v", n, err)
			}
			if size, err := d.Grow(t.Context(), m.Device, nil); err != nil || size != want {
				t.Fatalf("kill %d: then grown to %s, %v; want %s", n, size, err, want)
			}
			continue
		}
		if size != want {
			t.Fatalf("kill %d: %s, want %s", n, size, want)
		}
		t.Logf("converged from %d kills", n-1)
		return
	}
}

// Format ends with its context, but not before cryptsetup has ended.
func TestRealFormatEndsWithItsContext(t *testing.T) {
	d := newDiskOf(t, crashSize)
	pidFile := filepath.Join(t.TempDir(), "pid")
	d.runs.wrap = func(cryptsetupCommand) []string {
		return []string{"sh", "-c", `echo $$ >"$0"; exec sleep 60`, pidFile}
	}
	var runErr error
	d.run = func(ctx context.Context, c cryptsetupCommand) (stderr string, err error) {
		stderr, err = d.runs.run(ctx, c)
		runErr = err
		return stderr, err
	}
	ctx, cancel := context.WithCancel(t.Context())
	var pid []byte
	started := make(chan struct{})
	go func() {
		defer close(started)
		for len(pid) == 0 && operation.Sleep(ctx, 10*time.Millisecond) == nil {
			pid, _ = os.ReadFile(pidFile) // it does not exist yet
		}
		cancel()
	}()
	_, _, err := d.Format(ctx, d.formatRequest())
	cancel()
	<-started
	wantError(t, err, volume.KindCanceled, "was stopped before it finished", d.Path)
	if runErr == nil {
		t.Error("the program ran to its end, want it stopped")
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(pid))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the program %s that Format had started still runs: %v", pid, err)
	}
	if _, err := os.Stat(d.marker); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing was written, and the marker is left: %v", err)
	}
	d.run, d.runs.wrap = d.runs.run, nil
	d.mustFormat()
}

// Every operation waits for a program that holds the lock of the disk. The clock of synctest does
// not move while a goroutine is in a system call.
func TestRealOperationsWaitForTheLockOfTheDisk(t *testing.T) {
	d := newDiskOf(t, crashSize)
	synctest.Test(t, func(t *testing.T) {
		f, err := d.lockDisk(t.Context(), d.Device)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, _, err = d.Format(ctx, d.formatRequest())
		wantError(t, err, volume.KindDeadline, "another program", d.Path, "fuser")
		time.AfterFunc(time.Minute, func() { closeQuietly(f) })
		if _, fresh, err := d.Format(t.Context(), d.formatRequest()); err != nil || !fresh {
			t.Fatalf("after the lock was free: fresh %t, %v", fresh, err)
		}
	})
}

const (
	helperDevice = "GROWVOL_TEST_LUKS_DEVICE"
	helperMarker = "GROWVOL_TEST_LUKS_MARKER"
)

// The node plugin is killed, but its cryptsetup continues: the next plugin waits for it, and
// does not format at the same time.
func TestRealFormatWaitsForTheCryptsetupOfAKilledPlugin(t *testing.T) {
	if device := os.Getenv(helperDevice); device != "" {
		formatForever(t, device)
		return
	}
	d := newDiskOf(t, crashSize)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	plugin := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$")
	plugin.Env = append(os.Environ(), helperDevice+"="+d.Path, helperMarker+"="+d.marker)
	ready := filepath.Join(t.TempDir(), "ready")
	if err := unix.Mkfifo(ready, 0o600); err != nil {
		t.Fatal(err)
	}
	plugin.Env = append(plugin.Env, "READY="+ready)
	if err := plugin.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := os.ReadFile(ready); err != nil || string(line) != "running\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	if err := plugin.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	h := d.mustFormat()
	if runs := d.runs.arguments(); runs != "" {
		t.Errorf("formatted beside the first: %s", runs)
	}
	m, err := readMarker(d.marker)
	if err != nil || m.UUID != h.UUID {
		t.Errorf("marker %+v, %v; header %s", m, err, h)
	}
	mustRun(t, "cryptsetup", "open", "--test-passphrase", "--key-file", "-", d.Path)
	_ = plugin.Wait() // it was killed
}

// formatForever formats like a node plugin, with a cryptsetup that does not end, and reports
// when that runs.
func formatForever(t *testing.T, path string) {
	t.Helper()
	device, err := blockdev.New().ByPath(path)
	if err != nil {
		t.Fatal(err)
	}
	slow := &recorder{wrap: func(c cryptsetupCommand) []string {
		return append([]string{"sh", "-c", `echo running >"$READY"; sleep 1; exec cryptsetup "$@"`, "cryptsetup"}, c.Args...)
	}}
	s := New(Options{})
	s.run = slow.run
	_, _, err = s.Format(t.Context(), FormatRequest{
		Device: device, Passphrase: []byte(passphrase), Marker: os.Getenv(helperMarker),
		Content: func(context.Context) (Content, error) { return Content{Blank: true}, nil },
	})
	t.Log(err)
}

// On a kernel without AF_ALG, a killed cryptsetup leaves a mapping of the key slots.
func TestRealTemporaryMappingIsRemoved(t *testing.T) {
	d := newMappableOf(t, crashSize)
	left := "temporary-cryptsetup-" + fmt.Sprint(os.Getpid())
	mustRun(t, "dmsetup", "create", left, "--uuid", "CRYPT-TEMP-"+left, "--table", "0 8 crypt aes-xts-plain64 "+
		fmt.Sprintf("%064x", 1)+" 0 "+d.Path+" 64")
	mustRun(t, "dmsetup", "create", "unrelated", "--table", "0 8 linear "+d.Path+" 100")
	_, _, err := d.Format(t.Context(), d.formatRequest())
	wantError(t, err, volume.KindDeadline, "in use", "lsblk")
	holders, err := d.devices.Holders(d.Device)
	if err != nil || len(holders) != 1 {
		t.Errorf("holders %v, %v; want the unrelated one", holders, err)
	}
	mustRun(t, "dmsetup", "remove", "unrelated")
	d.mustFormat()
}
