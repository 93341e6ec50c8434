package csiserver

import "runtime/debug"

// Version returns the version of the running program as the Go toolchain
// stamped it: the module version (from the tag), or the revision of the
// sources, or "devel".
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value
		}
	}
	return "devel"
}
