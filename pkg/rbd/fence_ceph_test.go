//go:build ceph

package rbd

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ceph/go-ceph/rados"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/kubeapi/kubeapitest"
	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/attachment"
	"github.com/growvol/growvol/pkg/rbd/noderecord"
)

// This file tests on a real cluster that a client is served nothing any more when Detach has said
// that it is fenced.

// oldClient is the client of a lost node that goes on writing to an image, object by object, as
// fast as it can.
type oldClient struct {
	address string
	conn    *rados.Conn

	stop    context.CancelFunc
	writers sync.WaitGroup
	// answered is the time of Detach's answer, in nanoseconds since 1970; zero: not yet.
	answered      atomic.Int64
	before, after atomic.Int64 // writes that succeeded; after: begun after the answer
}

// startOldClient starts writers to the objects of the image, which has 1 GiB.
func (r *cephRig) startOldClient(t *testing.T, imageID string) *oldClient {
	t.Helper()
	files := cluster.Files{Config: filepath.Join(r.dir, "config.json"), Keys: filepath.Join(r.dir, "keys")}
	config, err := files.Read(realCluster)
	check(t, err)
	c := new(oldClient)
	c.conn, err = rados.NewConnWithUser(config.User)
	check(t, err)
	for name, value := range map[string]string{
		"mon_host": config.MonHost(), "key": config.Key, "keyring": "/dev/null", "log_file": "", "admin_socket": "",
	} {
		check(t, c.conn.SetConfigOption(name, value))
	}
	check(t, c.conn.Connect())
	t.Cleanup(c.conn.Shutdown)
	c.address, err = c.conn.GetAddrs()
	check(t, err)
	t.Cleanup(func() { r.run(t, "ceph", "osd", "blocklist", "rm", c.address) })
	io, err := c.conn.OpenIOContext("volumes")
	check(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	c.stop = cancel
	const writers, objects = 16, 256
	for w := range writers {
		c.writers.Go(func() {
			for i := w; ctx.Err() == nil; i = (i + writers) % objects {
				start := time.Now().UnixNano()
				if io.Write(fmt.Sprintf("rbd_data.%s.%016x", imageID, i), make([]byte, 512), 0) != nil {
					continue
				}
				if answered := c.answered.Load(); answered != 0 && start > answered {
					c.after.Add(1)
				} else {
					c.before.Add(1)
				}
			}
		})
	}
	return c
}

// awaitWrites waits until that many more writes have succeeded.
func (c *oldClient) awaitWrites(t *testing.T, n int64) {
	t.Helper()
	for first := c.before.Load(); c.before.Load() < first+n; {
		check(t, t.Context().Err())
	}
}

// forgetAttachment removes the record of the attachment to n1, if there is one.
func (r *cephRig) forgetAttachment(t *testing.T, imageID string) {
	t.Helper()
	r.run(t, "rados", "--pool", "volumes", "rmomapkey", "rbd_header."+imageID, "metadata_"+attachment.Key("n1"))
}

// signalOSD sends a signal to an OSD of the rig.
func (r *cephRig) signalOSD(t *testing.T, action string, number int) {
	t.Helper()
	service := filepath.Join("..", "..", "tests", "ceph", "service")
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), service, action, fmt.Sprintf("osd.%d", number)).
		CombinedOutput()
	if err != nil {
		t.Fatalf("%s osd.%d: %v: %s", action, number, err, out)
	}
}

// loseNode makes the Node n1 that of a lost node whose client has the image mapped.
func loseNode(t *testing.T, nodes *kubeapitest.Server, fsid, address string, image noderecord.Image) {
	t.Helper()
	record := noderecord.Record{Clients: []noderecord.Client{{
		FSID: fsid, Address: address, Images: []noderecord.Image{image},
	}}}
	check(t, nodes.API().Annotate(t.Context(), "n1", noderecord.ClientsAnnotation, record.String()))
	nodes.Change("n1", func(n *kubeapitest.Node) { n.IsReady, n.Taints = false, []string{kubeapi.OutOfServiceTaint} })
}

func TestOnCephFencedClientIsServedNothing(t *testing.T) {
	t.Run("all OSDs run", func(t *testing.T) { testFencedClient(t, false) })
	t.Run("an OSD is stopped", func(t *testing.T) { testFencedClient(t, true) })
}

