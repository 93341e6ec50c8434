package ceph_test

import (
	"fmt"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/must"
)

// testRemainders creates volumes whose names an interrupted call of librbd has left behind. A name
// without an image is replaced; one with an image is kept.
func (r *rig) testRemainders(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	pool := ceph.OtherPool
	shell := func(format string, args ...any) string {
		t.Helper()
		return must.Value(r.Tool(ctx, "bash", "-euc", fmt.Sprintf(format, args...)))(t)
	}
	request := func(kind string) (req *csi.CreateVolumeRequest, image string) {
		req = createRequest(testName(t)+kind, gib)
		req.Parameters["pool"] = pool
		return req, "csi-vol-" + req.GetName()
	}
	// The length of the id in four bytes, and the id.
	const id = `printf '\x04\x00\x00\x00dead'`
	for kind, leave := range map[string]string{
		"-object":    id + " | rados -p %s put rbd_id.%s -",
		"-directory": id + " | rados -p %s setomapval rbd_directory name_%s",
	} {
		req, image := request(kind)
		shell(leave, pool, image)
		if kind == "-directory" { // which has both directions
			shell(`printf '\x%02x\x00\x00\x00%s' | rados -p %s setomapval rbd_directory id_dead`, len(image), image, pool)
		}
		v := must.Value(r.client().CreateVolume(ctx, req))(t).GetVolume()
		r.wantSize(t, v.GetVolumeId(), gib)
		must.Value(r.client().DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.GetVolumeId()}))(t)
	}
	req, image := request("-image")
	must.Value(r.Tool(ctx, "rbd", "create", "--size=1G", pool+"/"+image))(t)
	header := "rbd_header." + must.Value(r.Image(ctx, pool+"/"+image))(t).ID
	shell("rados -p %s rm rbd_id.%s", pool, image)
	_, err := r.client().CreateVolume(ctx, req)
	must.FailWith(t, err, codes.Unavailable, image)
	shell("rados -p %s stat %s", pool, header)
	must.Value(r.Tool(ctx, "rbd", "rm", "--no-progress", pool+"/"+image))(t)
}
