// Package state names the states that Cinder shows for its volumes, snapshots and backups,
// and judges volumes by them. It makes no requests. All packages that decide what to do with
// an object of Cinder use it.
package state

import (
	"cmp"
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
)

// Values of the field "status" of volumes, snapshots, backups and attachments (Cinder API,
// "Volumes (volumes)", "Volume snapshots (snapshots)", "Backups (backups)").
const (
	Creating       = "creating"
	Available      = "available"
	Reserved       = "reserved"
	Attaching      = "attaching"
	InUse          = "in-use"
	Detaching      = "detaching"
	Extending      = "extending"
	Retyping       = "retyping"
	Deleting       = "deleting"
	Maintenance    = "maintenance"
	Error          = "error"
	ErrorExtending = "error_extending"
	ErrorDeleting  = "error_deleting"
	ErrorRestoring = "error_restoring"
)

// IsSettled reports whether Cinder does nothing with the volume and nothing is wrong with it.
func IsSettled(v cloud.Volume) bool { return v.Status == Available || v.Status == InUse }

// HasFailed reports whether the volume is in a state that only a deletion or an administrator
// ends.
func HasFailed(v cloud.Volume) bool { return strings.HasPrefix(v.Status, Error) }

// IsIdle reports whether Cinder does nothing with the volume except delete it: the volume is
// settled, has failed, or is being deleted.
func IsIdle(v cloud.Volume) bool { return IsSettled(v) || HasFailed(v) || v.Status == Deleting }

// IsNot returns a function that reports whether a volume is in another state than the given one.
func IsNot(state string) func(cloud.Volume) bool {
	return func(v cloud.Volume) bool { return v.Status != state }
}

// IsFailedCreation reports whether the volume is what a creation or restore leaves when
// Cinder fails to carry it out.
func IsFailedCreation(v cloud.Volume) bool {
	return (v.Status == Error || v.Status == ErrorRestoring) && len(v.Attachments) == 0
}

// Servers returns the ids of the servers that the volume is attached to. An attachment to
// a host that is no server of Nova has none.
func Servers(v cloud.Volume) []string {
	var ids []string
	for _, a := range v.Attachments {
		if a.ServerID != "" {
			ids = append(ids, a.ServerID)
		}
	}
	return ids
}

// Compare sorts volumes of the same name: those that have not failed come first, then the older
// ones.
func Compare(x, y cloud.Volume) int {
	return cmp.Or(FalseLast(!HasFailed(x), !HasFailed(y)), x.CreatedAt.Compare(y.CreatedAt), cmp.Compare(x.ID, y.ID))
}

// FalseLast sorts true before false.
func FalseLast(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return -1
	}
	return 1
}
