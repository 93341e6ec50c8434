//go:build ceph

package librbd

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file holds the requests to the monitors.

// command sends a command and returns its answer, in JSON. ETIMEDOUT: no monitor answered in time.
func (c *connection) command(arguments map[string]any) (*json.Decoder, error) {
	arguments["format"] = "json"
	request, err := json.Marshal(arguments)
	if err != nil {
		return nil, err
	}
	output, status, err := c.conn.MonCommand(request)
	if err != nil {
		return nil, wrap(err, "monitor command %q of Ceph cluster %s: %s", arguments["prefix"], c.id, status)
	}
	return json.NewDecoder(bytes.NewReader(output)), nil
}

// query sends a command without arguments but its name and detail, and decodes its answer.
func (c *connection) query(name, detail string, answer any) error {
	arguments := map[string]any{"prefix": name}
	if detail != "" {
		arguments["detail"] = detail
	}
	decoder, err := c.command(arguments)
	if err != nil {
		return err
	}
	return wrap(decoder.Decode(answer), "read the answer to %q of Ceph cluster %s", name, c.id)
}

// Health implements ceph.Cluster.
func (c *connection) Health() error {
	_, err := c.command(map[string]any{"prefix": "version"})
	return err
}

// blocklistTime is the form of the times in the blocklist.
const blocklistTime = "2006-01-02T15:04:05.999999-0700"

// Blocklist implements ceph.Cluster.
func (c *connection) Blocklist() (map[string]time.Time, error) {
	const name = "osd blocklist ls"
	decoder, err := c.command(map[string]any{"prefix": name})
	if err != nil {
		return nil, err
	}
	ends := make(map[string]time.Time)
	for { // the answer is two lists, one after the other: addresses, and ranges of addresses
		var entries []struct {
			Addr  string `json:"addr"`
			Until string `json:"until"`
		}
		err := decoder.Decode(&entries)
		if errors.Is(err, io.EOF) {
			return ends, nil
		}
		for _, e := range entries {
			if err == nil {
				ends[plainAddress(e.Addr)], err = time.Parse(blocklistTime, e.Until)
			}
		}
		if err != nil {
			return nil, wrap(err, "read the answer to %q of Ceph cluster %s", name, c.id)
		}
	}
}

// Fence implements ceph.Cluster. It refuses everything but the address of one client: the monitors
// of Ceph 16 take a network for an address, fence nobody and report success.
func (c *connection) Fence(address string, duration time.Duration) error {
	// The monitors insist on a decimal point.
	seconds := json.RawMessage(strconv.FormatFloat(duration.Seconds(), 'f', 3, 64))
	return c.changeBlocklist("add", address, map[string]any{"expire": seconds})
}

// Unfence implements ceph.Cluster.
func (c *connection) Unfence(address string) error {
	return c.changeBlocklist("rm", address, map[string]any{})
}

// changeBlocklist adds an address or removes it, and reads the list back. Afterward this connection
// has the new map of the cluster.
func (c *connection) changeBlocklist(change, address string, arguments map[string]any) error {
	if !regexp.MustCompile(`^([0-9.]+|\[[0-9a-fA-F:]+\]):[0-9]+/[0-9]+$`).MatchString(address) {
		return wrap(unix.EINVAL, "%q is not the address of a client of Ceph, such as 10.0.0.1:0/1234", address)
	}
	arguments["prefix"], arguments["blocklistop"], arguments["addr"] = "osd blocklist", change, address
	if _, err := c.command(arguments); err != nil {
		return err
	}
	listed, err := c.Blocklist()
	if err != nil {
		return err
	}
	if _, isListed := listed[address]; isListed != (change == "add") {
		return wrap(unix.EIO, "osd blocklist %s %s of Ceph cluster %s was accepted, but the blocklist does not show it",
			change, address, c.id)
	}
	return wrap(c.conn.WaitForLatestOSDMap(), "read the map of Ceph cluster %s", c.id)
}

// plainAddress returns an address without the version of the protocol, which Ceph writes before
// some.
func plainAddress(address string) string {
	for _, prefix := range []string{"v1:", "v2:", "any:"} {
		address = strings.TrimPrefix(address, prefix)
	}
	return address
}

// poolDetail is a pool in the answer to `osd pool ls detail`.
type poolDetail struct {
	Name     string `json:"pool_name"`
	QuotaMax uint64 `json:"quota_max_bytes"`
	Flags    string `json:"flags_names"` // separated by commas
	Groups   uint32 `json:"pg_num"`
	Hash     int    `json:"object_hash"`
}

// poolDetail reads a pool. ENOENT.
func (c *connection) poolDetail(name string) (poolDetail, error) {
	var details []poolDetail
	if err := c.query("osd pool ls", "detail", &details); err != nil {
		return poolDetail{}, err
	}
	index := slices.IndexFunc(details, func(p poolDetail) bool { return p.Name == name })
	if index < 0 {
		return poolDetail{}, wrap(unix.ENOENT, "find pool %s of Ceph cluster %s", name, c.id)
	}
	return details[index], nil
}

// PoolUsage implements ceph.Cluster, by three requests. Flags also has those of the whole cluster
// that stop writes: pausewr, full.
func (c *connection) PoolUsage(name string) (ceph.PoolUsage, error) {
	detail, err := c.poolDetail(name)
	if err != nil {
		return ceph.PoolUsage{}, err
	}
	usage := ceph.PoolUsage{QuotaBytes: detail.QuotaMax}
	stops := []string{"full", "full_quota"}
	for flag := range strings.SplitSeq(detail.Flags, ",") {
		if slices.Contains(stops, flag) {
			usage.Flags = append(usage.Flags, flag)
		}
	}
	clusterFlags, err := c.clusterFlags()
	if err != nil {
		return ceph.PoolUsage{}, err
	}
	for _, flag := range clusterFlags {
		if (flag == "full" || flag == "pausewr") && !slices.Contains(usage.Flags, flag) {
			usage.Flags = append(usage.Flags, flag)
		}
	}
	usage.IsFull = slices.ContainsFunc(usage.Flags, func(flag string) bool { return slices.Contains(stops, flag) })
	usage.Stored, usage.MaxAvail, err = c.poolSpace(name)
	return usage, err
}

// clusterFlags returns the flags of the whole cluster. The health has them; the map of the cluster,
// which has them too, is megabytes in a cluster of thousands of disks.
func (c *connection) clusterFlags() ([]string, error) {
	var health struct {
		Checks map[string]struct {
			Summary struct {
				Message string `json:"message"`
			} `json:"summary"`
		} `json:"checks"`
	}
	if err := c.query("health", "", &health); err != nil {
		return nil, err
	}
	flags, _, _ := strings.Cut(health.Checks["OSDMAP_FLAGS"].Summary.Message, " ") // "pauserd,pausewr flag(s) set"
	return strings.Split(flags, ","), nil
}

// poolSpace returns the space of a pool in bytes.
func (c *connection) poolSpace(name string) (stored, available uint64, err error) {
	var df struct {
		Pools []struct {
			Name  string `json:"name"`
			Stats struct {
				Stored   uint64 `json:"stored"`
				MaxAvail uint64 `json:"max_avail"`
			} `json:"stats"`
		} `json:"pools"`
	}
	if err := c.query("df", "", &df); err != nil {
		return 0, 0, err
	}
	for _, p := range df.Pools {
		if p.Name == name {
			return p.Stats.Stored, p.Stats.MaxAvail, nil
		}
	}
	return 0, 0, wrap(unix.ENOENT, "find the space of pool %s of Ceph cluster %s", name, c.id)
}
