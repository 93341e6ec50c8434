package kubectlplugin

import (
	"fmt"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claim/expansion"
	"github.com/growvol/growvol/pkg/volume"
)

// barWidth is the number of characters of the progress bar.
const barWidth = 20

// growthPrinter prints the stages of a growth: a line for each, and on a terminal a last line that
// moves.
type growthPrinter struct {
	run      *expandRun
	growth   growth
	start    time.Time
	hasBar   bool
	isDrawn  bool // the last line is the bar
	stage    expansion.Stage
	message  string
	isUnread bool
}

func newGrowthPrinter(r *expandRun, g growth) *growthPrinter {
	return &growthPrinter{
		run: r, growth: g, start: r.now(), stage: -1, hasBar: r.isTerminal(r.Out) && !r.options.parallel,
	}
}

// report prints what has changed since the last report.
func (g *growthPrinter) report(p expansion.Progress) {
	if isUnread := p.Err != nil; isUnread {
		if !g.isUnread {
			g.line("cannot read the claim: " + p.Err.Error() + "; the growth continues")
		}
		g.isUnread = true
		return
	}
	g.isUnread = false
	if p.Stage > g.stage {
		g.stage = p.Stage
		g.line(p.Stage.String())
	}
	if message := p.Status.Diagnosis.Message; message != g.message && p.Stage != expansion.StageGrown {
		if g.message = message; message != "" {
			g.line(p.Status.Diagnosis.Problem)
		}
	}
	if g.hasBar && p.Stage != expansion.StageGrown {
		g.drawBar(p)
	}
}

// elapsed returns the time since the request in seconds.
func (g *growthPrinter) elapsed() string {
	return fmt.Sprintf("%.1f s", g.run.now().Sub(g.start).Seconds())
}

// line prints a line with the time, in place of the bar.
func (g *growthPrinter) line(text string) {
	g.clearBar()
	g.run.printf("  %8s  %s: %s\n", g.elapsed(), g.growth.claim.Name, text)
}

func (g *growthPrinter) clearBar() {
	if g.isDrawn {
		g.run.printf("\r\x1b[K")
		g.isDrawn = false
	}
}

// drawBar draws the share of the stages that are passed.
func (g *growthPrinter) drawBar(p expansion.Progress) {
	done := barWidth * int(p.Stage) / int(expansion.StageGrown)
	g.run.printf("\r\x1b[K  %8s  [%s%s] %s", g.elapsed(),
		strings.Repeat("#", done), strings.Repeat("-", barWidth-done), p.Status.Step)
	g.isDrawn = true
}

func (g *growthPrinter) grown() {
	g.clearBar()
	before, target := claim.Capacity(g.growth.claim), volume.Size(g.growth.target.Value())
	if before >= target {
		g.run.printf("%s already has %s\n", g.growth.claim.Name, before)
		return
	}
	g.run.printf("%s has grown from %s to %s in %s\n", g.growth.claim.Name, before, target, g.elapsed())
}

func (g *growthPrinter) refused(reason string) {
	g.clearBar()
	g.run.errorf("%s: refused: %s\n", g.growth.claim.Name, reason)
}

func (g *growthPrinter) underWay(s *claim.Status) {
	g.clearBar()
	g.run.errorf("%s: still under way after %s: %s\n", g.growth.claim.Name, g.elapsed(),
		s.Diagnosis.Sentence(g.run.now()))
	g.hint()
}

func (g *growthPrinter) notWatched() {
	g.run.printf("%s: requested\n", g.growth.claim.Name)
	g.hint()
}

func (g *growthPrinter) interrupted() {
	g.clearBar()
	g.run.errorf("%s: no longer watched; the growth continues\n", g.growth.claim.Name)
	g.hint()
}

func (g *growthPrinter) unwatchable(err error) {
	g.clearBar()
	g.run.errorf("%s: requested, but it cannot be followed: %v\n", g.growth.claim.Name, err)
}

// hint prints how to see the growth later.
func (g *growthPrinter) hint() {
	g.run.errorf("to see it: kubectl growvol status %s --namespace %s\n",
		g.growth.claim.Name, g.growth.claim.Namespace)
}
