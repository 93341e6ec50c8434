package claim

import (
	_ "embed" // for the tables
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// remediesFile is the file of the tables, which also the page "My resize is stuck" shows.
//
//go:embed remedies.yaml
var remediesFile []byte

// remedies are the tables of remedies.yaml; that file explains the fields.
type remedies struct {
	Steps    []stepRow    `yaml:"steps"`
	Remount  string       `yaml:"remount"`
	Refusals []refusalRow `yaml:"refusals"`
	Around   []aroundRow  `yaml:"around"`
	Storage  []errorRow   `yaml:"storage"`
	Node     []errorRow   `yaml:"node"`
}

// stepRow is the meaning of a step of a resize.
type stepRow struct {
	Key            string   `yaml:"key"`
	OnlyPage       bool     `yaml:"onlyPage"`
	Step           string   `yaml:"step"`
	ShownStep      string   `yaml:"shownStep"`
	Condition      string   `yaml:"condition"`
	ShownCondition string   `yaml:"shownCondition"`
	Pods           string   `yaml:"pods"`
	Volume         string   `yaml:"volume"`
	Meaning        string   `yaml:"meaning"`
	Do             string   `yaml:"do"`
	Severity       Severity `yaml:"severity"`
	Final          bool     `yaml:"final"`
	Table          string   `yaml:"table"`
	Next           string   `yaml:"next"`
}

// refusalRow is a message of the API server.
type refusalRow struct {
	Message string `yaml:"message"`
	Do      string `yaml:"do"`
}

// aroundRow is what an object around the claim says.
type aroundRow struct {
	Key      string   `yaml:"key"`
	Shown    string   `yaml:"shown"`
	Subject  string   `yaml:"subject"`
	Meaning  string   `yaml:"meaning"`
	Do       string   `yaml:"do"`
	Severity Severity `yaml:"severity"`
	Next     string   `yaml:"next"`
}

// errorRow is an error of the storage system or of the node.
type errorRow struct {
	Codes    []string `yaml:"codes"`
	Contains []string `yaml:"contains"`
	Message  string   `yaml:"message"`
	Cause    string   `yaml:"cause"`
	Do       string   `yaml:"do"`
}

// loadRemedies returns the tables. The embedded file is part of the program: a malformed one is a
// fault of the program, which every test of this package finds.
var loadRemedies = sync.OnceValue(func() *remedies { //nolint:gochecknoglobals // parsed once, never changed
	var r remedies
	if err := yaml.Unmarshal(remediesFile, &r); err != nil {
		panic(fmt.Sprintf("remedies.yaml: %v", err))
	}
	return &r
})

// findStep returns the row of the step: one whose condition the claim has, otherwise the one that
// waits. hasGrown reports that the PersistentVolume has the requested size.
func (r *remedies) findStep(step string, conditions []Condition, hasPods, hasGrown bool) (stepRow, bool) {
	pods := "none"
	if hasPods {
		pods = "some"
	}
	var candidates []stepRow
	for _, row := range r.Steps {
		if !row.OnlyPage && row.Step == step && (row.Pods == "" || row.Pods == pods) && (row.Volume == "" || hasGrown) {
			candidates = append(candidates, row)
		}
	}
	hasCondition := func(row stepRow) bool {
		return slices.ContainsFunc(conditions, func(c Condition) bool { return c.Type == row.Condition })
	}
	if i := slices.IndexFunc(candidates, hasCondition); i >= 0 {
		return candidates[i], true
	}
	if i := slices.IndexFunc(candidates, func(row stepRow) bool { return row.Severity == SeverityWaits }); i >= 0 {
		return candidates[i], true
	}
	if len(candidates) > 0 {
		return candidates[0], true
	}
	return stepRow{}, false
}

// findError returns the row of an error's message in the table "storage" or "node".
func (r *remedies) findError(table, message string) (errorRow, bool) {
	rows := r.Storage
	if table == "node" {
		rows = r.Node
	}
	code := codeOf(message)
	i := slices.IndexFunc(rows, func(row errorRow) bool {
		hasPart := func(part string) bool { return containsPattern(message, part) }
		return slices.Contains(row.Codes, code) && (len(row.Contains) == 0 || slices.ContainsFunc(row.Contains, hasPart))
	})
	if i < 0 {
		return errorRow{}, false
	}
	return rows[i], true
}

// RefusalRemedy returns the next step for a message with which the API server refuses a larger
// size, or an empty text if the page has none.
func RefusalRemedy(message, class string) string {
	for _, row := range loadRemedies().Refusals {
		if strings.Contains(message, row.Message) {
			return strings.ReplaceAll(plainText(row.Do), "CLASS", class)
		}
	}
	return ""
}

// containsPattern reports whether text contains the pattern, in which … stands for any text.
func containsPattern(text, pattern string) bool {
	for part := range strings.SplitSeq(pattern, "…") {
		_, rest, found := strings.Cut(text, strings.TrimSpace(part))
		if !found {
			return false
		}
		text = rest
	}
	return true
}

// codeOf returns the gRPC code that the message of a sidecar or of kubelet contains.
func codeOf(message string) string {
	match := regexp.MustCompile(`code = (\w+)`).FindStringSubmatch(message)
	if match == nil {
		return ""
	}
	return match[1]
}

// descriptionOf returns the driver's own text in a message of a sidecar or of kubelet.
func descriptionOf(message string) string {
	if i := strings.LastIndex(message, " desc = "); i >= 0 {
		message = message[i+len(" desc = "):]
	}
	return strings.TrimSpace(message)
}

// splitNextStep divides the text of a driver that names a next step, as ours do, from that step.
func splitNextStep(text string) (rest, next string) {
	const mark = "(next step: "
	i := strings.LastIndex(text, mark)
	if i < 0 {
		return text, ""
	}
	next = text[i+len(mark):]
	if end := strings.LastIndex(next, ")"); end >= 0 {
		next = next[:end]
	}
	return strings.TrimSpace(text[:i]), next
}

// plainText returns a text of the tables without Markdown.
func plainText(text string) string {
	text = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(text, "$1")
	return strings.ReplaceAll(text, "`", "")
}
