package ceph_test

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// testTwoNodes attaches a volume to a node while another node uses it, or a client that Kubernetes
// does not know: the kernel would let both write to it.
func (r *rig) testTwoNodes(t *testing.T) {
	t.Parallel()
	first, second, ctx := r.nodes[0], r.nodes[1], testContext(t)
	for _, features := range []string{"", "layering"} {
		t.Run("features "+features, func(t *testing.T) {
			parameters := map[string]string{"imageFeatures": features}
			if features == "" {
				parameters = nil
			}
			v := must.Value(first.CreateWithParameters(ctx, class(parameters), testName(t), gib,
				csiclient.MountCapability("ext4"), nil))(t)
			must.Succeed(t, first.Use(ctx, v))
			w := first.startWriter(t, v)
			refused := *v
			must.FailWith(t, second.Attach(ctx, &refused), codes.FailedPrecondition, first.NodeID)
			w.stop(t)
			must.Succeed(t, first.Release(ctx, v))
			must.Succeed(t, second.Use(ctx, v))
			first.copyRecord(t, second, w)
			(&writer{node: second, record: w.record}).verify(t, v)
			must.Succeed(t, second.Release(ctx, v))

			unmap := r.mapByHand(t, second, imageOf(v.ID), "")
			must.FailWith(t, first.Attach(ctx, v), codes.FailedPrecondition, second.guest.Address.String())
			unmap()
			must.Succeed(t, second.Delete(ctx, v))
		})
	}
	r.wantNobodyFenced(t)
}

// copyRecord copies the checksums of a writer to another node.
func (n *node) copyRecord(t *testing.T, to *node, w *writer) {
	t.Helper()
	content := must.Value(n.guest.ReadFile(t.Context(), w.record))(t)
	must.Succeed(t, to.guest.WriteFile(t.Context(), w.record, 0o600, content))
}
