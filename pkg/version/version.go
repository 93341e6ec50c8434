// Package version has the version of the running program, which --version prints and logs contain.
package version

import "runtime/debug"

// release is the version of a release, such as 0.1.0. Only the linker sets it:
//
//	go build -ldflags='-X github.com/growvol/growvol/pkg/version.release=0.1.0' ./cmd/...
var release string //nolint:gochecknoglobals // a variable, because the linker cannot set constants

// String returns the version of a release. For other programs it returns the version that the
// Go toolchain stamped from the tag or the revision of the sources, or "devel".
func String() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
