// Command livenessprobe is a STAND-IN, for tests only, for the sidecar of this name, whose
// module the Go module proxy does not have. It accepts the options that growvol's chart
// sets. GET /healthz succeeds if the driver's Probe does.
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
	endpoint := flag.String("http-endpoint", "", "address of /healthz; overrides --health-port")
	timeout := flag.Duration("probe-timeout", time.Second, "timeout of one probe")
	_ = flag.Int("v", 0, "ignored; an option of the real sidecar")
	flag.Parse()
	if *endpoint == "" {
		*endpoint = ":" + *port
	}

	target := "unix://" + strings.TrimPrefix(*address, "unix://")
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
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
