// Package message has what the errors of this backend have in common: the reasons that Cinder
// gives for what it did not do, set phrases, and lists of names. It is a leaf: it decides
// nothing about a volume.
package message

import (
	"fmt"
	"strings"
)

// Next steps that several errors name. Retries is followed by what else may help.
const (
	Retries   = "Kubernetes retries this automatically"
	NoAction  = "no action needed: " + Retries
	Continues = "no action needed: the operation continues and the next retry picks it up"
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
