package blockdev

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// Messages recorded from a kernel 6.18.
const (
	resizedLoop = "change@/devices/virtual/block/loop7\x00ACTION=change\x00" +
		"DEVPATH=/devices/virtual/block/loop7\x00SUBSYSTEM=block\x00" +
		"RESIZE=1\x00MAJOR=7\x00MINOR=7\x00DEVNAME=loop7\x00DEVTYPE=disk\x00DISKSEQ=91\x00SEQNUM=1437\x00"
	changedLoop = "change@/devices/virtual/block/loop7\x00ACTION=change\x00" +
		"DEVPATH=/devices/virtual/block/loop7\x00SUBSYSTEM=block\x00" +
		"MAJOR=7\x00MINOR=7\x00DEVNAME=loop7\x00DEVTYPE=disk\x00DISKSEQ=91\x00SEQNUM=1436\x00"
)

func TestParseSizeEvent(t *testing.T) {
	t.Parallel()
	got, ok := parseSizeEvent([]byte(resizedLoop))
	if want := (SizeEvent{Major: 7, Minor: 7}); !ok || got != want {
		t.Errorf("got %+v, %t; want %+v", got, ok, want)
	}
	for name, message := range map[string]string{
		"empty":            "",
		"no settings":      "change@/devices/virtual/block/loop7",
		"of udev":          "libudev\x00" + resizedLoop,
		"no size":          changedLoop,
		"another action":   strings.Replace(resizedLoop, "ACTION=change", "ACTION=add", 1),
		"another header":   "add" + strings.TrimPrefix(resizedLoop, "change"),
		"no header":        strings.Replace(resizedLoop, "@", "", 1),
		"another kind":     strings.Replace(resizedLoop, "SUBSYSTEM=block", "SUBSYSTEM=net", 1),
		"asked by a user":  strings.Replace(resizedLoop, "RESIZE=1", "SYNTH_ARG_RESIZE=1", 1),
		"no major":         strings.Replace(resizedLoop, "MAJOR=7\x00", "", 1),
		"no minor":         strings.Replace(resizedLoop, "MINOR=7\x00", "", 1),
		"cut in a number":  resizedLoop[:strings.Index(resizedLoop, "MINOR=")+len("MINOR=")],
		"number too large": strings.Replace(resizedLoop, "MINOR=7", "MINOR=4294967296", 1),
		"negative number":  strings.Replace(resizedLoop, "MINOR=7", "MINOR=-1", 1),
	} {
		if got, ok := parseSizeEvent([]byte(message)); ok || got != (SizeEvent{}) {
			t.Errorf("%s: got %+v, %t; want no event", name, got, ok)
		}
	}
}

func FuzzParseSizeEvent(f *testing.F) {
	f.Add([]byte(resizedLoop))
	f.Add([]byte(changedLoop))
	f.Fuzz(func(t *testing.T, message []byte) {
		event, ok := parseSizeEvent(message)
		if event.AnyDevice || !ok && event != (SizeEvent{}) {
			t.Fatalf("%q: event %+v, ok %t; want an event of one device, or none", message, event, ok)
		}
		text := string(message)
		if ok && !strings.Contains(text, "RESIZE=1\x00") && !strings.HasSuffix(text, "RESIZE=1") {
			t.Fatalf("%q: %+v without RESIZE=1", message, event)
		}
	})
}

// watchSizes starts WatchSizes and returns its events after the first one.
func watchSizes(t *testing.T) <-chan SizeEvent {
	t.Helper()
	events, ended := make(chan SizeEvent, 64), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ended <- New().WatchSizes(ctx, func(e SizeEvent) {
			select {
			case events <- e:
			case <-ctx.Done(): // nothing reads the channel now
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("WatchSizes = %v, want context.Canceled", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("WatchSizes still runs 10 s after its context has ended")
		}
	})
	if first := nextSizeEvent(t, events); first != (SizeEvent{AnyDevice: true}) {
		t.Fatalf("the first event is %+v, want one for all devices", first)
	}
	return events
}

func nextSizeEvent(t *testing.T, events <-chan SizeEvent) SizeEvent {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("got no event within 10 s")
		return SizeEvent{}
	}
}

