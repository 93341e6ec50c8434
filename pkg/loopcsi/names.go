// Package loopcsi holds the names that the controller and the node plugin of the loop
// backend share. It imports nothing of either, so that each plugin links its own half
// of the backend: packages loop and loop/loopdev.
package loopcsi

const (
	// Name is the backend as --backend of both programs spells it.
	Name = "loop"
	// DriverName is the default CSI driver name.
	DriverName = "loop.growvol.io"
	// DefaultDir is the default directory of the volumes on the node.
	DefaultDir = "/var/lib/growvol/loop"
	// TopologyKey is the topology segment whose value is the node that holds the volumes.
	TopologyKey = "topology.loop.growvol.io/node"
	// ContextSize is the key of the publish context that holds the volume's size, in
	// bytes and in decimal, at the time of the attachment.
	ContextSize = "loop.growvol.io/size"
)
