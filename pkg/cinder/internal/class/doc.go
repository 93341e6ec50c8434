// Package class parses the parameters of the three kinds of classes that Kubernetes passes to a
// driver: StorageClass (ParseStorage), VolumeAttributesClass (ParseAttributes) and
// VolumeSnapshotClass (ParseSnapshot). It makes no requests. An error has kind Invalid and names
// the parameter. Parameters have the names of cinder-csi-plugin where that driver has them.
package class
