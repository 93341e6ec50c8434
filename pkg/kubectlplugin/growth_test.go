package kubectlplugin

import (
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claim/expansion"
)

// On a terminal the last line is a bar, which the next line replaces; elsewhere there are only
// lines.
func TestGrowthShowsABarOnATerminal(t *testing.T) {
	show := func(hasBar bool) string {
		p := newTestPlugin(fixedStats{})
		c, ok := claimOf("data", "2Gi", "1Gi")[0].(*corev1.PersistentVolumeClaim)
		if !ok {
			t.Fatal("got no claim")
		}
		g := newGrowthPrinter(&expandRun{plugin: p.plugin}, growth{c, resource.MustParse("2Gi")})
		g.hasBar = hasBar
		for _, stage := range []expansion.Stage{
			expansion.StageRequested, expansion.StageVolumeGrown, expansion.StageVolumeGrown, expansion.StageGrown,
		} {
			g.report(expansion.Progress{Stage: stage, Status: claim.Status{Step: "STEP"}})
		}
		g.grown()
		return p.out.String()
	}
	const want = "     0.0 s  data: requested\n" +
		"     0.0 s  data: the volume has grown\n" +
		"     0.0 s  data: grown\n" +
		"data has grown from 1 GiB to 2 GiB in 0.0 s\n"
	if got := show(false); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	got := show(true)
	if !strings.Contains(got, "[##########----------] STEP") {
		t.Errorf("the output has no bar of two stages of four: %q", got)
	}
	// What remains on the terminal is the same: each bar is erased.
	var remains strings.Builder
	for line := range strings.Lines(got) {
		parts := strings.Split(line, "\r\x1b[K")
		remains.WriteString(parts[len(parts)-1])
	}
	if remains.String() != want {
		t.Errorf("got on the terminal\n%s\nwant\n%s", remains.String(), want)
	}
}

func TestColorsOnATerminalOnly(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("this machine has no pseudo terminals: %v", err)
	}
	defer func() { _ = terminal.Close() }()
	p := newTestPlugin(fixedStats{})
	variables := map[string]string{}
	p.getenv = func(name string) string { return variables[name] }
	if p.hasColor() {
		t.Error("got colors for a buffer")
	}
	p.Out = terminal
	if !p.hasColor() {
		t.Error("got no colors for a terminal")
	}
	for name, value := range map[string]string{"NO_COLOR": "1", "TERM": "dumb"} {
		variables[name] = value
		if p.hasColor() {
			t.Errorf("got colors with %s=%s", name, value)
		}
		delete(variables, name)
	}
}
