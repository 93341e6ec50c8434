// Command livenessprobe is a STAND-IN, for tests only, for the sidecar of that
// name, whose module cannot be had from the Go module proxy. It takes the
// options of the real one that growvol's chart gives: GET /healthz answers as
// the driver's Probe does.
package main

import (
	"context"
	"flag"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	if err := run(); err != nil {
		slog.Error("livenessprobe ends", "error", err)
		os.Exit(1)
	}
}

func run() error {
	address := flag.String("csi-address", "/run/csi/socket", "the driver's socket")
	port := flag.String("health-port", "9808", "port of /healthz")
	endpoint := flag.String("http-endpoint", "", "address of /healthz; goes before --health-port")
	timeout := flag.Duration("probe-timeout", time.Second, "limit of one probe")
	_ = flag.Int("v", 0, "taken for the real sidecar's sake")
	flag.Parse()
	if *endpoint == "" {
		*endpoint = ":" + *port
	}

	conn, err := grpc.NewClient("unix://"+strings.TrimPrefix(*address, "unix://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	driver := csi.NewIdentityClient(conn)
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), *timeout)
		defer cancel()
		answer, err := driver.Probe(ctx, &csi.ProbeRequest{})
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		case answer.GetReady() != nil && !answer.GetReady().GetValue():
			http.Error(w, "the driver is not ready", http.StatusInternalServerError)
		default:
			w.WriteHeader(http.StatusOK)
		}
	})
	return (&http.Server{Addr: *endpoint, Handler: mux, ReadHeaderTimeout: 5 * time.Second}).ListenAndServe()
}
