// Package librbd connects to Ceph clusters with Ceph's own libraries, librados and librbd, through
// go-ceph. It does what package ceph describes and decides nothing. Only the build tag ceph links
// the libraries; without it, connecting fails with an error that says so.
package librbd

// Dialer implements ceph.Dialer.
type Dialer struct{}
