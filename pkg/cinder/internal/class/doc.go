// Package class reads the parameters of the three kinds of classes that Kubernetes passes to
// a driver: StorageClass, VolumeAttributesClass and VolumeSnapshotClass. It makes no requests
// and decides nothing: it returns what a class asks for, or an error of kind Invalid that
// names the parameter. Parameters have the names of cinder-csi-plugin where that has them.
package class
