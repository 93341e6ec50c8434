package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/growvol/growvol/pkg/startuptaint"
)

// removeStartupTaint takes the driver's start-up taint off the node, beside what
// else the plugin does: it works as well, and goes on, if that never succeeds.
// stop ends it.
func removeStartupTaint(ctx context.Context, node, driver string, log *slog.Logger) (stop func(), err error) {
	if node == "" {
		return func() {}, nil
	}
	api, err := startuptaint.InCluster()
	if err != nil {
		return nil, fmt.Errorf("--startup-taint-node: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		if err := startuptaint.Remove(ctx, startuptaint.Options{API: api, Node: node, Driver: driver, Log: log}); err != nil {
			log.WarnContext(ctx, "the start-up taint is no longer waited for", "cause", err)
		}
	})
	return func() { cancel(); running.Wait() }, nil
}
