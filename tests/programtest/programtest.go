// Package programtest runs the program of a CSI plugin inside a test: with command
// lines that it must answer or refuse, and as a server with a client for it. It serves
// the tests of both plugins.
package programtest

import (
	"bytes"
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/growvol/growvol/pkg/csiserver"
)

// CommandLine is a command line and what the program must do with it.
type CommandLine struct {
	Args           []string
	ExitCode       int
	Stdout, Stderr string // parts of the output
}

// commonLines returns the command lines that every plugin answers or refuses.
func commonLines(program string) map[string]CommandLine {
	return map[string]CommandLine{
		"version":           {[]string{"--version"}, csiserver.ExitOK, program + " ", ""},
		"unknown option":    {[]string{"--unknown"}, csiserver.ExitUsage, "", "-unknown"},
		"argument":          {[]string{"word"}, csiserver.ExitUsage, "", `unexpected argument "word"`},
		"unknown backend":   {[]string{"--backend=tape"}, csiserver.ExitFailed, "", `--backend "tape" is not known`},
		"bad log level":     {[]string{"--log-level=loud"}, csiserver.ExitFailed, "", "loud"},
		"bad log format":    {[]string{"--log-format=xml"}, csiserver.ExitFailed, "", "xml"},
		"bad driver name":   {[]string{"--driver-name=a_b"}, csiserver.ExitFailed, "", "a_b"},
		"bad endpoint":      {[]string{"--endpoint=csi.sock"}, csiserver.ExitFailed, "", "csi.sock"},
		"bad HTTP endpoint": {[]string{"--http-endpoint=256.0.0.1:x"}, csiserver.ExitFailed, "", "256.0.0.1"},
	}
}

// CheckCommandLines runs a new program for each command line: for those that all plugins
// share, and for lines, which may replace shared ones of the same name. Each of dirFlags
// gets a directory of the test; the arguments of the line follow.
func CheckCommandLines(
	t *testing.T, newProgram func() csiserver.Program, dirFlags []string, lines map[string]CommandLine,
) {
	t.Helper()
	all := commonLines(newProgram().Name)
	maps.Copy(all, lines)
	for name, line := range all {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			args := []string{"--endpoint=unix://" + filepath.Join(dir, "s")}
			for _, flag := range dirFlags {
				args = append(args, flag+"="+dir)
			}
			var stdout, stderr bytes.Buffer
			if code := newProgram().Run(t.Context(), append(args, line.Args...), &stdout, &stderr); code != line.ExitCode {
				t.Errorf("exit code: got %d, want %d", code, line.ExitCode)
			}
			if !strings.Contains(stdout.String(), line.Stdout) || !strings.Contains(stderr.String(), line.Stderr) {
				t.Errorf("got stdout %q, stderr %q; want %q and %q in them", &stdout, &stderr, line.Stdout, line.Stderr)
			}
		})
	}
}

// CheckDependencies fails the test if the program in the current directory links, directly
// or not, a package whose import path matches forbidden. It says which package imports it.
func CheckDependencies(t *testing.T, forbidden string) {
	t.Helper()
	format := `{{.ImportPath}} {{join .Imports " "}}`
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", format, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) < 100 {
		t.Errorf("got %d dependencies, want at least 100: %s", len(lines), out)
	}
	pattern := regexp.MustCompile(forbidden)
	for _, line := range lines {
		importer, imports, _ := strings.Cut(line, " ")
		for imported := range strings.FieldsSeq(imports) {
			if pattern.MatchString(imported) {
				t.Errorf("%s imports %s, which this program must not link", importer, imported)
			}
		}
	}
}

// SocketDir returns a new directory whose path is short enough for a socket in it
// (unix(7): 107 bytes). The directory is removed when the test ends.
func SocketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "growvol") //nolint:usetesting // the path of t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Start runs the program in the background and returns a connection to endpoint, on which
// the arguments must make it serve. stop ends the program and fails the test unless it
// exits with ExitOK within a minute.
func Start(
	t *testing.T, program csiserver.Program, endpoint string, args ...string,
) (conn *grpc.ClientConn, stop func()) {
	t.Helper()
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	var stdout, stderr bytes.Buffer
	go func() { done <- program.Run(ctx, args, &stdout, &stderr) }()
	return conn, func() {
		cancel()
		select {
		case code := <-done:
			if code != csiserver.ExitOK {
				t.Errorf("exit code: got %d, want %d\n%s", code, csiserver.ExitOK, &stderr)
			}
		case <-time.After(time.Minute):
			t.Error("the program still runs a minute after the end of its context")
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}
