package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/growvol/growvol/tests/must"
)

// A wrong command line is refused with the cause, before anything connects.
func TestCommandLine(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "config")
	const content = `{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a}}],
		clusters: [{name: a, cluster: {server: "https://127.0.0.1:1"}}]}`
	must.Succeed(t, os.WriteFile(kubeconfig, []byte(content), 0o600))
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"version":            {[]string{"--version"}, exitOK, "growvol-operator "},
		"help":               {[]string{"--help"}, exitOK, "-wake-kubelet"},
		"unknown option":     {[]string{"--unknown"}, exitUsage, "unknown"},
		"argument":           {[]string{"a"}, exitUsage, `unexpected argument "a"`},
		"log format":         {[]string{"--log-format=xml"}, exitFailed, `--log-format "xml" is not known`},
		"log level":          {[]string{"--log-level=loud"}, exitFailed, `--log-level "loud" is not known`},
		"not in a pod":       {[]string{"--drivers=a"}, exitFailed, "run in a pod, or set --kubeconfig"},
		"missing kubeconfig": {[]string{"--kubeconfig=/absent"}, exitFailed, "read --kubeconfig"},
		"no driver":          {[]string{"--kubeconfig=" + kubeconfig, "--drivers= ,"}, exitFailed, "set --drivers"},
		"no size":            {[]string{"--grow-max-per-hour=x"}, exitFailed, `--grow-max-per-hour "x" is no size`},
		"no readings": {
			[]string{"--kubeconfig=" + kubeconfig, "--drivers=a", "--grow"}, exitFailed, "set --readings-driver",
		},
		"no namespace": {
			[]string{"--kubeconfig=" + kubeconfig, "--drivers=a", "--readings-driver=a"}, exitFailed, "set --readings-namespace",
		},
		"short interval": {
			[]string{"--kubeconfig=" + kubeconfig, "--drivers=a", "--readings-driver=a", "--grow", "--grow-interval=1ms"},
			exitFailed, "must be at least 1s",
		},
		"no API server": {[]string{"--kubeconfig=" + kubeconfig, "--drivers=a"}, exitFailed, "127.0.0.1:1"},
	} {
		var out bytes.Buffer
		if code := run(t.Context(), test.args, &out, &out); code != test.code || !strings.Contains(out.String(), test.want) {
			t.Errorf("%s: got exit code %d and %q, want %d and %q", name, code, out.String(), test.code, test.want)
		}
	}
}
