// Package loop is the controller's half of growvol's embedded backend: volumes are sparse
// files in a directory of one node. It needs no cloud. Its volumes behave like those of a
// cloud: an expansion does not touch the device on the node, and the node has to read the
// new size itself. The node's half is package loop/loopdev; the two share the directory
// (internal/volumedir has its layout) and run on the same machine.
//
// New opens the directory and returns a Backend, the volume.Backend that
// growvol-controller serves. To follow one call, begin with Backend.Create (create.go):
// store.go creates and removes objects so that a crash at any step leaves complete
// objects only, file_ops.go makes the single steps, and build.go lets a copy of a large
// volume continue after its call has ended.
//
// What a crash leaves unfinished is in the directory pending, where the next call for
// that id, or the next New, removes it.
package loop
