package cluster

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// testKey has the form of a key of cephx.
const testKey = "AQDfUW9lAAAAABAAc2VjcmV0c2VjcmV0c2VjcmV0cw=="

func TestKernelMonitors(t *testing.T) {
	for _, c := range []struct{ monitors, v1, v2 string }{
		{"10.0.0.1:6789", "10.0.0.1:6789", ""},
		{"10.0.0.1:3300", "", "10.0.0.1:3300"},
		{"10.0.0.1", "10.0.0.1:6789", "10.0.0.1:3300"},
		{"mon.example", "mon.example:6789", "mon.example:3300"},
		{"10.0.0.1:7000", "10.0.0.1:7000", ""},
		{"[v2:10.0.0.1:3300,v1:10.0.0.1:6789]", "10.0.0.1:6789", "10.0.0.1:3300"},
		{"[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]", "10.0.0.1:6789", "10.0.0.1:3300"},
		{"[v1:10.0.0.1:6789] [v1:10.0.0.2:6789]", "10.0.0.1:6789 10.0.0.2:6789", ""},
		{"v2:10.0.0.1:3300", "", "10.0.0.1:3300"},
		{"v1:10.0.0.1:9000", "10.0.0.1:9000", ""},
		{"10.0.0.1:6789,10.0.0.2:6789", "10.0.0.1:6789 10.0.0.2:6789", ""},
		{"[fd00::1]:6789", "[fd00::1]:6789", ""},
		{"fd00::1", "[fd00::1]:6789", "[fd00::1]:3300"},
		{"[fd00::1]", "[fd00::1]:6789", "[fd00::1]:3300"},
		{"[v2:[fd00::1]:3300,v1:[fd00::1]:6789]", "[fd00::1]:6789", "[fd00::1]:3300"},
	} {
		v1, v2 := Cluster{Monitors: strings.Fields(c.monitors)}.KernelMonitors()
		if !slices.Equal(v1, strings.Fields(c.v1)) || !slices.Equal(v2, strings.Fields(c.v2)) {
			t.Errorf("%s: got v1 %v and v2 %v, want [%s] and [%s]", c.monitors, v1, v2, c.v1, c.v2)
		}
	}
}

func TestSecretsOfARequestOverrideTheFiles(t *testing.T) {
	mounted := Cluster{ID: "a", User: "csi", Key: testKey}
	const other = "b3RoZXI="
	for name, c := range map[string]struct {
		cluster   Cluster
		secrets   map[string]string
		user, key string
	}{
		"none":           {mounted, nil, "csi", testKey},
		"empty":          {mounted, map[string]string{"userID": "", "userKey": ""}, "csi", testKey},
		"others":         {mounted, map[string]string{"encryptionPassphrase": "x"}, "csi", testKey},
		"user":           {mounted, map[string]string{"userID": "tenant", "userKey": other}, "tenant", other},
		"user with type": {mounted, map[string]string{"userID": "client.tenant", "userKey": other + "\n"}, "tenant", other},
		"administrator":  {mounted, map[string]string{"adminID": "admin", "adminKey": other}, "admin", other},
		"without files":  {Cluster{ID: "a"}, map[string]string{"userID": "tenant", "userKey": other}, "tenant", other},
	} {
		got, err := c.cluster.WithSecrets(c.secrets)
		if err != nil || got.User != c.user || got.Key != c.key || got.ID != "a" {
			t.Errorf("%s: got user %q, key %q (%v), want %q, %q", name, got.User, got.Key, err, c.user, c.key)
		}
	}
}

func TestSecretsThatCannotWork(t *testing.T) {
	mounted := Cluster{ID: "a", User: "csi", Key: testKey}
	for name, c := range map[string]struct {
		cluster Cluster
		secrets map[string]string
		kind    volume.Kind
	}{
		"no key":          {mounted, map[string]string{"userID": "csi"}, volume.KindInvalid},
		"no user":         {mounted, map[string]string{"userKey": testKey}, volume.KindInvalid},
		"no base64":       {mounted, map[string]string{"userID": "csi", "userKey": "s3cret!"}, volume.KindInvalid},
		"none at all":     {Cluster{ID: "a"}, nil, volume.KindInternal},
		"wrong in a file": {Cluster{ID: "a", User: "csi", Key: "s3cret!"}, nil, volume.KindInvalid},
	} {
		_, err := c.cluster.WithSecrets(c.secrets)
		volumetest.WantKind(t, err, c.kind, "cluster a")
		for _, secret := range []string{testKey, "s3cret!"} {
			if strings.Contains(fmt.Sprint(err), secret) {
				t.Errorf("%s: the error has the key: %v", name, err)
			}
		}
	}
}

func TestKeyIsNeverPrinted(t *testing.T) {
	c := Cluster{ID: "a", Monitors: []string{"10.0.0.1"}, User: "csi", Key: testKey}
	var log bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(handler).Info("test", "cluster", c, "pointer", &c)
	}
	for _, text := range []string{
		fmt.Sprint(c), fmt.Sprintf("%v %+v %#v %s %q", c, c, c, c, c), fmt.Sprintf("%v %+v", &c, []Cluster{c}), log.String(),
	} {
		if strings.Contains(text, testKey) || !strings.Contains(text, "10.0.0.1") {
			t.Errorf("got %s, want the monitors and no key", text)
		}
	}
}
