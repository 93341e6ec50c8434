package rbdcsi

import "testing"

func TestVolumeHandleIsStable(t *testing.T) {
	for text, want := range map[string]VolumeHandle{
		"a/rbd/csi-vol-1":  {Location: Location{Cluster: "a", Pool: "rbd"}, Image: "csi-vol-1"},
		"a/rbd/tenant/img": {Location: Location{Cluster: "a", Pool: "rbd", Namespace: "tenant"}, Image: "img"},
		"a/rbd/img@monday": {Location: Location{Cluster: "a", Pool: "rbd"}, Image: "img", Snapshot: "monday"},
		"a/rbd/t/img@mon@noon": {
			Location: Location{Cluster: "a", Pool: "rbd", Namespace: "t"}, Image: "img", Snapshot: "mon@noon",
		},
	} {
		got, err := ParseVolumeHandle(text)
		if err != nil || got != want {
			t.Errorf("%s: got %+v (%v), want %+v", text, got, err, want)
		}
		if got.String() != text {
			t.Errorf("got the handle %s, want %s", got, text)
		}
	}
	for _, text := range []string{
		"", "img", "rbd/img", "a//img", "a/rbd/", "a/b/c/d/e", "a/rbd/@s", "a/rbd/img@", "a/rbd/id:10@4",
		"0001-0024-fed5480a-f00f-417a-a51d-31d8a8144c03-0000000000000003-a6bf0a0b-4f4b-4f39-9c02-5f1c3a1f6f33",
	} {
		if got, err := ParseVolumeHandle(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
}

func TestSnapshotHandleIsStable(t *testing.T) {
	for text, want := range map[string]SnapshotHandle{
		"a/rbd/id:10226b8b4567@4": {
			Location: Location{Cluster: "a", Pool: "rbd"}, ImageID: "10226b8b4567", SnapshotID: 4,
		},
		"a/rbd/t/id:1022@18446744073709551614": {
			Location: Location{Cluster: "a", Pool: "rbd", Namespace: "t"}, ImageID: "1022", SnapshotID: 1<<64 - 2,
		},
		"a/rbd/img@monday": {Location: Location{Cluster: "a", Pool: "rbd"}, Image: "img", Snapshot: "monday"},
	} {
		got, err := ParseSnapshotHandle(text)
		if err != nil || got != want {
			t.Errorf("%s: got %+v (%v), want %+v", text, got, err, want)
		}
		if got.String() != text {
			t.Errorf("got the handle %s, want %s", got, text)
		}
	}
	for _, text := range []string{"", "a/rbd/img", "a/rbd/id:@4", "a/rbd/id:10@x", "a/rbd/id:10@-1", "rbd/id:10@4"} {
		if got, err := ParseSnapshotHandle(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
}

func TestParseCephCSIHandle(t *testing.T) {
	const uuid = "a6bf0a0b-4f4b-4f39-9c02-5f1c3a1f6f33"
	for text, want := range map[string]CephCSIHandle{
		"0001-0024-fed5480a-f00f-417a-a51d-31d8a8144c03-0000000000000003-" + uuid: {
			Cluster: "fed5480a-f00f-417a-a51d-31d8a8144c03", PoolID: 3, UUID: uuid,
		},
		"0001-0009-rook-ceph-000000000000001a-" + uuid: {Cluster: "rook-ceph", PoolID: 26, UUID: uuid},
	} {
		if got, ok := ParseCephCSIHandle(text); !ok || got != want {
			t.Errorf("%s: got %+v, %t, want %+v", text, got, ok, want)
		}
	}
	for _, text := range []string{
		"", "a/rbd/img", "0002-0009-rook-ceph-000000000000001a-" + uuid, "0001-0008-rook-ceph-000000000000001a-" + uuid,
		"0001-0009-rook-ceph-000000000000001a-" + uuid + "0", "0001-0009-rook-ceph-ffffffffffffffff-" + uuid,
	} {
		if got, ok := ParseCephCSIHandle(text); ok {
			t.Errorf("%q: got %+v, want no handle", text, got)
		}
	}
}
