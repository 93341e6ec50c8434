package redacted_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/growvol/growvol/pkg/claim/bundle/bundletest"
	"github.com/growvol/growvol/pkg/claim/bundle/redacted"
)

var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// The secrets that the tests hide. A test joins none of them with other letters.
const (
	word    = "hunter2zebra"
	jwt     = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJpc3MiOiJrdWJlcm5ldGVzL3NlcnZpY2VhY2NvdW50In0.c2lnbmF0dXJlLXg"
	fernet  = "gAAAAABnRk5Xq0Zs1m4YtQkP2r8v6w3x5y7z9A_bCdEfGh-IjKlMnOpQ=="
	cephKey = "AQBSdFhcGh4eGxAAHnBWpzYDTGMO2zhmVzQx8w=="
	random  = "x8Kq2Lm9Zp4Rt7Vw1Yb3Nc6Df5Gh0Js8Kq2Lm9Zp4Rt"
)

// pem returns the text of a private key. It is not written as one, so that no scanner reports it.
func pem() string {
	line := "MIIEowIBAAKCAQEA" + word + "Zebra\n"
	return "-----BEGIN RSA " + "PRIVATE KEY-----\n" + line + line + "-----END RSA " + "PRIVATE KEY-----\n"
}

// written returns the contents of the files of an archive, by name, after fill has filled it.
func written(t *testing.T, fill func(*redacted.Archive) error) map[string]string {
	t.Helper()
	var out bytes.Buffer
	a := redacted.New(&out, "bundle", now)
	if err := errors.Join(fill(a), a.Close()); err != nil {
		t.Fatal(err)
	}
	if err := redacted.Verify(bytes.NewReader(out.Bytes()), "bundle", a.Files()); err != nil {
		t.Error(err)
	}
	files, headers := bundletest.Unpack(t, out.Bytes())
	for _, header := range headers {
		if !header.ModTime.Equal(now) {
			t.Errorf("%s: got the time %s, want %s", header.Name, header.ModTime, now)
		}
	}
	return files
}

// redactText returns the text as the archive has it.
func redactText(t *testing.T, text string) string {
	t.Helper()
	return written(t, func(a *redacted.Archive) error { return a.AddText("a.log", text) })["a.log"]
}

// secretTexts returns texts that contain word or another secret. Beside it they have the word
// `visible`, which must stay.
func secretTexts() map[string]string {
	return map[string]string{
		"key=value":               "visible password=" + word + " visible",
		"key: value":              "visible os_password: " + word + ", visible",
		"line of YAML":            "visible: 1\npassword: correct " + word + " battery\nvisible: 2",
		"block of YAML":           "visible:\n  password: |\n    correct\n\n    " + word + "\n  visible: 1",
		"option with =":           "visible --client-secret=" + word + " visible",
		"option with a space":     "visible --os-password " + word + " visible",
		"quoted":                  `visible password="correct ` + word + `" visible`,
		"quoted with a quote":     `visible password="correct \"horse\" ` + word + `" visible`,
		"JSON":                    `{"visible":1,"applicationCredentialSecret":"correct ` + word + `","visible":2}`,
		"JSON in a quoted text":   `visible msg="{\"token\":\"correct \\\"horse\\\" ` + word + `\",\"visible\":2}"`,
		"Go map":                  "visible map[password:" + word + " visible]",
		"Go struct":               `visible {Password:` + word + ` visible}`,
		"Go slice":                "visible passwords:[correct " + word + "] visible",
		"query of a URL":          "visible http://a/b?token=" + word + "&visible=1",
		"userinfo of a URL":       "visible postgres://user:" + word + "@db:5432/visible",
		"userinfo without name":   "visible https://" + word + "@db/visible",
		"userinfo with a slash":   "visible amqp://user:a/" + word + "@mq:5672/visible",
		"userinfo with an at":     "visible amqp://user:a@" + word + "@mq:5672/visible",
		"header":                  "visible\nAuthorization: Digest username " + word + ", response=" + word + "\nvisible",
		"header in quotes":        `visible {"Authorization": "Digest a ` + word + `", "visible": 1}`,
		"header as one text":      `visible curl -H "Authorization: Custom a ` + word + `" visible`,
		"header as Go prints it":  "visible\nmap[Authorization:[Custom a " + word + "]]\nvisible",
		"bearer":                  "visible Bearer " + word + " visible",
		"basic":                   "visible basic aHVudGVyMnplYnJh= visible",
		"X-Auth-Token":            "visible X-Auth-Token: " + word + "\nvisible",
		"cookie":                  "visible\nSet-Cookie: a=" + word + "; b=" + word + "\nvisible",
		"JSON web token":          "visible " + jwt + " visible",
		"token of Keystone":       "visible " + fernet + " visible",
		"key of Ceph":             "visible " + cephKey + " visible",
		"keyring":                 "visible [client.admin]\n\tkey = " + cephKey + "\n\tcaps mon = \"visible\"",
		"private key":             "visible\n" + pem() + "visible",
		"private key without end": "visible\n-----BEGIN " + "PRIVATE KEY-----\n" + word + "\nx",
		"private key in JSON":     `visible {"a":"` + strings.ReplaceAll(pem(), "\n", `\n`) + `"} visible`,
		"long random word":        "visible " + random + " visible",
		"clouds.yaml":             "visible\nclouds:\n  west:\n    x: " + word + "\nvisible: 1",
		"indented clouds.yaml":    "visible: |\n  clouds:\n    west:\n\n      auth:\n        x: " + word + "\n  visible: 1",
		"cloud.conf":              "[Global]\nusername=visible\npassword=" + word + "\nvisible=1",
		"hash of a password":      "visible $6$saltsalt$" + strings.Repeat("aB3", 12) + " visible",
	}
}

