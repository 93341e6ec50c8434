package main

import (
	"context"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
)

// A cluster that does not let the taint go does not keep the plugin from its
// work, nor from ending.
func TestPluginWorksWhileTheTaintStays(t *testing.T) {
	// As in a pod, but without the files of a service account, and nobody listens.
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
