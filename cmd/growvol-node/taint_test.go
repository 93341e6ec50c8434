package main

import (
	"context"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
)

// The plugin works, and ends, while the API server does not answer about the taint.
func TestPluginWorksWhileTheTaintStays(t *testing.T) {
	// As in a pod, but without the files of a service account, and with nothing that listens.
	t.Setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "1")
	conn, stop := startProgram(t, []string{"--node-id=node-7", "--startup-taint-node=node-7"})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := csi.NewNodeClient(conn).NodeGetInfo(ctx, &csi.NodeGetInfoRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Error(err)
	}
	stop()
}
