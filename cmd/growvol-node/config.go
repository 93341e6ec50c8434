package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/growvol/growvol/pkg/cgroup"
	"github.com/growvol/growvol/pkg/csiserver"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/loopcsi"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// config are the options of the command line.
type config struct {
	csiserver.Flags
	nodeID          string // empty: not set
	backend         string
	loopDir         string
	zone            string
	withTopology    bool
	topology        volume.Topology // additional segments
	maxVolumes      int64           // zero: detected
	reservedVolumes int64           // subtracted from the limit that is detected
	stateDir        string
	defaultFSType   string
	kubeletDir      string
	cgroupRoot      string
	requireShared   bool
	requireSysRes   bool
	growOnChange    bool
	discards        bool   // of encrypted volumes
	taintedNode     string // empty: no taint is removed
	cephConfig      string // file with the Ceph clusters
	cephKeys        string // directory with the keys; empty: the requests have them
	crushLocation   string // of this node; empty: unknown

	kubernetesNode    string // name of the Node; empty: the rbd backend does without
	crushLabels       string // keys of labels of the Node, separated by commas
	domainLabels      string // the same
	recordClients     bool
	serviceAccountDir string // empty: that of a pod
}

// register defines the options of this plugin on fs.
func (c *config) register(fs *flag.FlagSet) {
	fs.Func("node-id", "`name` of this node, as the controller plugin knows it; "+
		"default: the host's name (loop, rbd), the server's id according to OpenStack (cinder)", func(id string) error {
		if id == "" {
			return errors.New("the name is empty: leave the option out, or set the name of this node")
		}
		c.nodeID = id
		return nil
	})
	fs.StringVar(&c.backend, "backend", loopcsi.Name, "where the volumes come from: "+backendNames)
	fs.StringVar(&c.loopDir, "loop-dir", loopcsi.DefaultDir,
		"directory of the loop backend's volumes, shared with the controller plugin")
	fs.StringVar(&c.zone, "zone", "", "availability zone of this node (cinder); empty: according to OpenStack")
	fs.BoolVar(&c.withTopology, "with-topology", true, "report the zone of this node to Kubernetes (cinder)")
	fs.Func("additional-topology",
		"additional topology segment `key=value` of this node (cinder, rbd); may be repeated", c.addTopology)
	fs.Int64Var(&c.maxVolumes, "max-volumes", 0,
		"how many volumes can be attached to this node (cinder, rbd); 0: detected (cinder), no limit (rbd)")
	fs.Int64Var(&c.reservedVolumes, "reserved-volumes", 0,
		"how much to subtract from the detected limit of volumes, for disks that others attach to this node (cinder); "+
			"the limit stays at least one; not together with --max-volumes")
	fs.StringVar(&c.stateDir, "state-dir", "/var/lib/growvol/node",
		"directory for records of staged volumes and markers of formats; must survive a restart of the plugin")
	fs.StringVar(&c.defaultFSType, "default-fstype", string(filesystem.TypeExt4),
		"filesystem of volumes whose class names none")
	isContainer := isInContainer()
	fs.StringVar(&c.cgroupRoot, "cgroup-root", cgroup.DefaultRoot,
		"cgroup v2 hierarchy of this node, in which kubelet has the groups of the pods; limits of the I/O are set there")
	fs.StringVar(&c.kubeletDir, "kubelet-dir", "/var/lib/kubelet",
		"directory below which kubelet has volumes mounted; see --require-shared-mounts")
	fs.BoolVar(&c.requireShared, "require-shared-mounts", isContainer,
		"refuse to mount where the mount would be visible in this process's mount namespace only, "+
			"and be not healthy if that is so below --kubelet-dir; the default is true in a container")
	fs.BoolVar(&c.requireSysRes, "require-sys-resource", isContainer,
		"be not healthy without CAP_SYS_RESOURCE, without which no mounted ext2, ext3 or ext4 grows; "+
			"the default is true in a container")
	fs.BoolVar(&c.growOnChange, "grow-on-device-change", true,
		"grow a staged volume as soon as its device becomes larger, before kubelet asks for it")
	fs.BoolVar(&c.discards, "encrypted-discards", false,
		"pass discards of encrypted volumes that are staged from now on to the storage system: their space can be "+
			"reclaimed, and the storage system sees which of their blocks are unused")
	fs.StringVar(&c.taintedNode, "startup-taint-node", "",
		"`name` of this node in Kubernetes: remove the taint DRIVER/agent-not-ready from it "+
			"once kubelet has registered the driver; empty: do not")
	c.registerCeph(fs)
}

func (c *config) registerCeph(fs *flag.FlagSet) {
	fs.StringVar(&c.cephConfig, "ceph-config", "",
		"config.json with the clusters of the rbd backend, in the form of ceph-csi; read again when it changes")
	fs.StringVar(&c.cephKeys, "ceph-keys", "",
		"directory with the files userID and userKey, or with a directory of them for each cluster; "+
			"read again when they change; empty: the node stage secrets have them")
	fs.StringVar(&c.crushLocation, "crush-location", "",
		"where this node is in the CRUSH map, `type:name[|type:name...]` (rbd): reads go to the nearest replica; "+
			"empty: to the primary one")
	fs.StringVar(&c.crushLabels, "crush-location-labels", "",
		"`keys` of labels of this node in Kubernetes, separated by commas, that are its CRUSH location (rbd), such as "+
			"topology.kubernetes.io/zone for zone:NAME; not together with --crush-location")
	fs.StringVar(&c.domainLabels, "domain-labels", "",
		"`keys` of labels of this node in Kubernetes, separated by commas, that are its topology (rbd), as in ceph-csi: "+
			"topology.kubernetes.io/zone gives the segment "+rbdcsi.TopologyPrefix+"zone; needs --kubernetes-node")
	fs.StringVar(&c.kubernetesNode, "kubernetes-node", "",
		"`name` of this node in Kubernetes (rbd): record there which images are mapped, so that the controller can "+
			"fence this node when it is lost; empty: do not")
	fs.BoolVar(&c.recordClients, "record-clients", true,
		"record on --kubernetes-node which images are mapped; false: only read its labels")
	fs.StringVar(&c.serviceAccountDir, "service-account-dir", "",
		"directory with the files token and ca.crt for the API server, for --kubernetes-node and --volumes-endpoint, "+
			"which needs only ca.crt; empty: that of a pod")
}

// addTopology adds the topology segments of text: key=value[,key=value...].
func (c *config) addTopology(text string) error {
	if c.topology == nil {
		c.topology = volume.Topology{}
	}
	for pair := range strings.SplitSeq(text, ",") {
		key, value, found := strings.Cut(pair, "=")
		if !found || key == "" || value == "" {
			return fmt.Errorf("%q is not key=value", pair)
		}
		c.topology[key] = value
	}
	return nil
}
