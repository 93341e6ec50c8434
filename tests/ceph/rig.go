package ceph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
)

// This file holds Rig: the running Ceph and its tools.

// The pools of the rig; rig/cluster.py creates them.
const (
	Pool      = "volumes" // replicated
	OtherPool = "other"   // replicated
	SmallPool = "small"   // replicated; tests set its quota
	// SanityPool is replicated, and the only pool that the user of the keys in SanityKeys may read.
	SanityPool = "sanity"
	DataPool   = "ecdata" // erasure-coded
	Namespace  = "tenant" // of the pool volumes
)

// SanityKeys is the directory below Dir with the keys of the user of SanityPool.
const SanityKeys = "keys-sanity"

// The clusters of config.json. Both are the rig; of the second, classes use the namespace.
const (
	Cluster       = "rig"
	TenantCluster = "tenant"
)

// insideVariable is set in processes that run in the namespace of the rig.
const insideVariable = "GROWVOL_CEPH_INSIDE"

// EnterNamespace starts this program again in the network namespace of the rig with the state
// directory dir, unless it is there: from elsewhere nothing reaches Ceph or the guests. Programs
// that need the network of the machine run before. It returns only an error, or nil in the
// namespace.
func EnterNamespace(dir string) error {
	namespace := filepath.Base(dir)
	if os.Getenv(insideVariable) == namespace {
		return nil
	}
	ip, err := exec.LookPath("ip")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	argv := append([]string{ip, "netns", "exec", namespace, self}, os.Args[1:]...)
	return fmt.Errorf("start %s again in the namespace %s: %w", self, namespace,
		unix.Exec(ip, argv, append(os.Environ(), insideVariable+"="+namespace)))
}

// Rig is a Ceph that runs on this machine.
type Rig struct {
	Dir string // state directory: ceph.conf, config.json, keys/, log/

	programs string // directory of this package
}

// Open returns the rig with this state directory. programs is the directory of this package.
func Open(dir, programs string) *Rig { return &Rig{Dir: dir, programs: programs} }

// Tool runs one of Ceph's programs (ceph, rbd, rados) as the administrator and returns its standard
// output. An error contains its standard error.
func (r *Rig) Tool(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // tools of the rig
	cmd.Env = append(os.Environ(), "CEPH_ARGS=--conf "+r.Dir+"/ceph.conf --name client.admin")
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w\n%s", err, exit.Stderr)
		}
		return "", fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// ToolJSON is Tool with --format=json. It decodes the output into answer.
func (r *Rig) ToolJSON(ctx context.Context, answer any, program string, args ...string) error {
	out, err := r.Tool(ctx, program, append(args, "--format=json")...)
	if err != nil {
		return err
	}
	// Some commands print a second value after the answer.
	if err := json.NewDecoder(strings.NewReader(out)).Decode(answer); err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, out)
	}
	return nil
}

// ControlService pauses, continues, stops, kills or starts a daemon, such as osd.0.
func (r *Rig) ControlService(ctx context.Context, action, name string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(r.programs, "service"), action, name) //nolint:gosec // as above
	cmd.Env = append(os.Environ(), "GROWVOL_CEPH_DIR="+r.Dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("service %s %s: %w: %s", action, name, err, out)
	}
	return nil
}

// ImageInfo is what Ceph's own tool knows of an image.
type ImageInfo struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Size     int64    `json:"size"` // bytes
	Features []string `json:"features"`
	DataPool string   `json:"data_pool"`
	Flags    []string `json:"flags"` // such as "object map invalid"
}

// Image returns the properties of an image, named pool[/namespace]/image.
func (r *Rig) Image(ctx context.Context, name string) (ImageInfo, error) {
	var info ImageInfo
	err := r.ToolJSON(ctx, &info, "rbd", "info", name)
	return info, err
}

// Watchers returns the addresses of the clients that have the image open for writing.
func (r *Rig) Watchers(ctx context.Context, image string) ([]string, error) {
	var status struct {
		Watchers []struct {
			Address string `json:"address"`
		} `json:"watchers"`
	}
	if err := r.ToolJSON(ctx, &status, "rbd", "status", image); err != nil {
		return nil, err
	}
	var addresses []string
	for _, w := range status.Watchers {
		addresses = append(addresses, w.Address)
	}
	return addresses, nil
}

// Blocklist returns the addresses of the fenced clients.
func (r *Rig) Blocklist(ctx context.Context) ([]string, error) {
	out, err := r.Tool(ctx, "ceph", "osd", "blocklist", "ls", "--format=json")
	if err != nil {
		return nil, err
	}
	var addresses []string
	decoder := json.NewDecoder(strings.NewReader(out))
	for decoder.More() { // two lists, one after the other: addresses, and ranges of addresses
		var entries []struct {
			Address string `json:"addr"`
		}
		if err := decoder.Decode(&entries); err != nil {
			return nil, fmt.Errorf("ceph osd blocklist ls: %w: %s", err, out)
		}
		for _, e := range entries {
			addresses = append(addresses, e.Address)
		}
	}
	return addresses, nil
}

// WaitUntil calls holds until it returns true or an error, or ctx ends. what is the condition, for
// the error.
func WaitUntil(ctx context.Context, what string, holds func(context.Context) (bool, error)) error {
	start := time.Now()
	for {
		switch ok, err := holds(ctx); {
		case err != nil:
			return fmt.Errorf("%s: %w", what, err)
		case ok:
			return nil
		}
		if err := operation.Sleep(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("%s: not within %.0f s: %w", what, time.Since(start).Seconds(), err)
		}
	}
}
