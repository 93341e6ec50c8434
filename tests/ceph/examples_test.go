package ceph_test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"go.yaml.in/yaml/v3"

	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// This file tests the classes of examples/rbd.

// exampleClass has the fields of a class that the test needs.
type exampleClass struct {
	Kind     string `yaml:"kind"`
	Metadata struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Parameters map[string]string `yaml:"parameters"`
}

// readExampleClasses returns the classes of examples/rbd. Their cluster is that of the rig, whose
// pools have the same names, and they have no parameters for the sidecars.
func readExampleClasses(t *testing.T) (classes []exampleClass) {
	t.Helper()
	root := must.Value(csiclient.ModuleRoot(t.Context()))(t)
	for _, file := range must.Value(filepath.Glob(filepath.Join(root, "examples/rbd/*.yaml")))(t) {
		content := must.Value(os.ReadFile(file))(t) //nolint:gosec // a file of this repository
		for d := yaml.NewDecoder(bytes.NewReader(content)); ; {
			var c exampleClass
			err := d.Decode(&c)
			if errors.Is(err, io.EOF) {
				break
			}
			must.Succeed(t, err)
			if c.Parameters["clusterID"] != "" {
				c.Parameters["clusterID"] = ceph.Cluster
			}
			maps.DeleteFunc(c.Parameters, func(key, _ string) bool { return strings.HasPrefix(key, "csi.storage.k8s.io/") })
			if strings.HasSuffix(c.Kind, "Class") {
				classes = append(classes, c)
			}
		}
	}
	return classes
}

// testExamples uses every class of examples/rbd.
func (r *rig) testExamples(t *testing.T) {
	t.Parallel()
	ctx, c := testContext(t), r.client()
	source := must.Value(c.CreateVolume(ctx, createRequest(testName(t), gib)))(t).GetVolume().GetVolumeId()
	volumes := []string{source}
	used := map[string]int{}
	for _, class := range readExampleClasses(t) {
		used[class.Kind]++
		switch class.Kind {
		case "StorageClass":
			req := createRequest(testName(t)+"-"+class.Metadata.Name, gib)
			req.Parameters = class.Parameters
			volumes = append(volumes, must.Value(c.CreateVolume(ctx, req))(t).GetVolume().GetVolumeId())
		case "VolumeSnapshotClass":
			snapshot := must.Value(c.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{
				Name: testName(t), SourceVolumeId: source, Parameters: class.Parameters,
			}))(t).GetSnapshot().GetSnapshotId()
			must.Value(c.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot}))(t)
		case "VolumeAttributesClass":
			must.Value(c.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{
				VolumeId: source, MutableParameters: class.Parameters,
			}))(t)
		case "VolumeGroupSnapshotClass":
			r.useGroupSnapshotClass(t, class, source)
		default:
			t.Errorf("the examples have a %s, which no test uses", class.Kind)
		}
	}
	for _, id := range volumes {
		must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
	}
	want := map[string]int{
		"StorageClass": 3, "VolumeSnapshotClass": 1, "VolumeAttributesClass": 1, "VolumeGroupSnapshotClass": 1,
	}
	if !maps.Equal(used, want) {
		t.Errorf("used the classes %v, want %v", used, want)
	}
}

// useGroupSnapshotClass takes and deletes a group snapshot of one volume.
func (r *rig) useGroupSnapshotClass(t *testing.T, class exampleClass, source string) {
	t.Helper()
	ctx, c := testContext(t), csi.NewGroupControllerClient(r.controller.Conn)
	group := must.Value(c.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{
		Name: testName(t), SourceVolumeIds: []string{source}, Parameters: class.Parameters,
	}))(t).GetGroupSnapshot()
	var members []string
	for _, s := range group.GetSnapshots() {
		members = append(members, s.GetSnapshotId())
	}
	must.Value(c.DeleteVolumeGroupSnapshot(ctx, &csi.DeleteVolumeGroupSnapshotRequest{
		GroupSnapshotId: group.GetGroupSnapshotId(), SnapshotIds: members,
	}))(t)
}
