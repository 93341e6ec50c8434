package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
)

// stagedVolumes is the number of volumes with which the memory of the plugins is measured.
const stagedVolumes = 200

// BenchmarkPlugins measures the real plugins: the size of the binaries, the time from exec to the
// first answer, and the resident memory without volumes and with 200 staged volumes.
func BenchmarkPlugins(b *testing.B) {
	bin, err := csiclient.BuildPlugins(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	var starts [2][]time.Duration
	for b.Loop() {
		d := deploy(b, bin)
		starts[0] = append(starts[0], d.ControllerPlugin.StartDuration)
		starts[1] = append(starts[1], d.NodePlugin.StartDuration)
		if err := d.Stop(); err != nil {
			b.Fatal(err)
		}
	}
	d := deploy(b, bin)
	b.ReportMetric(0, "ns/op")
	for i, name := range []string{"controller", "node"} {
		slices.Sort(starts[i])
		b.ReportMetric(float64(starts[i][len(starts[i])/2].Microseconds())/1000, name+"-start-ms")
		info, err := os.Stat(filepath.Join(bin, "growvol-"+name))
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(mib(info.Size()), name+"-binary-MiB")
	}
	report := func(when string) {
		b.ReportMetric(residentMiB(b, d.ControllerPlugin.PID), "controller-"+when+"-MiB")
		b.ReportMetric(residentMiB(b, d.NodePlugin.PID), "node-"+when+"-MiB")
	}
	report("idle")
	volumes := make([]*csiclient.Volume, stagedVolumes)
	for i := range volumes {
		volumes[i] = createAndStage(b, d, i)
	}
	report("staged")
	for _, v := range volumes {
		if err := d.Release(b.Context(), v); err != nil {
			b.Fatal(err)
		}
		if err := d.Delete(b.Context(), v); err != nil {
			b.Fatal(err)
		}
	}
	if err := d.Stop(); err != nil {
		b.Fatal(err)
	}
}

// deploy starts both plugins with the loop backend.
func deploy(b *testing.B, bin string) *csiclient.Deployment {
	b.Helper()
	d, err := csiclient.Deploy(b.Context(), bin, b.TempDir(), os.Stderr, "--log-level=warn")
	if err != nil {
		b.Fatal(err)
	}
	return d
}

// createAndStage creates a volume of 1 GiB and makes all calls up to its publication.
func createAndStage(b *testing.B, d *csiclient.Deployment, i int) *csiclient.Volume {
	b.Helper()
	v, err := d.Create(b.Context(), fmt.Sprintf("bench-%d", i), volume.GiB.Bytes(), csiclient.MountCapability("ext4"), nil)
	if err != nil {
		b.Fatal(err)
	}
	if err := d.Use(b.Context(), v); err != nil {
		b.Fatal(err)
	}
	return v
}

// residentMiB returns the resident memory of a process in MiB.
func residentMiB(b *testing.B, pid int) float64 {
	b.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return mib(kib * 1024)
		}
	}
	b.Fatalf("/proc/%d/status has no VmRSS", pid)
	return 0
}

func mib(bytes int64) float64 { return float64(bytes) / float64(volume.MiB) }
