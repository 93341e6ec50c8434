package csiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// liveTimeout bounds one check of /livez. It is shorter than the 10 s that the
// chart's probes wait, so that kubelet gets the reason.
const liveTimeout = 8 * time.Second

// livez answers 200 if the plugin's gRPC server answers Probe in time, whatever
// Probe says about health: a restart mends a plugin that hangs, and not what the
// plugin waits for. Else it answers 503 with the reason.
func (s *Server) livez(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), liveTimeout)
	defer cancel()
	s.reply(ctx, w, "/livez", s.checkLive(ctx))
}

// checkLive calls Probe over a connection of its own, as the sidecars do when they
// connect: it fails also when nobody can connect to the socket any more.
func (s *Server) checkLive(ctx context.Context) error {
	addr := s.serving.Load()
	if addr == nil {
		return errors.New("the plugin does not serve yet")
	}
	conn, err := grpc.NewClient(dialTarget(*addr), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return fmt.Errorf("connect to the plugin's own socket: %w", err)
	}
	defer func() { _ = conn.Close() }() // nothing is lost with it
	_, err = csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{})
	if err == nil || status.Code(err) == codes.FailedPrecondition {
		return nil // FAILED_PRECONDITION is the answer of a plugin that is not healthy
	}
	return fmt.Errorf("the plugin does not answer Probe on %s: %w", *addr, err)
}

// dialTarget returns the gRPC name of an address.
func dialTarget(addr net.Addr) string {
	if addr.Network() == "unix" {
		return "unix:" + addr.String()
	}
	return "passthrough:///" + addr.String()
}