// TestRealWatchSizesReportsEachGrowth grows a loop device, in this network namespace and
// in another one.
func TestRealWatchSizesReportsEachGrowth(t *testing.T) {
	t.Run("here", func(t *testing.T) {
		d, file := newLoopDevice(t, 64*volume.MiB)
		events := watchSizes(t)
		const times = 10
		var slowest time.Duration
		for i := range times {
			if err := os.Truncate(file, (volume.Size(65+i) * volume.MiB).Bytes()); err != nil {
				t.Fatal(err)
			}
			started := time.Now()
			if offered, err := New().Rescan(t.Context(), d); err != nil || !offered {
				t.Fatalf("rescan: %t, %v", offered, err)
			}
			for {
				e := nextSizeEvent(t, events)
				if e == (SizeEvent{Major: d.Major, Minor: d.Minor}) {
					break
				}
				t.Logf("event of another device: %+v", e)
			}
			slowest = max(slowest, time.Since(started))
		}
		t.Logf("rescan → event of its new size: at most %s in %d times", slowest.Round(time.Microsecond), times)
	})
	t.Run("in another network namespace", func(t *testing.T) {
		const run = "-test.run=^TestRealWatchSizesReportsEachGrowth$/^here$"
		cmd := exec.CommandContext(t.Context(), os.Args[0], run, "-test.v")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, unix.EPERM) {
			t.Skipf("needs root: %v", err)
		}
		ran := strings.Contains(string(out), "event of its new size") || strings.Contains(string(out), "SKIP")
		if err != nil || !ran {
			t.Errorf("the test in another network namespace: %v\n%s", err, out)
		}
	})
}

func TestRealLostEventsAreReported(t *testing.T) {
	d, _ := newLoopDevice(t, volume.MiB)
	socket, err := openEventSocket(1) // the kernel rounds this up to its smallest buffer
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := socket.Close(); err != nil {
			t.Error(err)
		}
	})
	for range 100 {
		if err := writeAttribute(New().sysfsDir(d)+"/uevent", "change"); err != nil {
			t.Skipf("needs a writable /sys: %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = forwardSizeEvents(ctx, socket, func(e SizeEvent) {
		if e.AnyDevice {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("100 events into a buffer of 1 byte: %v, want an event for any device", err)
	}
}

// TestRealForgedEventIsIgnored sends an event from this process, as any process can.
func TestRealForgedEventIsIgnored(t *testing.T) {
	socket, err := openEventSocket(eventBufferSize)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close() //nolint:errcheck // only read from
	raw, err := socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var address unix.Sockaddr
	var nameErr error
	err = raw.Control(func(fd uintptr) { address, nameErr = unix.Getsockname(int(fd)) })
	if err := errors.Join(err, nameErr); err != nil {
		t.Fatal(err)
	}
	target, ok := address.(*unix.SockaddrNetlink)
	if !ok {
		t.Fatalf("address %T", address)
	}
	forger, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(forger) //nolint:errcheck // holds no data
	forged := strings.NewReplacer("MAJOR=7", "MAJOR=4095", "MINOR=7", "MINOR=1048575").Replace(resizedLoop)
	err = unix.Sendto(forger, []byte(forged), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: target.Pid})
	if err != nil {
		t.Skipf("the kernel refuses messages from processes: %v", err)
	}
	buf := make([]byte, maxEventSize)
	for { // other tests' devices send events, too
		event, ok, err := receiveSizeEvent(raw, buf)
		if err != nil {
			t.Fatal(err)
		}
		if event.Major == 4095 {
			t.Fatalf("got a forged event: %+v", event)
		}
		if strings.HasPrefix(string(buf), forged) {
			if ok {
				t.Errorf("got the forged event as %+v", event)
			}
			return
		}
	}
}
