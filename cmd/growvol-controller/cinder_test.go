package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
	"github.com/growvol/growvol/tests/programtest"
)

// Credentials that are wrong, or cannot be read, end the program at once with a message
// that names the fault but no secret. Not parallel: a program sets the logger of klog, which
// is global to the process.
func TestWrongCredentialsEndProgram(t *testing.T) {
	cloud := fakecloud.Start(t, fakecloud.Options{})
	good, err := cloud.WriteCloudsYAML(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "clouds.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const secret = "hunter2-hunter2"
	wrong := file(strings.ReplaceAll(string(text), "password: "+fakecloud.Password, "password: "+secret))
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"none": {nil, "--clouds-yaml or --cloud-config"},
		"no file": {
			[]string{"--clouds-yaml=" + filepath.Join(t.TempDir(), "absent.yaml"), "--cloud=csi"}, "absent.yaml",
		},
		"not YAML":       {[]string{"--clouds-yaml=" + file("clouds: ["), "--cloud=csi"}, "clouds.yaml"},
		"unknown cloud":  {[]string{"--clouds-yaml=" + good, "--cloud=west"}, "west"},
		"wrong password": {[]string{"--clouds-yaml=" + wrong, "--cloud=csi"}, "csi"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			args := append([]string{"--backend=cinder", "--endpoint=unix://" + filepath.Join(t.TempDir(), "s")}, test.args...)
			if code := newProgram().Run(t.Context(), args, &bytes.Buffer{}, &stderr); code != 1 {
				t.Errorf("got exit code %d, want 1", code)
			}
			if !strings.Contains(stderr.String(), test.want) {
				t.Errorf("got stderr %q, want %q in it", &stderr, test.want)
			}
			if strings.Contains(stderr.String(), secret) {
				t.Errorf("got the password in stderr: %s", &stderr)
			}
		})
	}
}

// A volume of the Cinder backend is created over the socket, expanded and deleted.
func TestProgramWithCinder(t *testing.T) {
	cloud := fakecloud.Start(t, fakecloud.Options{})
	dir := programtest.SocketDir(t)
	path, err := cloud.WriteCloudsYAML(dir)
	if err != nil {
		t.Fatal(err)
	}
	endpoint := "unix://" + filepath.Join(dir, "csi.sock")
	t.Setenv("CSI_ENDPOINT", endpoint)
	conn, stop := programtest.Start(t, newProgram(), endpoint,
		"--backend=cinder", "--clouds-yaml="+path, "--cloud=csi", "--cluster-id=test")
	wantPlugin(t, conn, "cinder.csi.openstack.org")
	client := csi.NewControllerClient(conn)
	created, err := client.CreateVolume(t.Context(), createRequest("pvc-1", volume.GiB))
	if err != nil {
		t.Fatal(err)
	}
	id := created.GetVolume().GetVolumeId()
	if len(created.GetVolume().GetAccessibleTopology()) != 1 {
		t.Errorf("got topology %v, want the volume's zone", created.GetVolume().GetAccessibleTopology())
	}
	expanded, err := client.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
		VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: (2*volume.GiB + 1).Bytes()},
	})
	if v, ok := cloud.Volume(id); err != nil || !ok || v.Size != 3 ||
		expanded.GetCapacityBytes() != (3*volume.GiB).Bytes() {
		t.Errorf("got %v (%v), in the cloud %+v, want 3 GiB", expanded, err, v)
	}
	if _, err := client.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
		t.Error(err)
	}
	if v, ok := cloud.Volume(id); ok {
		t.Errorf("after the deletion: got %+v, want no volume", v)
	}
	stop()
}

// The program reads the versions of the cloud's API in the background: services that hang delay
// neither its start nor its end.
func TestProgramDoesNotWaitForAPIVersions(t *testing.T) {
	cloud := fakecloud.Start(t, fakecloud.Options{})
	cloud.On(fakecloud.Match{Call: fakecloud.Discover}, fakecloud.Hangs()).Always()
	dir := programtest.SocketDir(t)
	path, err := cloud.WriteCloudsYAML(dir)
	if err != nil {
		t.Fatal(err)
	}
	endpoint := "unix://" + filepath.Join(dir, "csi.sock")
	t.Setenv("CSI_ENDPOINT", endpoint)
	began := time.Now()
	conn, stop := programtest.Start(t, newProgram(), endpoint, "--backend=cinder", "--clouds-yaml="+path, "--cloud=csi")
	wantPlugin(t, conn, "cinder.csi.openstack.org")
	for cloud.Count(fakecloud.Discover) == 0 && t.Context().Err() == nil {
		runtime.Gosched() // until the first request for versions is there
	}
	stop()
	// A program that waited would wait for 8 s, the timeout of the versions.
	if took := time.Since(began); took > 7*time.Second {
		t.Errorf("start and end took %s while the services hang, want at most 7s", took)
	}
}

// If Keystone hangs when the program starts, only calls that need it wait: the socket
// exists within seconds, and Probe answers "not ready". When Keystone answers again, the
// program works without a restart.
func TestProgramStartsWhileKeystoneHangs(t *testing.T) {
	cloud := fakecloud.Start(t, fakecloud.Options{})
	dir := programtest.SocketDir(t)
	path, err := cloud.WriteCloudsYAML(dir)
	if err != nil {
		t.Fatal(err)
	}
	outage := cloud.On(fakecloud.Match{Path: regexp.MustCompile("^/identity/")}, fakecloud.Hangs()).Always()
	endpoint := "unix://" + filepath.Join(dir, "csi.sock")
	t.Setenv("CSI_ENDPOINT", endpoint)
	start := time.Now()
	conn, stop := programtest.Start(t, newProgram(), endpoint,
		"--backend=cinder", "--clouds-yaml="+path, "--cloud=csi")
	for _, err := os.Stat(filepath.Join(dir, "csi.sock")); err != nil; _, err = os.Stat(filepath.Join(dir, "csi.sock")) {
		// The program waits for 5 s. It would wait for 18 s if only the timeout of a login ended it.
		if time.Since(start) > 15*time.Second {
			t.Fatal("got no socket within 15 s")
		}
		if err := operation.Sleep(t.Context(), 20*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("the socket existed after %s", time.Since(start))
	identity := csi.NewIdentityClient(conn)
	probe := func(want bool) {
		t.Helper()
		resp, err := identity.Probe(t.Context(), &csi.ProbeRequest{}, grpc.WaitForReady(true))
		if err != nil || resp.GetReady() == nil || resp.GetReady().GetValue() != want {
			t.Errorf("got probe %v, %v, want ready: %t", resp, err, want)
		}
	}
	probe(false)
	outage.Remove()
	probe(true)
	client := csi.NewControllerClient(conn)
	created, err := client.CreateVolume(t.Context(), createRequest("pvc-1", volume.GiB))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{
		VolumeId: created.GetVolume().GetVolumeId(),
	}); err != nil {
		t.Error(err)
	}
	stop()
}

// A start that fails after the backend was opened closes it, although the context goes on.
func TestCloseEndsTheReportOfAPIVersions(t *testing.T) {
	path, err := fakecloud.Start(t, fakecloud.Options{}).WriteCloudsYAML(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	backend, err := openBackend(t.Context(), config{backend: "cinder", cloudsYAML: path, cloud: "csi"},
		slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() { defer close(closed); backend.close() }()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the backend is not closed after 10s")
	}
}
