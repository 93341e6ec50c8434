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

// group and alert are what Prometheus calls so in a rule file.
type group struct {
	Name  string  `yaml:"name"`
	Rules []alert `yaml:"rules"`
}

type alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// alertsOf returns the groups of the PrometheusRule among the objects.
func alertsOf(t *testing.T, objects []object, name string) []group {
	t.Helper()
	rule, found := find(objects, "PrometheusRule", name)
	if !found {
		t.Fatalf("there is no PrometheusRule %s", name)
	}
	var groups []group
	if err := rule.Spec.Groups.Decode(&groups); err != nil {
		t.Fatal(err)
	}
	return groups
}

// installedAlerts are those of the installation that the documentation describes.
func installedAlerts(t *testing.T) []group {
	t.Helper()
	out, err := newHelm(t).run(t, `{cinder: {existingSecret: clouds}, metrics: {prometheusRule: {enabled: true}}}`,
		"template", "growvol", "deploy/charts/growvol", "--namespace=growvol", kubeVersion, "--values=-")
	if err != nil {
		t.Fatal(stderrOf(err))
	}
	return alertsOf(t, parse(t, out), "growvol")
}

// condition is what the guide says of an alert, and Prometheus goes by.
type condition struct{ expr, wait string }

func conditions(groups []group) map[string]condition {
	all := map[string]condition{}
	for _, g := range groups {
		for _, a := range g.Rules {
			all[a.Alert] = condition{a.Expr, a.For}
		}
	}
	return all
}

// The guide's alerts are the chart's, with the same expression and time, and the other
// way round; those of the rule file are both.
func TestAlertsInTheDocumentation(t *testing.T) {
	guide := string(content(t, filepath.Join(root(t), "docs/how-to/monitor.md")))
	_, section, _ := strings.Cut(guide, "\n## Worth an alert\n")
	section, _, _ = strings.Cut(section, "\n## ")
	// A cell ends at a bar without a backslash.
	row := regexp.MustCompile("(?m)^\\| `(\\w+)` \\| `((?:[^|`]|\\\\\\|)+)` \\| (\\w*) \\| [^|]+ \\|$")
	shown := map[string]condition{}
	for _, m := range row.FindAllStringSubmatch(section, -1) {
		shown[m[1]] = condition{strings.ReplaceAll(m[2], `\|`, "|"), m[3]}
	}
	if rows := strings.Count(section, "\n| `"); rows != len(shown) || rows < 7 {
		t.Errorf("the guide has %d rows, of which %d are alerts", rows, len(shown))
	}
	installed := conditions(installedAlerts(t))
	if !maps.Equal(shown, installed) {
		t.Errorf("the guide has\n%v\nthe chart has\n%v", shown, installed)
	}
	var file struct{ Groups []group }
	if err := yaml.Unmarshal(content(t, filepath.Join(root(t), alertsFile)), &file); err != nil {
		t.Fatal(err)
	}
	if inFile := conditions(file.Groups); !maps.Equal(inFile, installed) {
		t.Errorf("the rule file has\n%v\nthe chart has\n%v", inFile, installed)
	}
}

const alertsFile = "deploy/charts/growvol/alerts/growvol.yaml"

// checkAlertsOfRelease: a release of another name watches its own controller, and the
// operator's labels are where Prometheus and Alertmanager look.
func checkAlertsOfRelease(t *testing.T, objects []object) {
	t.Helper()
	rule, _ := find(objects, "PrometheusRule", "storage")
	if rule.Metadata.Labels["release"] != "prometheus" || rule.Metadata.Namespace != "storage" {
		t.Errorf("the PrometheusRule is %+v", rule.Metadata)
	}
	watched := 0
	for _, g := range alertsOf(t, objects, "storage") {
		for _, a := range g.Rules {
			if a.Labels["team"] != "storage" || a.Labels["severity"] == "" {
				t.Errorf("%s has the labels %v", a.Alert, a.Labels)
			}
			if strings.Contains(a.Expr, `{namespace="storage",deployment="storage-controller"}`) {
				watched++
			}
		}
	}
	if watched != 1 {
		t.Errorf("%d alerts watch the release's controller, want 1", watched)
	}
}

// promtool runs Prometheus' tool in a directory.
func promtool(t *testing.T, dir string, args ...string) {
	t.Helper()
	program, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("needs promtool, which `make setup` installs: ", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // of Debian
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

const alertCases = "tests/deploy/testdata/alerts.yaml"

// Prometheus takes the rules, and each alert fires when it should and is silent when
// it should be: the file of cases has at least one of either kind for each.
func TestAlerts(t *testing.T) {
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
				t.Errorf("%s lacks a case in which it fires, or one in which it is silent", a.Alert)
			}
			if s := a.Labels["severity"]; s != "warning" && s != "critical" {
				t.Errorf("%s has the severity %q", a.Alert, s)
			}
			if d := a.Annotations["description"]; d == "" || strings.Contains(d, "{{") {
				t.Errorf("%s: the description is %q, want text without labels, which the summary has", a.Alert, d)
			}
			delete(a.Annotations, "description") // so that no case needs to repeat it
		}
	}
	writeRules()
	write("alerts.yaml", content(t, filepath.Join(root(t), alertCases)))
	promtool(t, dir, "test", "rules", "alerts.yaml")
}

// alertsWithCases returns the alerts for which there is a case of firing, and one of
// silence.
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
	if err := yaml.Unmarshal(content(t, filepath.Join(root(t), alertCases)), &cases); err != nil {
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
