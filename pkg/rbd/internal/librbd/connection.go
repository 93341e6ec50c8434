//go:build ceph

package librbd

import (
	"encoding/base64"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/ceph/go-ceph/rados"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// connection implements ceph.Cluster. Its pools are opened once and closed with it.
type connection struct {
	conn *rados.Conn
	id   string // of the cluster in the configuration
	fsid string

	mu     sync.Mutex
	pools  map[poolKey]*pool // guarded by mu
	opened []*pool           // guarded by mu: all pools, also those that were removed meanwhile
}

type poolKey struct{ name, namespace string }

// Check reports whether the program can connect to Ceph at all.
func (Dialer) Check() error { return nil }

// Connect implements ceph.Dialer. It fails within about 10 seconds if no monitor answers
// (ETIMEDOUT); EACCES or EPERM: the cluster does not accept the user and the key; EINVAL: the
// configuration cannot be right.
func (Dialer) Connect(c cluster.Cluster) (ceph.Cluster, error) {
	if c.User == "" || c.Key == "" || len(c.Monitors) == 0 {
		return nil, wrap(unix.EINVAL, "connect to Ceph cluster %s: its monitors, its user or its key is missing", c.ID)
	}
	if !isKey(c.Key) { // librados writes such a key to the standard error
		return nil, wrap(unix.EINVAL, "connect to Ceph cluster %s: the key of client.%s is not a key of Ceph", c.ID, c.User)
	}
	conn, err := rados.NewConnWithUser(c.User)
	if err != nil {
		return nil, wrap(err, "prepare a connection to Ceph cluster %s", c.ID)
	}
	for _, o := range options(c) {
		if err := conn.SetConfigOption(o.name, o.value); err != nil {
			return nil, wrap(err, "prepare a connection to Ceph cluster %s: set option %s", c.ID, o.name)
		}
	}
	if err := conn.Connect(); err != nil {
		return nil, wrap(err, "connect to Ceph cluster %s at %s as client.%s", c.ID, c.MonHost(), c.User)
	}
	fsid, err := conn.GetFSID()
	if err != nil {
		conn.Shutdown()
		return nil, wrap(err, "read the fsid of Ceph cluster %s", c.ID)
	}
	return &connection{conn: conn, id: c.ID, fsid: fsid, pools: make(map[poolKey]*pool)}, nil
}

// isKey reports whether the text is a key of cephx: in base64, a header of 12 bytes that ends with
// the length of the rest (Ceph, CryptoKey::encode).
func isKey(text string) bool {
	const header = 12
	key, err := base64.StdEncoding.DecodeString(text)
	return err == nil && len(key) > header && int(binary.LittleEndian.Uint16(key[header-2:])) == len(key)-header
}

type option struct{ name, value string }

// options returns the options of a connection. No configuration file is read, and options that are
// set here override those that the monitors distribute.
func options(c cluster.Cluster) []option {
	return []option{
		{"mon_host", c.MonHost()},
		{"key", c.Key},
		{"keyring", "/dev/null"}, // otherwise the default files are read

		{"client_mount_timeout", "10"}, // seconds to connect
		{"rados_mon_op_timeout", "20"}, // seconds
		// A resize waits up to 28 seconds for a node that is cut off, in notifications that have
		// time-outs of their own.
		{"rados_osd_op_timeout", "45"},
		// With true, a resize fences a node that is cut off for half a minute.
		{"rbd_blocklist_on_break_lock", "false"},
		{"rbd_default_clone_format", "2"},
		{"rbd_cache", "false"}, // this program reads and writes no data

		// No files, and nothing on the standard error, which has the program's own log.
		{"log_file", ""},
		{"log_to_stderr", "false"},
		{"err_to_stderr", "false"},
		{"log_to_syslog", "false"},
		{"err_to_syslog", "false"},
		{"admin_socket", ""},
		{"crash_dir", ""},

		{"log_max_recent", "1"},      // entries of the log that are kept in memory: nobody reads them
		{"ms_async_op_threads", "1"}, // this program moves no data: one thread is enough for the network
	}
}

// FSID implements ceph.Cluster.
func (c *connection) FSID() string { return c.fsid }

// Pool implements ceph.Cluster. A pool that was removed and made again is another pool.
func (c *connection) Pool(name, namespace string) (ceph.Pool, error) {
	id, err := c.conn.GetPoolByName(name)
	if err != nil {
		return nil, wrap(err, "open pool %s of Ceph cluster %s", name, c.id)
	}
	key := poolKey{name, namespace}
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.pools[key]; known != nil && known.ID() == id {
		return known, nil
	}
	p, err := openPool(c, key)
	if err != nil {
		return nil, err
	}
	c.pools[key], c.opened = p, append(c.opened, p)
	return p, nil
}

// PoolName implements ceph.Cluster.
func (c *connection) PoolName(id int64) (string, error) {
	name, err := c.conn.GetPoolByID(id)
	return name, wrap(err, "find pool %d of Ceph cluster %s", id, c.id)
}

// Pools implements ceph.Cluster.
func (c *connection) Pools() ([]string, error) {
	names, err := c.conn.ListPools()
	names = slices.DeleteFunc(names, func(name string) bool { return name == "" })
	return names, wrap(err, "list the pools of Ceph cluster %s", c.id)
}

// Close implements ceph.Cluster. No call may be running.
func (c *connection) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.opened {
		p.close()
	}
	c.pools, c.opened = nil, nil
	c.conn.Shutdown()
}
