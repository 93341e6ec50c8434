// Command registrar is a STAND-IN, for tests only, for the sidecar node-driver-registrar,
// whose module the Go module proxy does not have. It accepts the options that growvol's
// chart sets, and registers the driver with kubelet by the real protocol.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		slog.Error("registrar ends", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	address := flag.String("csi-address", "/run/csi/socket", "the driver's socket")
	path := flag.String("kubelet-registration-path", "", "the driver's socket as kubelet sees it")
	dir := flag.String("plugin-registration-path", "/registration", "kubelet's directory of plugins")
	endpoint := flag.String("http-endpoint", "", "address of /healthz; empty: none")
	_ = flag.Int("v", 0, "ignored; an option of the real sidecar")
	flag.Parse()
	if *path == "" {
		return errors.New("--kubelet-registration-path is empty")
	}

	name, err := driverName(ctx, *address)
	if err != nil {
		return err
	}
	socket := filepath.Join(*dir, name+"-reg.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: socket})
	if err != nil {
		return err
	}
	// A pod that is replaced ends after its successor has started. The socket at the path
	// may be the successor's then.
	listener.SetUnlinkOnClose(false)
	own, err := os.Stat(socket)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, &registrar{name: name, endpoint: *path, failed: failed})
	go func() { failed <- server.Serve(listener) }()
	if *endpoint != "" {
		go func() { failed <- serveHealth(*endpoint) }()
	}
	slog.Info("registrar is ready", "driver", name, "socket", socket)
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	server.Stop()
	if now, statErr := os.Stat(socket); statErr == nil && os.SameFile(own, now) {
		err = errors.Join(err, os.Remove(socket)) // kubelet notices the removal
	}
	return err
}

// driverName asks the driver for its name until it answers.
func driverName(ctx context.Context, address string) (string, error) {
	target := "unix://" + strings.TrimPrefix(address, "unix://")
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		info, err := csi.NewIdentityClient(conn).GetPluginInfo(attempt, &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
		cancel()
		if err == nil {
			return info.GetName(), nil
		}
		if ctx.Err() != nil {
			return "", fmt.Errorf("the driver at %s does not answer: %w", address, err)
		}
		slog.Info("the driver does not answer yet", "address", address, "error", err)
	}
}

// serveHealth answers /healthz with success as long as this process runs.
func serveHealth(endpoint string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	return (&http.Server{Addr: endpoint, Handler: mux, ReadHeaderTimeout: 5 * time.Second}).ListenAndServe()
}

// registrar is the service that kubelet calls.
type registrar struct {
	registration.UnimplementedRegistrationServer
	name, endpoint string
	failed         chan<- error
}

// GetInfo returns the driver's name and the path of its socket.
func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: r.name, Endpoint: r.endpoint, SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus ends the program if kubelet has refused the driver.
func (r *registrar) NotifyRegistrationStatus(
	_ context.Context, s *registration.RegistrationStatus,
) (*registration.RegistrationStatusResponse, error) {
	slog.Info("kubelet answers", "registered", s.GetPluginRegistered(), "error", s.GetError())
	if !s.GetPluginRegistered() {
		r.failed <- fmt.Errorf("kubelet refused the driver %s: %s", r.name, s.GetError())
	}
	return &registration.RegistrationStatusResponse{}, nil
}
