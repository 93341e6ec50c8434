package claim

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables of remedies.yaml into the page")

// pagePath is the page with the tables.
var pagePath = filepath.Join("..", "..", "docs", "how-to", "resize-is-stuck.md")

// The tables of the page "My resize is stuck" are those of remedies.yaml.
func TestPageHasTheTables(t *testing.T) {
	content, err := os.ReadFile(pagePath)
	if err != nil {
		t.Fatal(err)
	}
	page := string(content)
	r := loadRemedies()
	for heading, want := range map[string]string{
		"## Read the step":        stepTable(r.Steps),
		"## The patch is refused": refusalTable(r.Refusals),
		"## A pod does not start": aroundTable(r.Around),
		"## The storage system":   errorTable(r.Storage),
		"## The node":             errorTable(r.Node),
	} {
		got := tableBelow(page, heading)
		switch {
		case got == "":
			t.Errorf("%s has no table below %q", pagePath, heading)
		case *update:
			page = strings.Replace(page, got, want, 1)
		case got != want:
			t.Errorf(
				"%s: the table below %q is not that of remedies.yaml (write it: go test ./pkg/claim -run Page -update):\n%s",
				pagePath,
				heading,
				firstDifference(got, want),
			)
		}
	}
	if *update {
		if err := os.WriteFile(pagePath, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if words := strings.Join(strings.Fields(page), " "); !strings.Contains(words, r.Remount) {
		t.Errorf("%s does not explain to remount as remedies.yaml does: %s", pagePath, r.Remount)
	}
}

// tableBelow returns the first table below the heading.
func tableBelow(page, heading string) string {
	_, below, _ := strings.Cut(page, "\n"+heading+"\n")
	return regexp.MustCompile(`(?m)(^\|.*\n)+`).FindString(below)
}

func stepTable(rows []stepRow) string {
	var b strings.Builder
	b.WriteString("| step | conditions | meaning | what to do |\n|---|---|---|---|\n")
	for _, row := range rows {
		step, condition := "`"+row.Step+"`", "`"+row.Condition+"`"
		if row.ShownStep != "" {
			step = row.ShownStep
		}
		if row.ShownCondition != "" {
			condition = row.ShownCondition
		}
		switch row.Pods {
		case "some":
			condition += ", and a pod uses the claim"
		case "none":
			condition += ", and no pod uses the claim"
		}
		if row.Volume == "grown" {
			condition += ", and the PersistentVolume has the requested size"
		}
		b.WriteString("| " + strings.Join([]string{step, condition, row.Meaning, row.Do}, " | ") + " |\n")
	}
	return b.String()
}

func refusalTable(rows []refusalRow) string {
	var b strings.Builder
	b.WriteString("| message of the API server | what to do |\n|---|---|\n")
	for _, row := range rows {
		b.WriteString("| `" + row.Message + "` | " + row.Do + " |\n")
	}
	return b.String()
}

func aroundTable(rows []aroundRow) string {
	var b strings.Builder
	b.WriteString("| seen in | meaning | what to do |\n|---|---|---|\n")
	for _, row := range rows {
		meaning := strings.NewReplacer("NODE", "the node", "DRIVER", "of the claim", "StorageClass CLASS", "StorageClass")
		b.WriteString("| " + strings.Join([]string{row.Shown, meaning.Replace(row.Meaning), row.Do}, " | ") + " |\n")
	}
	return b.String()
}

func errorTable(rows []errorRow) string {
	var b strings.Builder
	b.WriteString("| code | the message contains | cause | what to do |\n|---|---|---|---|\n")
	for _, row := range rows {
		message := "`" + strings.Join(row.Contains, "`, `") + "`"
		if row.Message != "" {
			message = row.Message
		}
		codes := "`" + strings.Join(row.Codes, "`, `") + "`"
		b.WriteString("| " + strings.Join([]string{codes, message, row.Cause, row.Do}, " | ") + " |\n")
	}
	return b.String()
}

func firstDifference(got, want string) string {
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i, line := range gotLines {
		if i >= len(wantLines) || line != wantLines[i] {
			return "got  " + line + "\nwant " + strings.Join(wantLines[min(i, len(wantLines)):min(i+1, len(wantLines))], "")
		}
	}
	return "the table ends too early"
}

// Each row of the tables is complete, and its steps exist in Kubernetes' API.
func TestRemediesAreComplete(t *testing.T) {
	r := loadRemedies()
	for _, row := range r.Steps {
		if row.Key == "" || row.Meaning == "" || row.Do == "" || row.Next == "" || row.Severity.Rank() < 0 {
			t.Errorf("step %q: a field is missing: %+v", row.Step, row)
		}
	}
	for name, rows := range map[string][]errorRow{"storage": r.Storage, "node": r.Node} {
		for _, row := range rows {
			if len(row.Codes) == 0 || row.Cause == "" || row.Do == "" || len(row.Contains) == 0 && row.Message == "" {
				t.Errorf("table %s: a field is missing: %+v", name, row)
			}
			// A row must be found by its own texts, not hidden by a row above it.
			for _, code := range row.Codes {
				for _, part := range row.Contains {
					found, ok := r.findError(name, "rpc error: code = "+code+" desc = x "+part+" y")
					if !ok || found.Cause != row.Cause {
						t.Errorf("table %s: %s with %q finds the row %q, want %q", name, code, part, found.Cause, row.Cause)
					}
				}
			}
		}
	}
}
