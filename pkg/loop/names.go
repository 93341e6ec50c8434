package loop

const (
	// Name selects this backend on the command lines of the plugins.
	Name = "loop"
	// DriverName is the CSI driver name of plugins with this backend.
	DriverName = "loop.growvol.io"
	// DefaultDir is where the volumes are unless told otherwise.
	DefaultDir = "/var/lib/growvol/loop"
)
