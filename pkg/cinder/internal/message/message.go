// Package message has common parts of the errors of this backend: Cinder's reasons for a failure
// (VolumeReason), phrases for next steps, and lists of names.
package message

import (
	"fmt"
	"strings"
)

// Next steps of several errors. IfPersists is a beginning: what to do follows it.
const (
	Retries    = "Kubernetes retries this automatically"
	IfPersists = Retries + "; if the error persists, "
	NoAction   = "no action needed: " + Retries
	Continues  = "no action needed: the operation continues and the next retry picks it up"
)

// JoinAtMost joins names with commas. Of more than five it names the first five and the
// number of the others.
func JoinAtMost(names []string) string {
	const maxNames = 5
	if len(names) <= maxNames {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNames], ", "), len(names)-maxNames)
}
