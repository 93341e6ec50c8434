package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/growvol/growvol/pkg/csiserver"
	"github.com/growvol/growvol/pkg/loop"
	"github.com/growvol/growvol/pkg/volume"
)

// config is what the command line says.
type config struct {
	csiserver.Flags
	backend           string
	nodeID            string
	loopDir           string
	loopPoolSize      size
	loopMaxVolumeSize size
}

func (c *config) register(fs *flag.FlagSet) {
	hostname, _ := os.Hostname() // an empty node id is refused later, with the option's name
	fs.StringVar(&c.backend, "backend", loop.Name, "where the volumes come from: "+loop.Name)
	fs.StringVar(&c.nodeID, "node-id", hostname, "name of this node; the loop backend's volumes are on it")
	fs.StringVar(&c.loopDir, "loop-dir", loop.DefaultDir, "directory of the loop backend's volumes, shared with the node plugin")
	fs.Var(&c.loopPoolSize, "loop-pool-size", "room for all volumes of the loop backend, as 100Gi; 0: what the filesystem has")
	c.loopMaxVolumeSize = size(loop.DefaultMaxVolumeSize)
	fs.Var(&c.loopMaxVolumeSize, "loop-max-volume-size", "largest volume of the loop backend, as 10Gi")
}

// open makes the backend that the command line names, and tells the driver
// name that goes with it. It is the one place that knows backends by name.
func open(ctx context.Context, c config, log *slog.Logger) (volume.Backend, string, error) {
	switch c.backend {
	case loop.Name:
		if c.nodeID == "" {
			return nil, "", fmt.Errorf("--node-id is empty and the host has no name: give the name of this node")
		}
		backend, err := loop.New(ctx, loop.Options{
			Dir: c.loopDir, Node: c.nodeID, Log: log,
			PoolSize: volume.Size(c.loopPoolSize), MaxVolumeSize: volume.Size(c.loopMaxVolumeSize),
		})
		return backend, loop.DriverName, err
	default:
		return nil, "", fmt.Errorf("--backend %q is not known; use %s", c.backend, loop.Name)
	}
}

// size is a flag.Value: bytes, or a whole number of Ki, Mi, Gi or Ti as
// Kubernetes writes it.
type size volume.Size

// String implements flag.Value.
func (s *size) String() string {
	if *s == 0 {
		return "0"
	}
	return volume.Size(*s).String()
}

// Set implements flag.Value.
func (s *size) Set(text string) error {
	unit := volume.Byte
	number := text
	for suffix, u := range map[string]volume.Size{"Ki": volume.KiB, "Mi": volume.MiB, "Gi": volume.GiB, "Ti": volume.TiB} {
		if rest, found := strings.CutSuffix(text, suffix); found {
			number, unit = rest, u
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<63-1)/unit.Bytes() {
		return fmt.Errorf("%q is not a size: want bytes or a whole number of Ki, Mi, Gi or Ti, as 10Gi", text)
	}
	*s = size(n * unit.Bytes())
	return nil
}
