// Package cluster reads which Ceph clusters there are and the keys for them: a JSON file in the form
// of ceph-csi's config.json, and a directory with mounted secrets. Both halves of the RBD backend
// use it; it links no Ceph library.
package cluster

// Cluster is what a client needs in order to connect to a cluster.
type Cluster struct {
	ID        string
	Monitors  []string // host:port
	Namespace string   // RADOS namespace of classes that name none
	User      string   // without "client."
	Key       string   // base64; never logged
}
