package csiserver

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/version"
	"github.com/growvol/growvol/pkg/volume"
)

func TestIdentity(t *testing.T) {
	t.Parallel()
	cause := errors.New("keystone does not answer")
	isHealthy, kind := true, volume.KindUnavailable
	i := identity(t, func(context.Context) error {
		if isHealthy {
			return nil
		}
		return volume.Errorf(kind, "probe: %w", cause)
	})
	info, err := i.GetPluginInfo(t.Context(), nil)
	if err != nil || info.GetName() != "test.growvol.io" || info.GetVendorVersion() == "" ||
		info.GetVendorVersion() != version.String() {
		t.Errorf("got info %v, %v", info, err)
	}
	capabilities, err := i.GetPluginCapabilities(t.Context(), nil)
	if err != nil || len(capabilities.GetCapabilities()) != 4 {
		t.Errorf("got capabilities %v, %v, want 4", capabilities, err)
	}
	probe, err := i.Probe(t.Context(), nil)
	if err != nil || !probe.GetReady().GetValue() {
		t.Errorf("got probe %v, %v, want ready", probe, err)
	}
	isHealthy = false
	if _, err := i.Probe(t.Context(), nil); status.Code(toStatus(err)) != codes.FailedPrecondition ||
		!errors.Is(err, cause) {
		t.Errorf("got probe %v, want FAILED_PRECONDITION with the reason", err)
	}
	kind = volume.KindInProgress
	if probe, err := i.Probe(t.Context(), nil); err != nil || probe.GetReady() == nil || probe.GetReady().GetValue() {
		t.Errorf("while starting: got probe %v, %v, want not ready", probe, err)
	}
	plain, err := NewIdentity("a", false, healthy)
	if err != nil {
		t.Fatal(err)
	}
	c, err := plain.GetPluginCapabilities(t.Context(), nil)
	if err != nil || len(c.GetCapabilities()) != 3 || strings.Contains(c.String(), "ACCESSIBILITY") {
		t.Errorf("without topology: got capabilities %v, %v, want 3", c, err)
	}
	for _, name := range []string{"", "-a.io", "a..io", "a_b", "a.io/", strings.Repeat("a", 64)} {
		if _, err := NewIdentity(name, false, healthy); err == nil {
			t.Errorf("name %q: got success, want an error", name)
		}
	}
}