func hasSecret(text string) bool {
	for _, secret := range []string{
		word, jwt, fernet, cephKey, random, "aHVudGVyMnplYnJh", "aB3aB3", "correct", "horse", "c2lnbmF0dXJl",
	} {
		if strings.Contains(text, secret) {
			return true
		}
	}
	return false
}

func TestTextsLoseTheirSecrets(t *testing.T) {
	for name, text := range secretTexts() {
		t.Run(name, func(t *testing.T) {
			got := redactText(t, text)
			if hasSecret(got) || !strings.Contains(got, "[redacted]") {
				t.Errorf("got\n%s\nof\n%s", got, text)
			}
			if !strings.Contains(got, "visible") {
				t.Errorf("got\n%s\nof\n%s\nwithout the text around the secret", got, text)
			}
		})
	}
}

func TestTextsKeepTheRest(t *testing.T) {
	for _, text := range []string{
		`MountVolume.SetUp failed for volume "data" : secret "db" not found`,
		"csi.storage.k8s.io/node-stage-secret-name: luks",
		"automountServiceAccountToken: false",
		"--extra-create-metadata --timeout=180s --clouds-yaml=/etc/openstack/clouds.yaml",
		"registry.k8s.io/csi-resizer@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		"/var/lib/kubelet/plugins/kubernetes.io/csi/loop.growvol.io/0123456789abcdef0123456789abcdef/globalmount",
		"0001-0009-rook-ceph-0000000000000001-0ab1c2d3-e4f5-4a6b-8c7d-9e0f1a2b3c4d",
		"GET https://nova.example.com:8774/v2.1/servers/0ab1c2d3 failed: 404",
		"I1128 12:00:00.000000       1 controller.go:240] Started VA processing \"csi-0123456789abcdef\"",
		"growvol_requests_total{method=\"/csi.v1.Controller/ControllerExpandVolume\",code=\"OK\"} 3",
		"admin@example.com",
	} {
		if got := redactText(t, text); got != text {
			t.Errorf("got\n%s\nwant\n%s", got, text)
		}
	}
}

// decode decodes YAML.
func decode(t *testing.T, text string) (object map[string]any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), &object); err != nil {
		t.Fatal(err)
	}
	return object
}

