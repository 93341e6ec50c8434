package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/cinder"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/csiserver"
	"github.com/growvol/growvol/pkg/loop"
	"github.com/growvol/growvol/pkg/loopcsi"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// backends are the values of --backend.
const backends = loopcsi.Name + " or " + cindercsi.Name

// config is what the command line says.
type config struct {
	csiserver.Flags
	backend           string
	nodeID            string
	loopDir           string
	loopPoolSize      size
	loopMaxVolumeSize size

	cloudConfig    paths
	cloudsYAML     string
	cloud          string
	clusterID      string
	withTopology   bool
	ignoreVolumeAZ bool
	notifyNova     bool
}

func (c *config) register(fs *flag.FlagSet) {
	hostname, _ := os.Hostname() // an empty node id is refused later, with the option's name
	fs.StringVar(&c.backend, "backend", loopcsi.Name, "where the volumes come from: "+backends)
	fs.StringVar(&c.nodeID, "node-id", hostname, "name of this node; the loop backend's volumes are on it")
	fs.StringVar(&c.loopDir, "loop-dir", loopcsi.DefaultDir,
		"directory of the loop backend's volumes, shared with the node plugin")
	fs.Var(&c.loopPoolSize, "loop-pool-size",
		"room for all volumes of the loop backend, as 100Gi; 0: what the filesystem has")
	c.loopMaxVolumeSize = size(loop.DefaultMaxVolumeSize)
	fs.Var(&c.loopMaxVolumeSize, "loop-max-volume-size", "largest volume of the loop backend, as 10Gi")

	fs.StringVar(&c.cloudsYAML, "clouds-yaml", "",
		"clouds.yaml with the clouds of the cinder backend and their credentials; read again when it changes")
	fs.Var(&c.cloudConfig, "cloud-config",
		"cloud.conf as cinder-csi-plugin has it, beside or instead of clouds.yaml; may be given several times, the later wins")
	fs.StringVar(&c.cloud, "cloud", "", "cloud of requests that name none; needed when several are configured")
	fs.StringVar(&c.clusterID, "cluster-id", "",
		"name of this cluster among those that share the project: volumes are listed and found by name within it")
	fs.BoolVar(&c.withTopology, "with-topology", true,
		"volumes can be reached only from servers in their availability zone")
	fs.BoolVar(&c.ignoreVolumeAZ, "ignore-volume-az", false, "leave the availability zone of volumes to Cinder")
	fs.BoolVar(&c.notifyNova, "notify-nova", false,
		"tell Nova of the growth of a volume in use, in case that Cinder could not; needs a role that may post external events")
}

// opened is a backend with the driver name that goes with it.
type opened struct {
	volume.Backend
	driver   string
	detached *operation.Tracker // work of the backend that outlives its call; nil: there is none
	close    func()
}

// open makes the backend that the command line names. It is the one place
// that knows backends by name.
func open(ctx context.Context, c config, log *slog.Logger, metrics prometheus.Registerer) (opened, error) {
	switch c.backend {
	case loopcsi.Name:
		if c.nodeID == "" {
			return opened{}, fmt.Errorf("--node-id is empty and the host has no name: give the name of this node")
		}
		detached := new(operation.Tracker)
		backend, err := loop.New(ctx, loop.Options{
			Dir: c.loopDir, Node: c.nodeID, Log: log, Detached: detached,
			PoolSize: volume.Size(c.loopPoolSize), MaxVolumeSize: volume.Size(c.loopMaxVolumeSize),
		})
		return opened{Backend: backend, driver: loopcsi.DriverName, detached: detached, close: func() {}}, err
	case cindercsi.Name:
		return openCinder(ctx, c, log, metrics)
	default:
		return opened{}, fmt.Errorf("--backend %q is not known; use %s", c.backend, backends)
	}
}

func openCinder(ctx context.Context, c config, log *slog.Logger, metrics prometheus.Registerer) (opened, error) {
	if c.cloudsYAML == "" && len(c.cloudConfig) == 0 {
		return opened{}, fmt.Errorf("--backend=%s needs credentials: give --clouds-yaml or --cloud-config", cindercsi.Name)
	}
	backend, err := cinder.New(ctx, cinder.Options{
		Clouds: cinder.CloudOptions{
			CloudConfig: c.cloudConfig, CloudsYAML: c.cloudsYAML, Default: c.cloud, UserAgent: "growvol/" + csiserver.Version(),
		},
		ClusterID: c.clusterID, Topology: c.withTopology, IgnoreVolumeAZ: c.ignoreVolumeAZ, NotifyNova: c.notifyNova,
		Log: log, Registerer: metrics,
	})
	if err != nil {
		return opened{}, err
	}
	return opened{Backend: backend, driver: cindercsi.DriverName, close: backend.Close}, nil
}

// paths is a flag.Value of files.
type paths []string

// String implements flag.Value.
func (p *paths) String() string { return strings.Join(*p, ",") }

// Set implements flag.Value.
func (p *paths) Set(path string) error {
	if path == "" {
		return fmt.Errorf("the path is empty")
	}
	*p = append(*p, path)
	return nil
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
