package deploy_test

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/fakecloud"
)

// TestControllerAcceptsClassesOfTheExamples starts the controller with the command line in the
// chart and uses every class of the examples.
func TestControllerAcceptsClassesOfTheExamples(t *testing.T) {
	h := newHelm(t)
	bin, err := csiclient.BuildPlugins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Run("rbd", func(t *testing.T) {
		t.Skip("the controller needs a real Ceph: TestCeph/healthy/examples of tests/ceph has this test (make ceph-test)")
	})
	for backend, want := range map[string]int{"cinder": 5, "loop": 3} {
		t.Run(backend, func(t *testing.T) {
			controller, _ := workloads(t, h.render(t, valueSets()[backend]))
			dir := shortTempDir(t)
			if backend == "cinder" {
				types := []fakecloud.VolumeType{{Name: "plain"}, {Name: "ssd"}, {Name: "ssd-gold"}}
				cloud := fakecloud.Start(t, fakecloud.Options{Types: types})
				if _, err := cloud.WriteCloudsYAML(dir); err != nil {
					t.Fatal(err)
				}
			}
			var log bytes.Buffer
			program, socket := filepath.Join(bin, "growvol-controller"), filepath.Join(dir, "s")
			plugin, err := csiclient.StartPlugin(t.Context(), &log, program, socket, commandLine(controller, dir)...)
			if err != nil {
				t.Fatalf("%v\n%s", err, &log)
			}
			t.Cleanup(func() {
				if err := plugin.Stop(); err != nil {
					t.Errorf("%v\n%s", err, &log)
				}
			})
			client := csi.NewControllerClient(plugin.Conn)
			source, err := createVolume(t, client, "source", nil)
			if err != nil {
				t.Fatal(err)
			}
			used := 0
			for _, class := range readObjects(t, "examples/"+backend+"/*.yaml") {
				if class.Kind == "Secret" {
					continue // kubelet reads the Secrets of encrypted volumes
				}
				if err := useClass(t, client, class, source.GetVolumeId()); err != nil {
					t.Errorf("%s %s: %v", class.Kind, class.Metadata.Name, err)
				}
				used++
			}
			if used != want {
				t.Errorf("used %d classes, want %d", used, want)
			}
		})
	}
}

// useClass makes the call that Kubernetes makes for an object of the class.
func useClass(t *testing.T, client csi.ControllerClient, class object, source string) error {
	t.Helper()
	parameters := maps.Clone(class.Parameters)
	maps.DeleteFunc(parameters, func(key, _ string) bool { return strings.HasPrefix(key, "csi.storage.k8s.io/") })
	var err error
	switch class.Kind {
	case "StorageClass":
		var v *csi.Volume
		v, err = createVolume(t, client, "of-"+class.Metadata.Name, parameters)
		if got, want := v.GetVolumeContext()[volume.EncryptedKey], parameters[volume.EncryptedKey]; got != want {
			t.Errorf("%s: got %s=%q in the volume context, want %q", class.Metadata.Name, volume.EncryptedKey, got, want)
		}
	case "VolumeSnapshotClass":
		_, err = client.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{
			Name: "s", SourceVolumeId: source, Parameters: parameters,
		})
	case "VolumeAttributesClass":
		_, err = client.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{
			VolumeId: source, MutableParameters: parameters,
		})
	default:
		t.Errorf("the examples of classes have a %s", class.Kind)
	}
	return err
}

// createVolume creates a volume of 1 GiB.
func createVolume(
	t *testing.T, client csi.ControllerClient, name string, parameters map[string]string,
) (*csi.Volume, error) {
	t.Helper()
	created, err := client.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name: name, Parameters: parameters, CapacityRange: &csi.CapacityRange{RequiredBytes: 1 << 30},
		VolumeCapabilities: []*csi.VolumeCapability{csiclient.MountCapability("ext4")},
	})
	return created.GetVolume(), err
}

// commandLine returns the arguments of the plugin in its pod, without its endpoints. The
// directories of the pod are below dir.
func commandLine(o object, dir string) []string {
	fill := strings.NewReplacer("/etc/openstack", dir, "/var/lib/growvol", dir, "$(NODE_NAME)", "node-1")
	var args []string
	for _, arg := range o.Spec.Template.Spec.Containers[0].Args {
		switch {
		case strings.HasPrefix(arg, "--endpoint="), strings.HasPrefix(arg, "--http-endpoint="):
		default:
			args = append(args, fill.Replace(arg))
		}
	}
	if slices.Contains(args, "--backend=cinder") {
		args = append(args, "--cloud=csi") // one of the clouds of the fake
	}
	return args
}

// shortTempDir returns a new directory whose path is short enough for a socket.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "growvol") //nolint:usetesting // the path of t.TempDir is too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
