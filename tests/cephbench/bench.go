package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
)

// workers is the number of calls at once that create and delete the volumes that fill the pool.
const workers = 24

// bench is a running measurement.
type bench struct {
	out     io.Writer
	opts    options
	plugin  *csiclient.Plugin
	client  csi.ControllerClient
	run     int64    // makes the names of this run different from those of others
	volumes []string // ids of the volumes that fill the pool
	number  atomic.Int64
}

func newBench(out io.Writer, o options, plugin *csiclient.Plugin) *bench {
	return &bench{
		out: out, opts: o, plugin: plugin, client: csi.NewControllerClient(plugin.Conn), run: time.Now().Unix(),
	}
}

// name returns a name that no other request has had.
func (b *bench) name() string { return fmt.Sprintf("bench-%d-%d", b.run, b.number.Add(1)) }

// create requests a volume; features may be empty: the driver's default.
func (b *bench) create(
	ctx context.Context, name, features string, size volume.Size, source *csi.VolumeContentSource,
) (string, error) {
	parameters := map[string]string{"clusterID": "rig", "pool": "volumes"}
	if features != "" {
		parameters["imageFeatures"] = features
	}
	created, err := b.client.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: name, Parameters: parameters, VolumeContentSource: source,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: size.Bytes()},
		VolumeCapabilities: []*csi.VolumeCapability{csiclient.MountCapability("ext4")},
	})
	return created.GetVolume().GetVolumeId(), err
}

func (b *bench) expand(ctx context.Context, id string, size volume.Size) error {
	expanded, err := b.client.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: size.Bytes()},
	})
	if err == nil && expanded.GetCapacityBytes() < size.Bytes() {
		err = fmt.Errorf("expand %s: got %d bytes, want at least %s", id, expanded.GetCapacityBytes(), size)
	}
	return err
}

func (b *bench) remove(ctx context.Context, id string) error {
	_, err := b.client.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}

// fill creates small volumes until there are count.
func (b *bench) fill(ctx context.Context, count int) error {
	start, before := time.Now(), len(b.volumes)
	ids := make([]string, max(0, count-before))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for i := range ids {
		group.Go(func() (err error) {
			ids[i], err = b.create(ctx, b.name(), "", volume.MiB, nil)
			return err
		})
	}
	err := group.Wait()
	b.volumes = append(b.volumes, slices.DeleteFunc(ids, func(id string) bool { return id == "" })...)
	if err == nil {
		b.printRate(len(b.volumes)-before, "created", time.Since(start))
	}
	return err
}

// removeVolumes deletes the volumes that fill the pool.
func (b *bench) removeVolumes(ctx context.Context) error {
	start := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for _, id := range b.volumes {
		group.Go(func() error { return b.remove(ctx, id) })
	}
	err := group.Wait()
	if err == nil {
		b.printRate(len(b.volumes), "deleted", time.Since(start))
	}
	return err
}

// printf prints to the output. An error there is of no interest: nobody reads it.
func (b *bench) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(b.out, format, args...)
}

// printRate prints how fast many calls at once have been.
func (b *bench) printRate(n int, what string, d time.Duration) {
	if n > 100 {
		b.printf("%d volumes %s by %d calls at once: %.0f a second\n", n, what, workers, float64(n)/d.Seconds())
	}
}

// operations returns how many operations of clients the OSDs have served, from their admin sockets:
// a command that ends with a zero byte is answered with a length and JSON.
func (b *bench) operations(ctx context.Context) (int, error) {
	sockets, err := filepath.Glob(filepath.Join(b.opts.dir, "run", "*osd.*.asok"))
	if err != nil || len(sockets) == 0 {
		return 0, fmt.Errorf("no admin sockets of OSDs in %s/run", b.opts.dir)
	}
	total := 0
	for _, socket := range sockets {
		n, err := countersOf(ctx, socket)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

func countersOf(ctx context.Context, socket string) (n int, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close() //nolint:errcheck // it was only read
	if _, err := io.WriteString(conn, `{"prefix": "perf dump", "logger": "osd", "counter": "op"}`+"\x00"); err != nil {
		return 0, err
	}
	var length uint32
	if err := binary.Read(conn, binary.BigEndian, &length); err != nil {
		return 0, err
	}
	var counters struct {
		OSD struct {
			Op int `json:"op"`
		} `json:"osd"`
	}
	err = json.NewDecoder(io.LimitReader(conn, int64(length))).Decode(&counters)
	return counters.OSD.Op, err
}

// printMemory prints the memory and the threads of the controller.
func (b *bench) printMemory(when string) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.plugin.PID))
	if err != nil {
		return err
	}
	values := map[string]string{}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		values[name] = strings.TrimSpace(value)
	}
	b.printf("memory of the controller %s: RSS %s (of it files %s), at most %s, %s threads; goal: at most 61440 kB\n",
		when, values["VmRSS"], values["RssFile"], values["VmHWM"], values["Threads"])
	return nil
}
