package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/cinder"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/csiserver"
	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/loop"
	"github.com/growvol/growvol/pkg/loopcsi"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/rbd"
	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/version"
	"github.com/growvol/growvol/pkg/volume"
)

// config holds the options of the command line. openBackend opens the backend that they name.
type config struct {
	csiserver.Flags
	backend           string
	nodeID            string
	loopDir           string
	loopPoolSize      sizeFlag
	loopMaxVolumeSize sizeFlag

	cloudConfig    []string // paths
	cloudsYAML     string
	cloud          string
	clusterID      string
	withTopology   bool
	ignoreVolumeAZ bool
	notifyNova     bool

	cephConfig        string // path
	cephKeys          string // directory
	cephNamePrefix    string
	kubernetes        bool
	serviceAccountDir string // empty: that of a pod
	cephTopology      bool
}

// register defines the options of this plugin on fs.
func (c *config) register(fs *flag.FlagSet) {
	fs.StringVar(&c.backend, "backend", loopcsi.Name, "storage system of the volumes: "+backendNames)
	hostname, _ := os.Hostname() // if it is empty, openLoop requires --node-id
	fs.StringVar(&c.nodeID, "node-id", hostname, "name of this node, which has the volumes of the loop backend")
	fs.StringVar(&c.loopDir, "loop-dir", loopcsi.DefaultDir,
		"directory of the loop backend's volumes, shared with the node plugin")
	fs.Var(&c.loopPoolSize, "loop-pool-size",
		"size of all volumes of the loop backend together, such as 100Gi; 0: the free space of the filesystem")
	c.loopMaxVolumeSize = sizeFlag(loop.DefaultMaxVolumeSize)
	fs.Var(&c.loopMaxVolumeSize, "loop-max-volume-size", "largest volume of the loop backend, such as 10Gi")

	fs.StringVar(&c.cloudsYAML, "clouds-yaml", "",
		"clouds.yaml with the clouds of the cinder backend and their credentials; read again when it changes")
	fs.Func("cloud-config", "cloud.conf of cinder-csi-plugin, instead of clouds.yaml or in addition; "+
		"may be repeated, later files override earlier ones", func(path string) error {
		if path == "" {
			return errors.New("the path is empty")
		}
		c.cloudConfig = append(c.cloudConfig, path)
		return nil
	})
	fs.StringVar(&c.cloud, "cloud", "", "cloud of requests that name none; required if several clouds are configured")
	fs.StringVar(&c.clusterID, "cluster-id", "",
		"name of this cluster among those that share the project: volumes are listed and found by name within it")
	fs.BoolVar(&c.withTopology, "with-topology", true,
		"volumes can be reached only from servers in their availability zone")
	fs.BoolVar(&c.ignoreVolumeAZ, "ignore-volume-az", false, "let Cinder choose the availability zone of volumes")
	fs.BoolVar(&c.notifyNova, "notify-nova", false,
		"tell Nova about the expansion of a volume in use if Cinder could not; needs a role that may create external events")
	c.registerCeph(fs)
}

func (c *config) registerCeph(fs *flag.FlagSet) {
	fs.StringVar(&c.cephConfig, "ceph-config", "",
		"config.json with the clusters of the rbd backend, in the form of ceph-csi; read again when it changes")
	fs.StringVar(&c.cephKeys, "ceph-keys", "",
		"directory with the files userID and userKey, or with a directory of them for each cluster; "+
			"read again when they change")
	fs.StringVar(&c.cephNamePrefix, "ceph-name-prefix", rbd.DefaultNamePrefix,
		"begins the names of images; a class can set another")
	fs.BoolVar(&c.cephTopology, "ceph-topology", false,
		"the rbd backend chooses the pool by the topology of the node (topologyConstrainedPools)")
	fs.BoolVar(&c.kubernetes, "kubernetes", false,
		"read the Nodes of Kubernetes and what their plugins have recorded there, so that a node that is lost can be "+
			"fenced (rbd); the ids of nodes are then the names of their Nodes")
	fs.StringVar(&c.serviceAccountDir, "service-account-dir", "",
		"directory with the files token and ca.crt for the API server, for --kubernetes and --volumes-endpoint, "+
			"which needs only ca.crt; empty: that of a pod")
}

// openNodes returns the Nodes of --kubernetes; nil without it.
func openNodes(ctx context.Context, c config, log *slog.Logger) (rbd.Nodes, error) {
	if !c.kubernetes {
		log.WarnContext(ctx, "--kubernetes is not set: a node that is lost cannot be fenced")
		return nil, nil
	}
	api, err := kubeapi.InCluster()
	if err != nil {
		return nil, fmt.Errorf("--kubernetes: %w", err)
	}
	if c.serviceAccountDir != "" {
		api.Dir = c.serviceAccountDir
	}
	return api, nil
}

// backendNames are the values of --backend, for messages.
const backendNames = loopcsi.Name + ", " + cindercsi.Name + " or " + rbdcsi.Name

// openedBackend is a backend with what the program needs besides it.
type openedBackend struct {
	volume.Backend
	driverName string             // default of --driver-name
	detached   *operation.Tracker // work of the backend that continues after its call; nil: there is none
	close      func()             // releases what the backend holds
}

