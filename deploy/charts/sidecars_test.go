package charts

import (
	"maps"
	"slices"
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

func TestSidecarsHaveOptions(t *testing.T) {
	options, err := SidecarOptions()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"csi-provisioner": {"--default-fstype=ext4", "--extra-create-metadata"},
		"csi-attacher":    {"--default-fstype=ext4"},
		"csi-resizer":     {"--handle-volume-inuse-error=false"},
		"csi-snapshotter": {"--extra-create-metadata"},
	} {
		if got := options[name]; !slices.Equal(got, want) {
			t.Errorf("%s: got the options %q, want %q", name, got, want)
		}
	}
}

func TestSidecarsHaveRules(t *testing.T) {
	rules, err := SidecarRules()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"csi-provisioner": "create persistentvolumes", "csi-attacher": "patch volumeattachments/status",
		"csi-resizer": "patch persistentvolumeclaims/status", "csi-snapshotter": "patch volumesnapshotcontents/status",
	} {
		verb, resource, _ := strings.Cut(want, " ")
		if !slices.ContainsFunc(rules[name], func(r Rule) bool {
			return slices.Contains(r.Verbs, verb) && slices.Contains(r.Resources, resource) && len(r.APIGroups) == 1
		}) {
			t.Errorf("%s: got the rules %+v, want the right to %s", name, rules[name], want)
		}
	}
	if names := slices.Sorted(maps.Keys(rules)); len(names) != 4 {
		t.Errorf("got the rules of %q, want those of four sidecars", names)
	}
}
