package main

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/filesystem"
)

// probe returns what the plugin with these options answers to a Probe.
func probe(t *testing.T, args ...string) error {
	t.Helper()
	conn, stop := startProgram(t, args)
	defer stop()
	_, err := csi.NewIdentityClient(conn).Probe(t.Context(), &csi.ProbeRequest{}, grpc.WaitForReady(true))
	return err
}

func wantUnhealthy(t *testing.T, err error, words ...string) {
	t.Helper()
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("got %v, want FAILED_PRECONDITION", err)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the answer lacks %q: %v", w, err)
		}
	}
}

func TestProbeNeedsTheCapabilityToGrowExt(t *testing.T) {
	err := probe(t, "--require-sys-resource=true", "--require-shared-mounts=false")
	if filesystem.New(filesystem.Options{}).CheckGrowExt() == nil {
		if err != nil {
			t.Errorf("with the capability: %v", err)
		}
	} else {
		wantUnhealthy(
			t, err, "CAP_SYS_RESOURCE", "next step: run the node plugin privileged", "--require-sys-resource=false",
		)
	}
	if err := probe(t, "--require-sys-resource=false", "--require-shared-mounts=false"); err != nil {
		t.Errorf("where it is not required: %v", err)
	}
}

func TestProbeNeedsSharedMounts(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	for _, c := range []struct {
		name        string
		propagation uintptr
		required    string
		healthy     bool
	}{
		{"private", unix.MS_PRIVATE, "true", false},
		{"private, not required", unix.MS_PRIVATE, "false", true},
		{"shared", unix.MS_SHARED, "true", true},
	} {
		if err := unix.Mount("", dir, "", c.propagation, ""); err != nil {
			t.Fatal(err)
		}
		err := probe(t, "--require-sys-resource=false", "--require-shared-mounts="+c.required, "--kubelet-dir="+dir)
		switch {
		case c.healthy && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case !c.healthy:
			wantUnhealthy(t, err, dir, "next step: ", "mountPropagation: Bidirectional")
		}
	}
}

func TestProbeNeedsTheStateDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	common := []string{"--require-sys-resource=false", "--require-shared-mounts=false"}
	wantUnhealthy(
		t, probe(t, append(common, "--state-dir="+filepath.Join(file, "state"))...), "state directory", "--state-dir",
	)
	wantUnhealthy(
		t, probe(t, append(common, "--loop-dir="+filepath.Join(file, "loop"))...), "directory of the volumes", "next step",
	)
	if err := probe(t, append(common, "--state-dir="+filepath.Join(t.TempDir(), "is", "made", "later"))...); err != nil {
		t.Errorf("a state directory that is made later: %v", err)
	}
}

// fakeFilesystems is a node with or without what the plugin needs.
type fakeFilesystems struct {
	growExt error
	shared  bool
	asked   string
}

func (f *fakeFilesystems) CheckGrowExt() error { return f.growExt }

func (f *fakeFilesystems) Propagates(path string) (bool, error) {
	f.asked = path
	return f.shared, nil
}

// The plugin logs and counts what is missing at its start, before the first Probe.
func TestStartLogsWhatIsMissing(t *testing.T) {
	missing := errors.New("this process lacks it")
	for _, c := range []struct {
		name             string
		shared, resource bool // whether they are required
		fs               fakeFilesystems
		log              []string // one line with them; nil: none
		met              map[string]float64
	}{
		{
			"all there", true, true,
			fakeFilesystems{shared: true},
			nil,
			map[string]float64{"shared_mounts": 1, "cap_sys_resource": 1, "state_dir": 1},
		},
		{
			"no capability", true, true,
			fakeFilesystems{shared: true, growExt: missing},
			[]string{"level=ERROR", "cap_sys_resource", "lacks it"},
			map[string]float64{"shared_mounts": 1, "cap_sys_resource": 0, "state_dir": 1},
		},
		{
			"no capability, not required", true, false,
			fakeFilesystems{shared: true, growExt: missing},
			[]string{"level=WARN", "mounted ext2, ext3 and ext4", "lacks it"},
			map[string]float64{"shared_mounts": 1, "state_dir": 1},
		},
		{
			"no shared mounts", true, true,
			fakeFilesystems{},
			[]string{"level=ERROR", "shared_mounts", "/var/lib/kubelet", "Bidirectional"},
			map[string]float64{"shared_mounts": 0, "cap_sys_resource": 1, "state_dir": 1},
		},
		{
			"no shared mounts, not required", false, true,
			fakeFilesystems{},
			nil,
			map[string]float64{"cap_sys_resource": 1, "state_dir": 1},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			reg := prometheus.NewRegistry()
			options := config{
				stateDir: t.TempDir(), kubeletDir: "/var/lib/kubelet", requireShared: c.shared, requireSysRes: c.resource,
			}
			logger := slog.New(slog.NewTextHandler(&log, nil))
			newRequirementChecker(t.Context(), options, &c.fs, nil, reg, logger)
			if lines := strings.Count(log.String(), "\n"); lines != min(1, len(c.log)) {
				t.Errorf("%d lines in the log:\n%s", lines, &log)
			}
			for _, w := range c.log {
				if !strings.Contains(log.String(), w) {
					t.Errorf("the log lacks %q: %s", w, &log)
				}
			}
			wantRequirements(t, reg, c.met)
			if c.shared && !strings.HasPrefix(c.fs.asked, "/var/lib/kubelet/") {
				t.Errorf("the mount that holds %q was checked", c.fs.asked)
			}
		})
	}
}

func wantRequirements(t *testing.T, reg *prometheus.Registry, want map[string]float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil || len(families) != 1 || len(families[0].GetMetric()) != len(want) {
		t.Fatalf("metrics %v, %v; want %v", families, err, want)
	}
	for _, m := range families[0].GetMetric() {
		name := m.GetLabel()[0].GetValue()
		if got, known := want[name]; !known || m.GetGauge().GetValue() != got {
			t.Errorf("%s{%s} %v, want %v", families[0].GetName(), name, m.GetGauge().GetValue(), got)
		}
	}
}
