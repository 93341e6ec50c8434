// Package rbdcsi holds what the controller and the node plugin of the Ceph RBD backend share: the
// driver name, the handles of volumes and snapshots, and the keys of the publish context. It
// imports nothing of either, so that the node links no Ceph library.
package rbdcsi

// Names of the backend and of its driver.
const (
	// Name is the backend as --backend of both programs spells it.
	Name = "rbd"
	// DriverName is the default CSI driver name: that of ceph-csi, so that its
	// PersistentVolumes keep working.
	DriverName = "rbd.csi.ceph.com"
	// TopologyPrefix begins the topology keys of nodes; the rest is the name of a domain, such as zone
	// (ceph-csi, --domainlabels).
	TopologyPrefix = "topology." + DriverName + "/"
)

// Keys of the publish context, by which ControllerPublishVolume informs the node. The node maps
// exactly the image that they name, and compares what the kernel shows of the mapping with them.
// All may be absent, as they are for volumes that ceph-csi has attached.
const (
	ContextCluster   = "clusterID"
	ContextFSID      = "fsid" // of the cluster, as the kernel shows it in cluster_fsid
	ContextPool      = "pool"
	ContextPoolID    = "poolID" // decimal
	ContextNamespace = "radosNamespace"
	ContextImage     = "imageName"
	ContextImageID   = "imageID"
	ContextSnapshot  = "snapshot" // name; absent: the image itself
	ContextSize      = "size"     // bytes, in decimal, at the time of the attachment
)

// Keys of the volume context (and of the StorageClass) that the node reads; ceph-csi's names.
const (
	// ParameterMapOptions holds options of krbd, as "krbd:a,b=c" or "a,b=c".
	ParameterMapOptions = "mapOptions"
	// ParameterImageName is the image of a PersistentVolume of ceph-csi, and
	// ParameterStaticVolume "true" marks one that was made by hand: its handle is the name.
	ParameterImageName    = "imageName"
	ParameterStaticVolume = "staticVolume"
	ParameterCluster      = "clusterID"
	ParameterPool         = "pool"
	ParameterNamespace    = "radosNamespace"
)
