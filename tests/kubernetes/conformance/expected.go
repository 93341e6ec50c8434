package conformance

import (
	"bytes"
	_ "embed"
	"fmt"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Rule matches specs, by their names or by their messages, and gives the
// reason for what they do.
type Rule struct {
	Match    Pattern  `yaml:"match"`
	Backends []string `yaml:"backends"` // none: all
	Reason   string   `yaml:"reason"`
}

// Pattern is a regular expression.
type Pattern struct{ *regexp.Regexp }

// UnmarshalYAML implements yaml.Unmarshaler.
func (p *Pattern) UnmarshalYAML(node *yaml.Node) (err error) {
	p.Regexp, err = regexp.Compile(node.Value)
	return err
}

// Expected is what a run may do other than pass.
type Expected struct {
	// Excluded are specs that are not run, by name.
	Excluded []Rule `yaml:"excluded"`
	// Failures are known failures, by name.
	Failures []Rule `yaml:"failures"`
	// Skips are why specs skip themselves, by message.
	Skips []Rule `yaml:"skips"`
}

//go:embed expected.yaml
var expectedList []byte

// ExpectedOf returns what the project expects of a backend.
func ExpectedOf(backend string) (Expected, error) { return ParseExpected(expectedList, backend) }

// ParseExpected reads the list and returns the rules for one backend.
func ParseExpected(text []byte, backend string) (Expected, error) {
	var e Expected
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&e); err != nil {
		return Expected{}, fmt.Errorf("read what is expected: %w", err)
	}
	for _, rules := range []*[]Rule{&e.Excluded, &e.Failures, &e.Skips} {
		for _, r := range *rules {
			if r.Match.Regexp == nil || r.Reason == "" {
				return Expected{}, fmt.Errorf("read what is expected: a rule has no match or no reason: %+v", r)
			}
		}
		*rules = slices.DeleteFunc(*rules, func(r Rule) bool { return len(r.Backends) > 0 && !slices.Contains(r.Backends, backend) })
	}
	return e, nil
}

// find returns the index of the first rule that matches the text, or -1.
func find(rules []Rule, text string) int {
	return slices.IndexFunc(rules, func(r Rule) bool { return r.Match.MatchString(text) })
}