// openBackend opens the backend of the command line. Together with its helpers it is the
// only place that knows backends by name.
func openBackend(
	ctx context.Context, c config, log *slog.Logger, metrics prometheus.Registerer,
) (openedBackend, error) {
	switch c.backend {
	case loopcsi.Name:
		return openLoop(ctx, c, log)
	case cindercsi.Name:
		return openCinder(ctx, c, log, metrics)
	case rbdcsi.Name:
		return openRBD(ctx, c, log, metrics)
	default:
		return openedBackend{}, fmt.Errorf("--backend %q is not known: use %s", c.backend, backendNames)
	}
}

func openLoop(ctx context.Context, c config, log *slog.Logger) (openedBackend, error) {
	if c.nodeID == "" {
		return openedBackend{}, errors.New("--node-id is empty, and the host has no name: set --node-id")
	}
	detached := new(operation.Tracker)
	backend, err := loop.New(ctx, loop.Options{
		Dir: c.loopDir, Node: c.nodeID, Log: log, Detached: detached,
		PoolSize: volume.Size(c.loopPoolSize), MaxVolumeSize: volume.Size(c.loopMaxVolumeSize),
	})
	return openedBackend{Backend: backend, driverName: loopcsi.DriverName, detached: detached, close: func() {}}, err
}

func openCinder(
	ctx context.Context, c config, log *slog.Logger, metrics prometheus.Registerer,
) (openedBackend, error) {
	if c.cloudsYAML == "" && len(c.cloudConfig) == 0 {
		return openedBackend{}, fmt.Errorf("--backend=%s needs credentials: set --clouds-yaml or --cloud-config", c.backend)
	}
	backend, err := cinder.New(ctx, cinder.Options{
		Clouds: cinder.CloudOptions{
			CloudConfig: c.cloudConfig, CloudsYAML: c.cloudsYAML, Default: c.cloud,
			UserAgent: "growvol/" + version.String(),
		},
		ClusterID: c.clusterID, Topology: c.withTopology, IgnoreVolumeAZ: c.ignoreVolumeAZ, NotifyNova: c.notifyNova,
		Log: log, Registerer: metrics,
	})
	if err != nil {
		return openedBackend{}, err
	}
	return openedBackend{
		Backend: backend, driverName: cindercsi.DriverName, close: startVersionReport(ctx, backend),
	}, nil
}

// startVersionReport reads the versions of the cloud's API in the background: a service that hangs
// does not delay the start. The result ends that and closes the backend.
func startVersionReport(ctx context.Context, backend *cinder.Backend) (closeBackend func()) {
	ctx, cancel := context.WithCancel(ctx)
	var report sync.WaitGroup
	report.Go(func() { backend.ReportAPIVersions(ctx) })
	return func() {
		cancel()
		report.Wait()
		backend.Close()
	}
}

// rbdGCPercent is the setting GOGC with the rbd backend. Its heap has a few MB, and collecting that
// more often than by default saves 2 MB and costs nothing that can be measured.
const rbdGCPercent = 25

func openRBD(
	ctx context.Context, c config, log *slog.Logger, metrics prometheus.Registerer,
) (openedBackend, error) {
	if c.cephConfig == "" {
		return openedBackend{}, fmt.Errorf("--backend=%s needs to know the clusters: set --ceph-config", c.backend)
	}
	dialer, err := rbd.NewDialer()
	if err != nil {
		return openedBackend{}, err
	}
	debug.SetGCPercent(rbdGCPercent)
	nodes, err := openNodes(ctx, c, log)
	if err != nil {
		return openedBackend{}, err
	}
	detached := new(operation.Tracker)
	backend, err := rbd.New(ctx, rbd.Options{
		Nodes:    nodes,
		Clusters: cluster.Files{Config: c.cephConfig, Keys: c.cephKeys}, Dialer: dialer,
		NamePrefix: c.cephNamePrefix, Topology: c.cephTopology, Detached: detached, Log: log, Registerer: metrics,
	})
	if err != nil {
		return openedBackend{}, err
	}
	return openedBackend{Backend: backend, driverName: rbdcsi.DriverName, detached: detached, close: backend.Close}, nil
}

// sizeFlag is a flag.Value: bytes, or a whole number of Ki, Mi, Gi or Ti, as in Kubernetes.
type sizeFlag volume.Size

// String implements flag.Value.
func (s *sizeFlag) String() string {
	if *s == 0 {
		return "0"
	}
	return volume.Size(*s).String()
}

// Set implements flag.Value.
func (s *sizeFlag) Set(text string) error {
	number, unit := text, volume.Byte
	for suffix, u := range map[string]volume.Size{"Ki": volume.KiB, "Mi": volume.MiB, "Gi": volume.GiB, "Ti": volume.TiB} {
		if n, found := strings.CutSuffix(text, suffix); found {
			number, unit = n, u
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<63-1)/unit.Bytes() {
		return fmt.Errorf("%q is not a size: want bytes or a whole number of Ki, Mi, Gi or Ti, such as 10Gi", text)
	}
	*s = sizeFlag(n * unit.Bytes())
	return nil
}
