package csiserver

import (
	"flag"
	"testing"
	"time"
)

func TestFlagDefaultsAndOverrides(t *testing.T) {
	defaults := func(endpoint string) Flags {
		return Flags{
			Endpoint: endpoint, logFormat: "text", logLevel: "info", CallTimeout: defaultCallTimeout, Grace: DefaultGrace,
		}
	}
	for name, test := range map[string]struct {
		env  string
		args []string
		want Flags
	}{
		"defaults":    {"", nil, defaults("unix:///d")},
		"environment": {"unix:///e", nil, defaults("unix:///e")},
		"command line": {
			"unix:///e",
			[]string{
				"--endpoint", "unix:///c", "--http-endpoint=:1", "--log-format=json", "--log-level=debug", "--driver-name=x",
				"--call-timeout=1s", "--grace=2s", "--version",
			},
			Flags{
				Endpoint: "unix:///c", HTTPEndpoint: ":1", logFormat: "json", logLevel: "debug", DriverName: "x",
				CallTimeout: time.Second, Grace: 2 * time.Second, showVersion: true,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("CSI_ENDPOINT", test.env)
			got := Flags{Endpoint: "unix:///d"}
			fs := flag.NewFlagSet("x", flag.ContinueOnError)
			got.register(fs)
			if err := fs.Parse(test.args); err != nil {
				t.Fatal(err)
			}
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			if o := got.Options(); o.Endpoint != got.Endpoint || o.HTTPEndpoint != got.HTTPEndpoint ||
				o.CallTimeout != got.CallTimeout || o.Grace != got.Grace {
				t.Errorf("got options %+v, want those of %+v", o, got)
			}
		})
	}
}