// dataOSD returns an OSD that has data of the image, but neither its header nor its name.
func (r *cephRig) dataOSD(t *testing.T, name, imageID string) int {
	t.Helper()
	primary := func(object string) int {
		var answer struct {
			Primary int `json:"acting_primary"`
		}
		check(t, json.Unmarshal([]byte(r.run(t, "ceph", "--format", "json", "osd", "map", "volumes", object)), &answer))
		return answer.Primary
	}
	header := []int{primary("rbd_header." + imageID), primary("rbd_id." + name)}
	for i := range 256 {
		if osd := primary(fmt.Sprintf("rbd_data.%s.%016x", imageID, i)); !slices.Contains(header, osd) {
			return osd
		}
	}
	t.Fatal("no OSD has only data of the image")
	return 0
}

// testFencedClient may stop an OSD during the fence.
func testFencedClient(t *testing.T, stopsOSD bool) {
	t.Helper()
	r := newCephRig(t)
	nodes := (&rig{Backend: r.Backend}).withNodes(t)
	for round := range 3 {
		v := r.create(t, r.request(fmt.Sprintf("v%d", round), "imageFeatures", "layering"))
		published, err := r.Attach(t.Context(), attachRequest(v.ID, "n1"))
		check(t, err)
		id := published["imageID"]
		t.Cleanup(func() { r.forgetAttachment(t, id) }) // for the removal of the image if the test fails
		c := r.startOldClient(t, id)
		loseNode(t, nodes, published["fsid"], c.address, noderecord.Image{PoolID: 1, ID: id})
		c.awaitWrites(t, 500)
		if stopsOSD {
			stopped := r.dataOSD(t, published["imageName"], id)
			r.signalOSD(t, "pause", stopped)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			err := r.Detach(ctx, v.ID, "n1")
			cancel()
			if err == nil {
				c.answered.Store(time.Now().UnixNano())
				t.Error("Detach succeeded, although an OSD could not have the new map")
			}
			t.Logf("while the OSD is stopped: %v", err)
			r.signalOSD(t, "continue", stopped)
		}
		start := time.Now()
		check(t, r.Detach(t.Context(), v.ID, "n1"))
		c.answered.CompareAndSwap(0, time.Now().UnixNano())
		answer := time.Since(start)
		time.AfterFunc(3*time.Second, c.stop)
		c.writers.Wait()
		t.Logf("answer after %s; writes before the answer: %d, after it: %d",
			answer.Round(time.Millisecond), c.before.Load(), c.after.Load())
		if n := c.after.Load(); n != 0 {
			t.Errorf("%d writes that began after the answer were served, want none", n)
		}
		nodes.Change("n1", func(n *kubeapitest.Node) { n.IsReady, n.Taints = true, nil })
		check(t, nodes.API().Annotate(t.Context(), "n1", noderecord.ClientsAnnotation, noderecord.Record{}.String()))
	}
}

// A fence of others that ends soon is replaced on a real cluster, too.
func TestOnCephShortFenceIsReplaced(t *testing.T) {
	r := newCephRig(t)
	nodes := (&rig{Backend: r.Backend}).withNodes(t)
	v := r.create(t, r.request("v"))
	published, err := r.Attach(t.Context(), attachRequest(v.ID, "n1"))
	check(t, err)
	const address = "10.77.0.99:0/4711"
	r.run(t, "ceph", "osd", "blocklist", "add", address, "600")
	loseNode(t, nodes, published["fsid"], address, noderecord.Image{PoolID: 1, ID: published["imageID"]})
	check(t, r.Detach(t.Context(), v.ID, "n1"))
	listed := r.run(t, "ceph", "osd", "blocklist", "ls")
	_, line, _ := strings.Cut(listed, address+" ")
	end, err := time.Parse("2006-01-02T15:04:05", line[:min(len(line), 19)])
	if err != nil || time.Until(end) < 4*365*24*time.Hour {
		t.Errorf("the fence ends at %s (%v), want it in years:\n%s", end, err, listed)
	}
	nodes.Change("n1", func(n *kubeapitest.Node) { n.IsReady, n.Taints = true, nil })
	check(t, nodes.API().Annotate(t.Context(), "n1", noderecord.ClientsAnnotation, noderecord.Record{}.String()))
	_, err = r.Attach(t.Context(), attachRequest(v.ID, "n1"))
	check(t, err)
	if listed := r.run(t, "ceph", "osd", "blocklist", "ls"); strings.Contains(listed, address) {
		t.Errorf("the fence stays after the node's return: %s", listed)
	}
	check(t, r.Detach(t.Context(), v.ID, "n1"))
}
