package csiserver

import (
	"context"
	"slices"
	"strings"
	"testing"

	addons "github.com/csi-addons/spec/lib/go/identity"
	"github.com/csi-addons/spec/lib/go/reclaimspace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/version"
	"github.com/growvol/growvol/pkg/volume"
)

// reclaimer serves both services of reclaim space.
type reclaimer struct {
	reclaimspace.UnimplementedReclaimSpaceControllerServer
	reclaimspace.UnimplementedReclaimSpaceNodeServer
}

func (reclaimer) NodeReclaimSpace(
	ctx context.Context, req *reclaimspace.NodeReclaimSpaceRequest,
) (*reclaimspace.NodeReclaimSpaceResponse, error) {
	if _, limited := ctx.Deadline(); !limited || volume.SecretsFrom(ctx)["key"] == "" {
		return nil, volume.Errorf(volume.KindInternal, "without deadline or secrets")
	}
	return nil, volume.Errorf(volume.KindUnsupported, "the disk of %s does not discard", req.GetVolumeId())
}

func TestAddonsShareTheSocket(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options Options
		want    []string
	}{
		"controller": {
			Options{ReclaimSpaceController: reclaimer{}},
			[]string{"service:{type:CONTROLLER_SERVICE}", "reclaim_space:{type:OFFLINE}"},
		},
		"node": {
			Options{ReclaimSpaceNode: reclaimer{}}, []string{"service:{type:NODE_SERVICE}", "reclaim_space:{type:ONLINE}"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, c.options, nil)
			client := addons.NewIdentityClient(p.conn)
			id, err := client.GetIdentity(t.Context(), &addons.GetIdentityRequest{})
			if err != nil || id.GetName() != "test.growvol.io" || id.GetVendorVersion() != version.String() {
				t.Errorf("got identity %v, %v", id, err)
			}
			probe, err := client.Probe(t.Context(), &addons.ProbeRequest{})
			if err != nil || !probe.GetReady().GetValue() {
				t.Errorf("got probe %v, %v, want ready", probe, err)
			}
			resp, err := client.GetCapabilities(t.Context(), &addons.GetCapabilitiesRequest{})
			var got []string
			for _, capability := range resp.GetCapabilities() {
				got = append(got, strings.ReplaceAll(capability.String(), " ", ""))
			}
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got capabilities %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestCallsOfAddonsHaveDeadlinesCodesAndNoSecretsInTheLog(t *testing.T) {
	t.Parallel()
	const secret = "hunter2-hunter2"
	p := start(t, Options{ReclaimSpaceNode: reclaimer{}}, nil)
	_, err := reclaimspace.NewReclaimSpaceNodeClient(p.conn).NodeReclaimSpace(t.Context(),
		&reclaimspace.NodeReclaimSpaceRequest{VolumeId: "vol-7", Secrets: map[string]string{"key": secret}})
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "does not discard") {
		t.Errorf("got %v, want UNIMPLEMENTED with the reason", err)
	}
	_, err = reclaimspace.NewReclaimSpaceControllerClient(p.conn).ControllerReclaimSpace(t.Context(),
		&reclaimspace.ControllerReclaimSpaceRequest{VolumeId: "vol-7"})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a service that is not served: got %v, want UNIMPLEMENTED", err)
	}
	if err := p.stopAndWait(t); err != nil {
		t.Error(err)
	}
	if log := p.log.String(); strings.Contains(log, secret) || !strings.Contains(log, `"volume":"vol-7"`) {
		t.Errorf("got the log, want the volume in it, and not the secret:\n%s", log)
	}
}

func TestWithoutAddonsTheirIdentityIsNotServed(t *testing.T) {
	t.Parallel()
	p := start(t, Options{}, nil)
	_, err := addons.NewIdentityClient(p.conn).GetIdentity(t.Context(), &addons.GetIdentityRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v, want UNIMPLEMENTED", err)
	}
}
