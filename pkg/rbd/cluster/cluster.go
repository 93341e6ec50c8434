// Package cluster reads which Ceph clusters there are and the keys for them: a JSON file in the form
// of ceph-csi's config.json, and a directory with mounted secrets. Both halves of the RBD backend
// use it; it links no Ceph library.
package cluster

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// Cluster is what a client needs in order to connect to a cluster.
type Cluster struct {
	ID        string
	Monitors  []string // as the file has them: host, host:port or [v2:host:port,v1:host:port]
	Namespace string   // RADOS namespace of classes that name none
	User      string   // without "client."
	Key       string   // base64; never logged
}

// String describes c without its key.
func (c Cluster) String() string {
	return fmt.Sprintf("cluster %s (monitors %s, user %s)", c.ID, c.MonHost(), c.User)
}

// GoString implements fmt.GoStringer, without the key.
func (c Cluster) GoString() string { return c.String() }

// LogValue implements slog.LogValuer, without the key.
func (c Cluster) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", c.ID), slog.String("monitors", c.MonHost()), slog.String("user", c.User))
}

// Keys of the secrets of ceph-csi.
const (
	secretUserID   = "userID"
	secretUserKey  = "userKey"
	secretAdminID  = "adminID"
	secretAdminKey = "adminKey"
)

// WithSecrets returns c with the user and the key of the secrets of a CSI request: userID and
// userKey, or adminID and adminKey. Without them it returns c. Errors by kind: Invalid if the
// secrets have only one of the two, or a key that is not base64; Internal if neither they nor the
// files have a user and a key.
func (c Cluster) WithSecrets(secrets map[string]string) (Cluster, error) {
	user, key := secrets[secretUserID], secrets[secretUserKey]
	if user == "" && key == "" {
		user, key = secrets[secretAdminID], secrets[secretAdminKey]
	}
	switch {
	case user != "" && key != "":
		c.User, c.Key = cleanUser(user), strings.TrimSpace(key)
	case user != "" || key != "":
		return Cluster{}, volume.Errorf(volume.KindInvalid,
			"the secret of the request has only one of the user and the key of Ceph cluster %s", c.ID).
			WithRemedy(fmt.Sprintf("set both %s and %s in it", secretUserID, secretUserKey))
	}
	if c.User == "" || c.Key == "" {
		return Cluster{}, volume.Errorf(volume.KindInternal,
			"no user and key for Ceph cluster %s: neither the mounted secret nor the secret of the request has them", c.ID).
			WithRemedy(fmt.Sprintf("set %s and %s in the secret that is mounted into the driver", secretUserID, secretUserKey))
	}
	if !isKey(c.Key) {
		return Cluster{}, volume.Errorf(volume.KindInvalid,
			"the key of user %s for Ceph cluster %s is not a key: it is not base64", c.User, c.ID).
			WithRemedy("compare it with the output of: ceph auth get-key client." + c.User)
	}
	return c, nil
}

// cleanUser returns the user without the type that Ceph writes before it.
func cleanUser(user string) string {
	return strings.TrimPrefix(strings.TrimSpace(user), "client.")
}

// isKey reports whether the text can be a key of cephx.
func isKey(text string) bool {
	decoded, err := base64.StdEncoding.DecodeString(text)
	return err == nil && len(decoded) > 0
}

// MonHost returns the monitors as the option mon_host of Ceph's libraries takes them.
func (c Cluster) MonHost() string { return strings.Join(c.Monitors, ",") }

// KernelMonitors returns the monitors as the kernel's client takes them, host:port: v1 for the
// first version of the protocol, v2 for the second one, which needs the map option ms_mode. One of
// the two may be empty. Of a monitor without a version the port decides; without a port it is in both.
func (c Cluster) KernelMonitors() (v1, v2 []string) {
	for _, monitor := range c.Monitors {
		for _, address := range splitAddresses(monitor) {
			version, host, port := parseAddress(address)
			if version == "v1" || version == "" && port != portV2 {
				v1 = append(v1, host+":"+cmp.Or(port, portV1))
			}
			if version == "v2" || version == "" && (port == portV2 || port == "") {
				v2 = append(v2, host+":"+cmp.Or(port, portV2))
			}
		}
	}
	return v1, v2
}

// Default ports of monitors.
const (
	portV1 = "6789"
	portV2 = "3300"
)

// splitAddresses returns the addresses of one monitor: those within brackets, or several that are
// separated by commas. The brackets of an IPv6 address stay.
func splitAddresses(monitor string) []string {
	monitor = strings.TrimSpace(monitor)
	inner, hasBracket := strings.CutPrefix(monitor, "[")
	if hasBracket && (strings.HasPrefix(inner, "v1:") || strings.HasPrefix(inner, "v2:")) {
		monitor = strings.TrimSuffix(inner, "]")
	}
	return strings.Split(monitor, ",")
}

// parseAddress parses [v1:|v2:]host[:port][/nonce]; the host may be an IPv6 address in brackets.
func parseAddress(address string) (version, host, port string) {
	address, _, _ = strings.Cut(strings.TrimSpace(address), "/")
	for _, v := range []string{"v1", "v2"} {
		if rest, ok := strings.CutPrefix(address, v+":"); ok {
			version, address = v, rest
		}
	}
	end := strings.LastIndex(address, "]") // of an IPv6 address, or -1
	if colon := strings.LastIndex(address, ":"); colon > end && strings.Count(address[end+1:], ":") == 1 {
		return version, address[:colon], address[colon+1:]
	}
	if end < 0 && strings.Contains(address, ":") {
		return version, "[" + address + "]", "" // an IPv6 address without brackets has no port
	}
	return version, address, ""
}
