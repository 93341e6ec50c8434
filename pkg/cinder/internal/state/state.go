// Package state has the states of Cinder's volumes, snapshots and backups, and functions that
// classify volumes by their state. It makes no requests.
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

// IsSettled reports whether the volume is usable and no operation of Cinder on it is running.
func IsSettled(v cloud.Volume) bool { return v.Status == Available || v.Status == InUse }

// HasFailed reports whether the volume is in a failed state, which only a deletion or an
// administrator ends.
func HasFailed(v cloud.Volume) bool { return strings.HasPrefix(v.Status, Error) }

// IsIdle reports whether no operation of Cinder on the volume is running, except a deletion.
func IsIdle(v cloud.Volume) bool { return IsSettled(v) || HasFailed(v) || v.Status == Deleting }

// IsNot returns a function that reports whether the state of a volume differs from the given one.
func IsNot(state string) func(cloud.Volume) bool {
	return func(v cloud.Volume) bool { return v.Status != state }
}

// IsFailedCreation reports whether a failed creation or restore may have left the volume behind.
func IsFailedCreation(v cloud.Volume) bool {
	return (v.Status == Error || v.Status == ErrorRestoring) && len(v.Attachments) == 0
}

// Servers returns the ids of the servers that the volume is attached to. It omits attachments to
// hosts that are not servers of Nova.
func Servers(v cloud.Volume) []string {
	var ids []string
	for _, a := range v.Attachments {
		if a.ServerID != "" {
			ids = append(ids, a.ServerID)
		}
	}
	return ids
}

// Compare sorts volumes of the same name: volumes that have not failed before failed ones, then
// older volumes before newer ones.
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
