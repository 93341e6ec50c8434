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

// With the command line of the chart the controller starts, and takes what the
// classes of the examples say.
func TestClassesOfTheExamples(t *testing.T) {
	h := newHelm(t)
	bin, err := csiclient.BuildPlugins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for backend, classes := range map[string]int{"cinder": 5, "loop": 3} {
		t.Run(backend, func(t *testing.T) {
			controller, _ := workloads(t, h.render(t, sets()[backend]))
			dir := directory(t)
			if backend == "cinder" {
				cloud := fakecloud.Start(t, fakecloud.Options{Types: []fakecloud.VolumeType{{Name: "plain"}, {Name: "ssd"}, {Name: "ssd-gold"}}})
				if _, err := cloud.WriteCloudsYAML(dir); err != nil {
					t.Fatal(err)
				}
			}
			var log bytes.Buffer
			plugin, err := csiclient.StartPlugin(t.Context(), &log, filepath.Join(bin, "growvol-controller"), filepath.Join(dir, "s"), commandLine(controller, dir)...)
			if err != nil {
				t.Fatalf("%v\n%s", err, &log)
			}
			t.Cleanup(func() {
				if err := plugin.Stop(); err != nil {
					t.Errorf("%v\n%s", err, &log)
				}
			})
			client := csi.NewControllerClient(plugin.Conn)
			source, err := create(t, client, "source", nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, class := range read(t, "examples/"+backend+"/*.yaml") {
				if class.Kind == "Secret" {
					continue // of encrypted volumes: kubelet reads it
				}
				if err := use(t, client, class, source.GetVolumeId()); err != nil {
					t.Errorf("%s %s: %v", class.Kind, class.Metadata.Name, err)
				}
				classes--
			}
			if classes != 0 {
				t.Errorf("%d classes more than were there", classes)
			}
		})
	}
}

// use does what Kubernetes does with an object of that class.
func use(t *testing.T, client csi.ControllerClient, class object, source string) error {
	t.Helper()
	parameters := maps.Clone(class.Parameters)
	maps.DeleteFunc(parameters, func(key, _ string) bool { return strings.HasPrefix(key, "csi.storage.k8s.io/") })
	var err error
	switch class.Kind {
	case "StorageClass":
		var v *csi.Volume
		v, err = create(t, client, "of-"+class.Metadata.Name, parameters)
		if got, want := v.GetVolumeContext()[volume.EncryptedKey], parameters[volume.EncryptedKey]; got != want {
			t.Errorf("%s: the node is told encrypted: %q, want %q", class.Metadata.Name, got, want)
		}
	case "VolumeSnapshotClass":
		_, err = client.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: source, Parameters: parameters})
	case "VolumeAttributesClass":
		_, err = client.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{VolumeId: source, MutableParameters: parameters})
	default:
		t.Errorf("there is a %s among the classes", class.Kind)
	}
	return err
}

func create(t *testing.T, client csi.ControllerClient, name string, parameters map[string]string) (*csi.Volume, error) {
	t.Helper()
	created, err := client.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name: name, Parameters: parameters, CapacityRange: &csi.CapacityRange{RequiredBytes: 1 << 30},
		VolumeCapabilities: []*csi.VolumeCapability{csiclient.MountCapability("ext4")},
	})
	return created.GetVolume(), err
}

// commandLine is that of the plugin in its pod, with the pod's directories
// below dir, and without its ports.
func commandLine(o object, dir string) []string {
	var args []string
	for _, arg := range o.Spec.Template.Spec.Containers[0].Args {
		switch {
		case strings.HasPrefix(arg, "--endpoint="), strings.HasPrefix(arg, "--http-endpoint="):
		default:
			args = append(args, strings.NewReplacer("/etc/openstack", dir, "/var/lib/growvol", dir, "$(NODE_NAME)", "node-1").Replace(arg))
		}
	}
	if slices.Contains(args, "--backend=cinder") {
		args = append(args, "--cloud=csi") // of those that the fake cloud describes
	}
	return args
}

// directory is a new one whose path is short enough for a socket's.
func directory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "growvol") //nolint:usetesting // t.TempDir's is too long for a socket
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