func TestObjectsLoseTheirSecrets(t *testing.T) {
	object := decode(t, `
apiVersion: v1
kind: Pod
metadata:
  name: visible-1
  managedFields: [{manager: hunter2zebra}]
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: '{"x":"hunter2zebra"}'
    other.kubernetes.io/last-applied-configuration: '{"x":"hunter2zebra"}'
    example.com/note: "the word is hunter2zebra"
    note: hunter2zebra
    pv.kubernetes.io/secret-note: hunter2zebra
    volume.kubernetes.io/selected-node: visible-2
  labels: {app: visible-3}
spec:
  containers:
    - name: visible-4
      args: [--token=hunter2zebra, --password, hunter2zebra, --backend=visible-5, "x --secret hunter2zebra"]
      command: [sh, -c, "PASSWORD=hunter2zebra visible-6"]
      env:
        - {name: VISIBLE_7, value: hunter2zebra}
        - {name: REF, valueFrom: {secretKeyRef: {name: visible-8, key: visible-9}}}
      livenessProbe: {httpGet: {httpHeaders: [{name: Authorization, value: "Custom hunter2zebra"}]}}
  imagePullSecrets: [{name: visible-10}]
  volumes:
    - {name: a, secret: {secretName: visible-11, items: [{key: visible-12, path: p}], other: hunter2zebra}}
    - {name: b, projected: {sources: [{serviceAccountToken: {path: visible-13, expirationSeconds: 3607}}]}}
  csi: {nodeStageSecretRef: {name: visible-14, namespace: visible-15}, volumeAttributes: {userKey: hunter2zebra}}
parameters:
  csi.storage.k8s.io/node-stage-secret-name: visible-16
  encryptionPassphrase: hunter2zebra
  adminPassword: 1234567
  secret: hunter2zebra
  nested: {tokens: [hunter2zebra, {a: hunter2zebra}]}
status: {message: "visible-17 password: hunter2zebra"}
`)
	files := written(t, func(a *redacted.Archive) error {
		return errors.Join(a.AddObject("a.yaml", object), a.AddObject("a.json", object))
	})
	var fromYAML, fromJSON any
	if err := yaml.Unmarshal([]byte(files["a.yaml"]), &fromYAML); err != nil {
		t.Errorf("the YAML is malformed: %v\n%s", err, files["a.yaml"])
	}
	if err := json.Unmarshal([]byte(files["a.json"]), &fromJSON); err != nil {
		t.Errorf("the JSON is malformed: %v\n%s", err, files["a.json"])
	}
	for name, text := range files {
		if hasSecret(text) || strings.Contains(text, "1234567") || strings.Contains(text, "managedFields") {
			t.Errorf("%s has a secret:\n%s", name, text)
		}
		for n := 1; n <= 17; n++ {
			want := "visible-" + string(rune('0'+n%10)) // VISIBLE_7 is a name of a variable
			if n >= 10 {
				want = "visible-1" + string(rune('0'+n-10))
			}
			if !strings.Contains(strings.ToLower(strings.ReplaceAll(text, "_", "-")), want) {
				t.Errorf("%s does not have %s:\n%s", name, want, text)
			}
		}
	}
}

// Each text is found as the value of any field, and of an annotation of Kubernetes.
func TestFieldsOfObjectsLoseTheirSecrets(t *testing.T) {
	for name, text := range secretTexts() {
		t.Run(name, func(t *testing.T) {
			files := written(t, func(a *redacted.Archive) error {
				object := func() map[string]any {
					return map[string]any{
						"message":  text,
						"metadata": map[string]any{"annotations": map[string]any{"a.k8s.io/x": text}},
						"list":     []any{text},
					}
				}
				return errors.Join(a.AddObject("a.yaml", object()), a.AddObject("a.json", object()))
			})
			for file, got := range files {
				if hasSecret(got) {
					t.Errorf("%s has the secret:\n%s", file, got)
				}
			}
			var decoded any
			if err := json.Unmarshal([]byte(files["a.json"]), &decoded); err != nil {
				t.Errorf("the JSON is malformed: %v\n%s", err, files["a.json"])
			}
			if err := yaml.Unmarshal([]byte(files["a.yaml"]), &decoded); err != nil {
				t.Errorf("the YAML is malformed: %v\n%s", err, files["a.yaml"])
			}
		})
	}
}

func TestSecretsAndConfigMapsAreRefused(t *testing.T) {
	for _, kind := range []string{"Secret", "ConfigMap", "SecretList"} {
		a := redacted.New(io.Discard, "bundle", now)
		object := map[string]any{"items": []any{map[string]any{"apiVersion": "v1", "kind": kind, "data": word}}}
		if err := a.AddObject("a.yaml", object); err == nil || len(a.Files()) > 0 {
			t.Errorf("%s: got the error %v and the files %v, want an error and no file", kind, err, a.Files())
		}
	}
}

func TestSameContentsMakeTheSameArchive(t *testing.T) {
	var archives [2]bytes.Buffer
	for i := range archives {
		a := redacted.New(&archives[i], "bundle", now)
		object := map[string]any{"a": 1, "b": map[string]any{"d": 9007199254740993, "c": "x"}}
		if err := errors.Join(a.AddObject("a.yaml", object), a.AddText("b.txt", "b"), a.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0].Bytes(), archives[1].Bytes()) {
		t.Error("got two different archives of the same contents")
	}
}

func TestVerifyFindsADamagedArchive(t *testing.T) {
	var out bytes.Buffer
	a := redacted.New(&out, "bundle", now)
	if err := errors.Join(a.AddText("a.txt", "a"), a.AddText("b.txt", "b"), a.Close()); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		archive []byte
		files   []redacted.File
	}{
		"cut off":      {out.Bytes()[:out.Len()/2], a.Files()},
		"file missing": {out.Bytes(), append(a.Files(), redacted.File{Name: "c.txt"})},
		"one more":     {out.Bytes(), a.Files()[:1]},
		"other size":   {out.Bytes(), []redacted.File{{Name: "a.txt", Bytes: 2}, a.Files()[1]}},
	} {
		if err := redacted.Verify(bytes.NewReader(test.archive), "bundle", test.files); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
