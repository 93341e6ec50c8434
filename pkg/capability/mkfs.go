package capability

import (
	"regexp"
	"strings"
)

// MkfsOptions splits the StorageClass parameter mkfsOptions into arguments of mkfs.
// They are separated by blanks, or by a comma before the next option, as
// cinder-csi-plugin has it. Other commas belong to a value: -E nodiscard,stride=4.
func MkfsOptions(text string) []string {
	text = regexp.MustCompile(`,(\s*-|\s*$)`).ReplaceAllString(text, " $1")
	return strings.Fields(text)
}
