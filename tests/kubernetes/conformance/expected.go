package conformance

import (
	"bytes"
	_ "embed"
	"fmt"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Rule matches specs by their names or their messages, and gives the reason for their
// state.
type Rule struct {
	Match    Pattern  `yaml:"match"`
	Backends []string `yaml:"backends"` // empty means all
	Reason   string   `yaml:"reason"`
}

// Pattern is a regular expression that is read from YAML.
type Pattern struct{ *regexp.Regexp }

// UnmarshalYAML implements yaml.Unmarshaler.
func (p *Pattern) UnmarshalYAML(node *yaml.Node) (err error) {
	p.Regexp, err = regexp.Compile(node.Value)
	return err
}

// Expected is the list of expected results other than a pass.
type Expected struct {
	// Excluded match the names of specs that are not run.
	Excluded []Rule `yaml:"excluded"`
	// Failures match the names of specs that are known to fail.
	Failures []Rule `yaml:"failures"`
	// Skips match the messages of specs that skip themselves.
	Skips []Rule `yaml:"skips"`
}

// expectedList is the project's list.
//
//go:embed expected.yaml
var expectedList []byte

// ExpectedOf returns the project's list for a backend.
func ExpectedOf(backend string) (Expected, error) { return ParseExpected(expectedList, backend) }

// ParseExpected parses a list and returns the rules for one backend. It fails for an
// unknown field, and for a rule without a match or a reason.
func ParseExpected(text []byte, backend string) (Expected, error) {
	var e Expected
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&e); err != nil {
		return Expected{}, fmt.Errorf("parse the expected results: %w", err)
	}
	for _, rules := range []*[]Rule{&e.Excluded, &e.Failures, &e.Skips} {
		for _, r := range *rules {
			if r.Match.Regexp == nil || r.Reason == "" {
				return Expected{}, fmt.Errorf("parse the expected results: a rule has no match or no reason: %+v", r)
			}
		}
		*rules = slices.DeleteFunc(*rules, func(r Rule) bool {
			return len(r.Backends) > 0 && !slices.Contains(r.Backends, backend)
		})
	}
	return e, nil
}

// findRule returns the index of the first rule that matches the text, or -1.
func findRule(rules []Rule, text string) int {
	return slices.IndexFunc(rules, func(r Rule) bool { return r.Match.MatchString(text) })
}
