package charts

import (
	"strings"
	"testing"
)

func TestSidecarsHaveTags(t *testing.T) {
	tags, err := Sidecars()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"csi-provisioner", "csi-attacher", "csi-resizer", "csi-snapshotter", "csi-node-driver-registrar", "livenessprobe",
	} {
		if !strings.HasPrefix(tags[name], "v") {
			t.Errorf("%s: got the tag %q, want a version", name, tags[name])
		}
	}
}
