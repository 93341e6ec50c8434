package deploy_test

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// group is a group of rules in a rule file of Prometheus.
type group struct {
	Name  string  `yaml:"name"`
	Rules []alert `yaml:"rules"`
}

// alert is a rule that alerts.
type alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// findAlerts returns the groups of the PrometheusRule with this name.
func findAlerts(t *testing.T, objects []object, name string) []group {
	t.Helper()
	rule, found := findObject(objects, "PrometheusRule", name)
	if !found {
		t.Fatalf("the objects have no PrometheusRule %s", name)
	}
	var groups []group
	if err := rule.Spec.Groups.Decode(&groups); err != nil {
		t.Fatal(err)
	}
	return groups
}

// installedAlerts returns the alerts of the installation that the documentation describes.
func installedAlerts(t *testing.T) []group {
	t.Helper()
	const values = `{cinder: {existingSecret: clouds}, metrics: {prometheusRule: {enabled: true}}}`
	out, err := newHelm(t).template(t, values, "--namespace=growvol")
	if err != nil {
		t.Fatal(errorOutput(err))
	}
	return findAlerts(t, parseObjects(t, out), "growvol")
}

// condition is when an alert fires.
type condition struct{ expr, duration string }

// conditions returns the condition of each alert.
func conditions(groups []group) map[string]condition {
	all := map[string]condition{}
	for _, g := range groups {
		for _, a := range g.Rules {
			all[a.Alert] = condition{a.Expr, a.For}
		}
	}
	return all
}

// TestAlertsInTheDocumentation checks that the guide, the chart and the rule file have the same
// alerts, each with the same expression and duration.
func TestAlertsInTheDocumentation(t *testing.T) {
	guide := readText(t, "docs/how-to/monitor.md")
	section := sectionOf(guide, "Worth an alert")
	// A cell of the table ends at a bar without a backslash.
	row := regexp.MustCompile("(?m)^\\| `(\\w+)` \\| `((?:[^|`]|\\\\\\|)+)` \\| (\\w*) \\| [^|]+ \\|$")
	shown := map[string]condition{}
	for _, m := range row.FindAllStringSubmatch(section, -1) {
		shown[m[1]] = condition{strings.ReplaceAll(m[2], `\|`, "|"), m[3]}
	}
	if rows := strings.Count(section, "\n| `"); rows != len(shown) || rows < 7 {
		t.Errorf("the guide has %d rows with %d alerts, want one alert in each of at least 7 rows", rows, len(shown))
	}
	installed := conditions(installedAlerts(t))
	if !maps.Equal(shown, installed) {
		t.Errorf("the guide has\n%v\nbut the chart has\n%v", shown, installed)
	}
	var file struct{ Groups []group }
	if err := yaml.Unmarshal(readFile(t, alertsFile), &file); err != nil {
		t.Fatal(err)
	}
	if inFile := conditions(file.Groups); !maps.Equal(inFile, installed) {
		t.Errorf("the rule file has\n%v\nbut the chart has\n%v", inFile, installed)
	}
}

// alertsFile is the rule file, for installations without the operator of Prometheus.
const alertsFile = "deploy/charts/growvol/alerts/growvol.yaml"

// checkAlertsOfRelease checks that a release with another name watches its own controller, and that
// the labels in the values are where Prometheus and Alertmanager read them.
func checkAlertsOfRelease(t *testing.T, objects []object) {
	t.Helper()
	rule, _ := findObject(objects, "PrometheusRule", "storage")
	if rule.Metadata.Labels["release"] != "prometheus" || rule.Metadata.Namespace != "storage" {
		t.Errorf("the PrometheusRule has the metadata %+v", rule.Metadata)
	}
	watched := 0
	for _, g := range findAlerts(t, objects, "storage") {
		for _, a := range g.Rules {
			if a.Labels["team"] != "storage" || a.Labels["severity"] == "" {
				t.Errorf("%s has the labels %v, want team=storage and a severity", a.Alert, a.Labels)
			}
			if strings.Contains(a.Expr, `{namespace="storage",deployment="storage-controller"}`) {
				watched++
			}
		}
	}
	if watched != 1 {
		t.Errorf("%d alerts watch the controller of the release, want 1", watched)
	}
}

// promtool runs the tool of Prometheus in a directory.
func promtool(t *testing.T, dir string, args ...string) {
	t.Helper()
	program, err := exec.LookPath("promtool")
	if err != nil {
		t.Skipf("no promtool: %v (next step: make setup)", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // a program of the machine
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// alertCases is the file with the cases of TestAlerts, in the format of promtool.
const alertCases = "tests/deploy/testdata/alerts.yaml"

// TestAlertsFireOnlyWhenTheyShould checks that Prometheus accepts the rules, and that each alert
// fires in at least one case and is silent in another.
func TestAlertsFireOnlyWhenTheyShould(t *testing.T) {
	groups, dir := installedAlerts(t), t.TempDir()
	write := func(name string, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	writeRules := func() {
		text, err := yaml.Marshal(map[string]any{"groups": groups})
		if err != nil {
			t.Fatal(err)
		}
		write("rules.yaml", text)
	}
	writeRules()
	promtool(t, dir, "check", "rules", "rules.yaml")

	firing, silent := alertsWithCases(t)
	for _, g := range groups {
		for _, a := range g.Rules {
			if !slices.Contains(firing, a.Alert) || !slices.Contains(silent, a.Alert) {
				t.Errorf("%s needs a case in which it fires and one in which it is silent", a.Alert)
			}
			if s := a.Labels["severity"]; s != "warning" && s != "critical" {
				t.Errorf("%s has the severity %q, want warning or critical", a.Alert, s)
			}
			if d := a.Annotations["description"]; d == "" || strings.Contains(d, "{{") {
				t.Errorf("%s: got the description %q, want text without labels (they belong into the summary)", a.Alert, d)
			}
			delete(a.Annotations, "description") // then the cases need not repeat it
		}
	}
	writeRules()
	write("alerts.yaml", readFile(t, alertCases))
	promtool(t, dir, "test", "rules", "alerts.yaml")
}

// alertsWithCases returns the alerts with a case in which they fire, and those with a case in which
// they are silent.
func alertsWithCases(t *testing.T) (firing, silent []string) {
	t.Helper()
	var cases struct {
		Tests []struct {
			Cases []struct {
				Alert  string `yaml:"alertname"`
				Firing []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		} `yaml:"tests"`
	}
	if err := yaml.Unmarshal(readFile(t, alertCases), &cases); err != nil {
		t.Fatal(err)
	}
	for _, test := range cases.Tests {
		for _, c := range test.Cases {
			if len(c.Firing) > 0 {
				firing = append(firing, c.Alert)
			} else {
				silent = append(silent, c.Alert)
			}
		}
	}
	return firing, silent
}
