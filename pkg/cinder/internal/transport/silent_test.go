package transport

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// relay passes connections on to a server, like a load balancer. The ones that exist when drop is
// called stay open, but what is sent over them is lost.
type relay struct {
	net.Listener
	server string
	conns  sync.WaitGroup
	epoch  atomic.Int64 // of connections that work
}

func newRelay(t *testing.T, server string) *relay {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	r := &relay{Listener: l, server: server}
	r.conns.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			r.conns.Go(func() { r.pass(t.Context(), client) })
		}
	})
	t.Cleanup(func() {
		must(t, l.Close())
		r.conns.Wait()
	})
	return r
}

func (r *relay) drop() { r.epoch.Add(1) }

func (r *relay) pass(ctx context.Context, client net.Conn) {
	server, err := new(net.Dialer).DialContext(ctx, "tcp", r.server)
	if err != nil {
		_ = client.Close()
		return
	}
	stop := context.AfterFunc(ctx, func() {
		_ = client.Close()
		_ = server.Close()
	})
	defer stop()
	epoch := r.epoch.Load()
	one := func(to, from net.Conn) {
		buffer := make([]byte, 32<<10)
		for {
			n, err := from.Read(buffer)
			if err == nil && r.epoch.Load() == epoch {
				_, err = to.Write(buffer[:n])
			}
			if err != nil {
				if r.epoch.Load() == epoch {
					_ = to.Close() // the end of a dropped connection is not told either
				}
				return
			}
		}
	}
	r.conns.Go(func() { one(server, client) })
	one(client, server)
}

// An HTTP/2 connection whose packets are dropped on the way, while nobody closes it, is noticed by
// pings; the call that was under way is repeated over another.
func TestDroppedHTTP2Connection(t *testing.T) {
	t.Parallel()
	var protocol atomic.Value
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protocol.Store(r.Proto)
		_, _ = io.WriteString(w, "answer")
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	way := newRelay(t, s.Listener.Addr().String())
	pool, err := NewPool(TLS{CA: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))})
	must(t, err)
	t.Cleanup(pool.CloseIdleConnections)
	if h := pool.HTTP2; h == nil || h.SendPingTimeout <= 0 || h.PingTimeout <= 0 ||
		h.SendPingTimeout+h.PingTimeout > 10*time.Second || h.WriteByteTimeout <= 0 {
		t.Fatalf("a dead HTTP/2 connection is not noticed within ten seconds: %+v", h)
	}
	const faster = 2 // than in production; the more, the less a busy machine may delay an answer
	pool.HTTP2.SendPingTimeout /= faster
	pool.HTTP2.PingTimeout /= faster
	limit := 2 * (pool.HTTP2.SendPingTimeout + pool.HTTP2.PingTimeout)
	client := newTransport(t, Options{Base: pool})
	url := "https://" + way.Addr().String()
	get := func(what string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		_, body, err := send(ctx, client, http.MethodGet, url, &Call{})
		if took := time.Since(start); err != nil || body != "answer" || took > limit {
			t.Errorf("%s: %q, %v after %s, want an answer within %s", what, body, err, took, limit)
		}
	}
	get("a connection that works")
	if protocol.Load() != "HTTP/2.0" {
		t.Fatalf("the test is of %s", protocol.Load())
	}
	way.drop()
	get("the call that meets the dead connection")
	way.drop()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	_, _, err = send(ctx, client, http.MethodPost, url, &Call{})
	if err == nil || ctx.Err() != nil {
		t.Errorf("a creation over the dead connection: %v, want an error before the caller's end", err)
	}
	get("the call after that")
}

const silentNetwork = "GROWVOL_TEST_SILENT_NETWORK"

// An HTTP/1.1 connection over a network that is silent is noticed by the kernel: both when a
// request is not acknowledged and when it was, and the answer never comes.
func TestDroppedHTTP1Connection(t *testing.T) {
	t.Parallel()
	if os.Getenv(silentNetwork) != "" {
		testSilentNetwork(t)
		return
	}
	const only = "-test.run=^TestDroppedHTTP1Connection$"
	cmd := exec.CommandContext(t.Context(), os.Args[0], only, "-test.v") //nolint:gosec // this program
	cmd.Env = append(os.Environ(), silentNetwork+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Skipf("this machine gives no network namespace: %v", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// testSilentNetwork runs in a network namespace of its own, whose loopback device is taken down.
func testSilentNetwork(t *testing.T) {
	t.Helper()
	loopback(t, true)
	held := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/held" {
			close(held)
			<-r.Context().Done()
		}
		_, _ = io.WriteString(w, "answer")
	}))
	defer s.Close()
	defer s.CloseClientConnections()
	pool, err := NewPool(TLS{})
	must(t, err)
	client := newTransport(t, Options{Base: pool})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	get := func(path string) error {
		_, _, err := send(ctx, client, http.MethodGet, s.URL+path, &Call{MaxAttempts: 1})
		return err
	}
	// Two connections: one that waits for an answer, and an idle one.
	answer := make(chan error, 1)
	go func() { answer <- get("/held") }()
	<-held
	must(t, get("/"))
	dial := pool.DialContext
	pool.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("dialed again") }
	loopback(t, false)
	start := time.Now()
	for what, err := range map[string]error{
		"a request that is not acknowledged": get("/"),
		"a request that was acknowledged":    <-answer,
	} {
		took := time.Since(start)
		if err == nil || took > 20*time.Second {
			t.Errorf("%s: %v after %s, want an error within 20 s", what, err, took)
		}
		t.Logf("%s: %v after %s", what, err, took)
	}
	loopback(t, true)
	pool.DialContext = dial
	must(t, get("/"))
}

// loopback takes the loopback device up or down.
func loopback(t *testing.T, up bool) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = unix.Close(fd) }()
	request, err := unix.NewIfreq("lo")
	if err != nil {
		t.Error(err)
		return
	}
	if up {
		request.SetUint16(unix.IFF_UP)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS,
		uintptr(unsafe.Pointer(request))); errno != 0 {
		t.Errorf("loopback up=%t: %v", up, errno)
	}
}
