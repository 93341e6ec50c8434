package fakecloud_test

import (
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/tests/fakecloud"
)

var updateDiscovery = flag.Bool("update-discovery", false, "record the version documents of the real cloud")

// discoveryFile has the version documents of a real cloud.
var discoveryFile = filepath.Join("testdata", "zed-discovery.json")

// discoveryAnswer is a whole answer to a request for a version document: clients read its values,
// so that more than the types is compared. The address of the service is "URL".
type discoveryAnswer struct {
	Label  string      `json:"label"`
	Status int         `json:"status"`
	Header http.Header `json:"header"`
	Body   any         `json:"body"`
}

// discoveryCalls are the requests for version documents, with the addresses that clients form from
// those of a catalog, with and without a token. They change nothing.
func discoveryCalls() []apiCall {
	var calls []apiCall
	for _, path := range []string{
		"root:", "root:/", "root:/v3", "root:/v3/", "novaroot:", "novaroot:/", "compute:", "compute:/", "compute:/{project}/",
	} {
		calls = append(calls, httpGet(path, path), httpGet(path+" without a token", path).withoutToken())
	}
	return append(calls,
		httpGet("cinder project", ""), httpGet("cinder project/", "/"),
		httpGet("cinder project without a token", "/").withoutToken(),
		httpGet("compute:/ at 2.60", "compute:/").with("OpenStack-API-Version", "compute 2.60"),
		httpGet("compute:/ at 2.999", "compute:/").with("OpenStack-API-Version", "compute 2.999"),
		httpGet("compute:/ at x", "compute:/").with("OpenStack-API-Version", "compute x"),
		httpGet("root:/v3/ at x", "root:/v3/").at("x"),
		httpGet("compute:/servers of the project", "compute:/{project}/servers?limit=1").withoutToken(),
		httpGet("root:/v3/ at 3.42", "root:/v3/").at("3.42"),
		httpGet("root:/v3/ at 3.999", "root:/v3/").at("3.999"),
	)
}

// readDiscovery returns the version documents of a cloud.
func readDiscovery(c *comparedCloud) []discoveryAnswer {
	c.Helper()
	root, _, _ := strings.Cut(c.volume, "/v3")
	novaRoot := strings.TrimSuffix(c.compute, "/v2.1")
	keystone, _, _ := strings.Cut(c.identity, "/v3")
	addresses := strings.NewReplacer(root, "URL", novaRoot, "URL", keystone, "URL")
	var all []discoveryAnswer
	for _, call := range discoveryCalls() {
		reply := c.send(call)
		a := discoveryAnswer{Label: call.label, Status: reply.status, Header: http.Header{}}
		for _, name := range []string{"Content-Type", "Openstack-Api-Version", "Www-Authenticate", "Location"} {
			for _, value := range reply.header.Values(name) {
				a.Header.Add(name, addresses.Replace(value))
			}
		}
		text := c.fillNames(addresses.Replace(string(reply.body)))
		if err := json.Unmarshal([]byte(text), &a.Body); err != nil {
			a.Body = text
		}
		all = append(all, a)
	}
	return all
}

// fillNames replaces the IDs of this cloud by the {names} of the script.
func (c *comparedCloud) fillNames(text string) string {
	return strings.ReplaceAll(text, c.ids["project"], "{project}")
}

// fakeDiscovery returns the version documents of the fake.
func fakeDiscovery(t *testing.T) []discoveryAnswer {
	t.Helper()
	path, err := fakecloud.Start(t, fakecloud.Options{}).WriteCloudsYAML(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return readDiscovery(openCloud(t, path))
}

func compareDiscovery(t *testing.T, want, got []discoveryAnswer) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("got %d answers of the fake, want %d", len(got), len(want))
	}
	for _, w := range want {
		i := slices.IndexFunc(got, func(a discoveryAnswer) bool { return a.Label == w.Label })
		if i < 0 || !reflect.DeepEqual(got[i], w) {
			t.Errorf("%s: got of the fake\n\t%+v\nwant as of the real cloud\n\t%+v", w.Label, got[max(i, 0)], w)
		}
	}
}

// TestFakeDiscoveryIsAsRecorded compares the version documents of the fake with the recorded ones
// of a real Cinder and Nova: statuses, headers and whole bodies.
func TestFakeDiscoveryIsAsRecorded(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(discoveryFile)
	if err != nil {
		t.Fatal(err)
	}
	var want []discoveryAnswer
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	compareDiscovery(t, want, fakeDiscovery(t))
}

// TestFakeDiscoveryIsAsInRealCloud compares them with those of a real cloud that runs. It only
// reads. With the flag -update-discovery it also records them.
func TestFakeDiscoveryIsAsInRealCloud(t *testing.T) {
	t.Parallel()
	path := os.Getenv(realCloudVariable)
	if path == "" {
		t.Skipf("no real cloud: %s is not set", realCloudVariable)
	}
	want := readDiscovery(openCloud(t, path))
	if *updateDiscovery {
		var lines []string
		for _, a := range want {
			raw, err := json.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, string(raw))
		}
		if err := os.WriteFile(discoveryFile, []byte("[\n"+strings.Join(lines, ",\n")+"\n]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	compareDiscovery(t, want, fakeDiscovery(t))
}
