package guest_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// goTest runs go test on package selftest, whose TestMisbehave does what
// misbehavior says. With -race it allows cgo, which the race detector needs.
func goTest(t *testing.T, misbehavior string, args ...string) (output string, code int) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"test", "./selftest"}, args...)...)
	cmd.Env = append(os.Environ(), "GROWVOL_SELFTEST="+misbehavior, "TMPDIR="+dir)
	if slices.Contains(args, "-race") {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	wantNothingLeft(t, dir)
	return string(out), cmd.ProcessState.ExitCode()
}

func TestMainRunsTheTestsInAGuest(t *testing.T) {
	t.Parallel()
	out, code := goTest(t, "", "-v", "-run=TestInside|TestWorking|TestMachine|TestEnvironment", "-count=2")
	if code != 0 || strings.Count(out, "--- PASS: TestInside") != 2 {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

func TestMainFailsWithTheTests(t *testing.T) {
	t.Parallel()
	for misbehavior, want := range map[string]string{
		"fail":  "failing as asked",
		"panic": "panicking as asked",
		"exit":  "exit status 42",
		"kill":  "killed by signal 9 (killed)",
		"warn":  "WARNING: CPU: 0",
	} {
		t.Run(misbehavior, func(t *testing.T) {
			t.Parallel()
			out, code := goTest(t, misbehavior, "-run=TestMisbehave")
			if code != 1 || !strings.Contains(out, want) || !strings.Contains(out, "FAIL") {
				t.Errorf("exit code %d, want 1 and %q in:\n%s", code, want, out)
			}
		})
	}
}

func TestMainShowsGoroutinesAtTheTimeout(t *testing.T) {
	t.Parallel()
	out, code := goTest(t, "hang", "-run=TestMisbehave", "-timeout=3s")
	if code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	// The goroutines show that the testing package in the guest noticed the timeout,
	// and not Main.
	for _, want := range []string{"panic: test timed out after 3s", "selftest.TestMisbehave("} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in:\n%s", want, out)
		}
	}
}

func TestMainIsNeverCached(t *testing.T) {
	t.Parallel()
	for range 2 {
		out, code := goTest(t, "", "-run=TestInside")
		if code != 0 || strings.Contains(out, "(cached)") || strings.Contains(out, "no tests to run") {
			t.Errorf("exit code %d:\n%s", code, out)
		}
	}
}

func TestMainListsWithoutAGuest(t *testing.T) {
	t.Parallel()
	out, code := goTest(t, "", "-list=.")
	if code != 0 || !strings.Contains(out, "TestMisbehave\n") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

func TestMainWritesProfiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, code := goTest(t, "", "-run=TestInside", "-coverpkg=../...", "-coverprofile="+dir+"/cover",
		"-outputdir="+dir, "-cpuprofile=cpu", "-memprofile="+dir+"/memory", "-o="+dir+"/test")
	if code != 0 {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	for _, name := range []string{"cover", "cpu", "memory"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("got an empty or no file %s: %v", name, err)
		}
	}
	profile, err := os.ReadFile(dir + "/cover")
	if err != nil {
		t.Fatal(err)
	}
	// Only the process in the guest runs this package.
	if !bytes.Contains(profile, []byte("guest/main.go")) {
		t.Errorf("the coverage profile does not contain package guest:\n%.300s", profile)
	}
}

func TestMainRefusesToFuzz(t *testing.T) {
	t.Parallel()
	out, code := goTest(t, "", "-fuzz=FuzzNothing")
	if code != 1 || !strings.Contains(out, "fuzzing is not possible in a guest") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

func TestMainRunsRaceTestsWithoutTheDetector(t *testing.T) {
	t.Parallel()
	out, code := goTest(t, "", "-race", "-v", "-cover", "-run=TestInside")
	for _, want := range []string{"the race detector cannot work in a guest", "--- PASS: TestInside", "coverage: "} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("exit code %d, want 0 and %q in:\n%s", code, want, out)
		}
	}
}
