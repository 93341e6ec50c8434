// Command registry is a registry of container images for tests. It has no authentication and
// speaks plain HTTP.
//
//	registry -listen ADDRESS:PORT -dir DIRECTORY
//
// DIRECTORY has the blobs, so that images that were pushed once are pushed again quickly. The
// manifests are in memory: push the images again after a restart.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	address := flag.String("listen", "127.0.0.1:5000", "address and port")
	dir := flag.String("dir", "", "directory of the blobs")
	flag.Parse()
	if *dir == "" || flag.NArg() > 0 {
		return errors.New("usage: registry -listen ADDRESS:PORT -dir DIRECTORY")
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *address)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           registry.New(registry.WithBlobHandler(registry.NewDiskBlobHandler(*dir))),
		ReadHeaderTimeout: time.Minute,
	}
	ended := context.AfterFunc(ctx, func() { _ = server.Close() }) // Serve returns
	defer ended()
	fmt.Println("listening on", listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
