package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/startuptaint"
)

// startRemovingTaint starts removing the driver's start-up taint from the node; stop ends that. The
// plugin serves meanwhile, also if the taint is never removed. An empty node does nothing.
func startRemovingTaint(ctx context.Context, node, driver string, log *slog.Logger) (stop func(), err error) {
	if node == "" {
		return func() {}, nil
	}
	api, err := kubeapi.InCluster()
	if err != nil {
		return nil, fmt.Errorf("--startup-taint-node: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		err := startuptaint.Remove(ctx, startuptaint.Options{API: api, Node: node, Driver: driver, Log: log})
		if err != nil {
			log.WarnContext(ctx, "the plugin stops before the start-up taint was removed", "cause", err)
		}
	})
	return func() { cancel(); running.Wait() }, nil
}
