package rbd

import "github.com/growvol/growvol/pkg/rbd/internal/librbd"

// This file holds the choice of the client of Ceph.

// NewDialer returns the dialer that connects with Ceph's own libraries. Error: Unsupported if the
// program was built without them.
func NewDialer() (Dialer, error) { //nolint:ireturn // the libraries are behind an interface
	dialer := librbd.Dialer{}
	return dialer, dialer.Check()
}
