package cloud

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestLoginSendsTheConfiguredCredentials(t *testing.T) {
	const url = "auth-url = URL\n"
	for name, c := range map[string]struct{ conf, identity, scope string }{
		"password": {
			"username = u\npassword = p\nuser-domain-name = ud\ntenant-name = t\ntenant-domain-name = td\n",
			`{"methods":["password"],"password":{"user":{"domain":{"name":"ud"},"name":"u","password":"p"}}}`,
			`{"project":{"domain":{"name":"td"},"name":"t"}}`,
		},
		"user and project by id": {
			"user-id = ui\npassword = p\nproject-id = pi\ndomain-id = d\n",
			`{"methods":["password"],"password":{"user":{"id":"ui","password":"p"}}}`, `{"project":{"id":"pi"}}`,
		},
		"one domain for all": {
			"username = u\npassword = p\ndomain-id = d\ntenant-name = t\n",
			`{"methods":["password"],"password":{"user":{"domain":{"id":"d"},"name":"u","password":"p"}}}`,
			`{"project":{"domain":{"id":"d"},"name":"t"}}`,
		},
		"application credential": {
			"application-credential-id = ai\napplication-credential-secret = as\ntenant-name = t\n",
			`{"application_credential":{"id":"ai","secret":"as"},"methods":["application_credential"]}`, `null`,
		},
		"application credential by name": {
			"application-credential-name = an\napplication-credential-secret = as\nusername = u\nuser-domain-name = " +
				"ud\npassword = p\n",
			`{"application_credential":{"name":"an","secret":"as","user":{"domain":{"name":"ud"},"name":"u"}},` +
				`"methods":["application_credential"]}`, `null`,
		},
		"trust": {
			"trust-id = ti\ntrustee-id = te\ntrustee-password = tp\nusername = u\npassword = p\n",
			`{"methods":["password"],"password":{"user":{"id":"te","password":"tp"}}}`, `{"OS-TRUST:trust":{"id":"ti"}}`,
		},
		"token": {
			"token = tok\ntenant-id = pi\nusername = u\n",
			`{"methods":["token"],"token":{"id":"tok"}}`, `{"project":{"id":"pi"}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeystone(t)
			_, err := k.clouds(t, "cloud.conf", "[Global]\n"+url+c.conf)
			must(t, err)
			auth, _ := k.asked["auth"].(map[string]any)
			identity, _ := json.Marshal(auth["identity"])
			scope, _ := json.Marshal(auth["scope"])
			if string(identity) != c.identity || string(scope) != c.scope {
				t.Errorf("asked for\n%s in scope %s, want\n%s in scope %s", identity, scope, c.identity, c.scope)
			}
		})
	}
}

// A redirect would carry the token to wherever it points.
func TestRedirectsAreNotFollowed(t *testing.T) {
	var leaked string
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter,
		q *http.Request,
	) {
		leaked = q.Header.Get("X-Auth-Token")
	}))
	defer thief.Close()
	k := newKeystone(t)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		http.Redirect(w, q, thief.URL+q.URL.Path, http.StatusFound)
	}))
	defer front.Close()
	clouds, err := k.clouds(t, "clouds.yaml", yamlHead+"    block_storage_endpoint_override: "+front.URL+"/v3\n")
	must(t, err)
	cloud, err := clouds.Cloud(t.Context(), "")
	must(t, err)
	_, err = cloud.Volume(t.Context(), absentID)
	volumetest.WantKind(t, err, volume.KindUnavailable, "302 Found", "endpoint in the catalog")
	if leaked != "" {
		t.Error("the token went to another server")
	}
}

func TestWrongClockMakesNoExtraLogins(t *testing.T) {
	k := newKeystone(t)
	clouds, err := k.clouds(t, "clouds.yaml", yamlHead)
	must(t, err)
	c, err := clouds.Cloud(t.Context(), "")
	must(t, err)
	c.conn.renewAt = time.Time{} // as after a login whose token had ended by our clock
	k.paths = nil
	for range 3 {
		_, err := c.Zones(t.Context())
		must(t, err)
	}
	if len(k.paths) != 3 {
		t.Errorf("a wrong clock makes needless logins: %v", k.paths)
	}
}

// A login fails with what is wrong with the certificates of the cloud.
func TestBrokenCAFailsTheLogin(t *testing.T) {
	k := newKeystone(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, []byte("no PEM"), 0o600))
	_, err := k.clouds(t, "clouds.yaml", yamlHead+"    cacert: "+ca+"\n")
	volumetest.WantKind(t, err, volume.KindUnavailable, `cloud "c"`, "clouds.yaml", "holds no certificate")
	_, err = k.clouds(t, "clouds.yaml", strings.ReplaceAll(yamlHead, "URL/v3", `"http://[bad"`))
	volumetest.WantKind(t, err, volume.KindUnavailable, "auth-url")
}

// Addresses may contain a user and a password; no error quotes them: of an address that is broken,
// does not answer or is refused.
func TestPasswordsInAddressesAreNotQuoted(t *testing.T) {
	const planted = "s3cr3tOfUrl"
	k := newKeystone(t)
	address := strings.Replace(k.URL, "http://", "http://u:"+planted+"@", 1)
	var log strings.Builder
	for _, url := range []string{
		"http://u:" + planted + "@[bad", "http://u:" + planted + "@127.0.0.1:1", "http://u:" + planted + "@127.0.0.1:port",
		"http://u:" + planted + "%zz@k",
		"http://u:" + planted + "\x7f@k", "http://u:" + planted + "/x@k", address + "/refused",
	} {
		for _, key := range []string{"block_storage_endpoint_override", "compute_endpoint_override", "auth_url"} {
			text := yamlHead + "    " + key + ": \"" + url + "\"\n"
			if key == "auth_url" {
				text = strings.Replace(yamlHead, "URL/v3", `"`+url+`"`, 1)
			}
			path := filepath.Join(t.TempDir(), "clouds.yaml")
			must(t, os.WriteFile(path, []byte(strings.ReplaceAll(text, "URL", k.URL)), 0o600))
			clouds, err := open(t.Context(), Options{CloudsYAML: path, Log: slog.New(slog.NewTextHandler(&log, nil))},
				fastTuning())
			if err == nil {
				var c *Cloud
				if c, err = clouds.Cloud(t.Context(), ""); err == nil {
					_, errVolume := c.Volume(t.Context(), absentID)
					_, errServer := c.Server(t.Context(), absentID)
					err = errors.Join(errVolume, errServer)
				}
				clouds.Close()
			}
			if err == nil || strings.Contains(err.Error(), planted) {
				t.Errorf("%s: %s: %v", key, url, err)
			}
		}
	}
	if strings.Contains(log.String(), planted) || log.Len() == 0 {
		t.Errorf("logged %s", log.String())
	}
}
