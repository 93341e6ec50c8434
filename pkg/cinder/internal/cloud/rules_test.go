package cloud

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// Parts of real answers.
const (
	serverID      = "11111111-1111-4111-8111-111111111111"
	otherServerID = "22222222-2222-4222-8222-222222222222"
	htmlPage      = "<html><body><h1>nginx</h1></body></html>"
)

func faultBody(message string) string { return `{"fault": {"code": 0, "message": "` + message + `"}}` }

// missingBody is a 404 of Cinder or Nova.
func missingBody(message string) string {
	return `{"itemNotFound": {"code": 404, "message": "` + message + `"}}`
}

// TestRulesGiveKindAndRemedy sends each row through the table; TestEveryRuleIsReached sees that
// there is a row for each rule.
func TestRulesGiveKindAndRemedy(t *testing.T) {
	for _, row := range ruleRows() {
		t.Run(row.name, func(t *testing.T) {
			err := newAnswer(row.call, row.response(), row.hasLostAttempt).toError()
			words := []string{row.call.what, "cinder answered", "req-1"}
			volumetest.WantKind(t, err, row.kind, append(words, row.words...)...)
			if StatusCode(err) != row.status {
				t.Errorf("status %d", StatusCode(err))
			}
			if strings.Contains(err.Error(), "nginx") {
				t.Errorf("a page of a proxy is quoted: %v", err)
			}
		})
	}
}

func TestEveryRuleIsReached(t *testing.T) {
	reached := map[int]bool{}
	table := rules()
	for _, row := range ruleRows() {
		a := newAnswer(row.call, row.response(), row.hasLostAttempt)
		for i, r := range table {
			if r.matches(a) {
				reached[i] = true
				break
			}
		}
	}
	for i, r := range table {
		if !reached[i] {
			t.Errorf("no row of the test reaches rule %d: %+v", i, r)
		}
	}
}

type ruleRow struct {
	name           string
	call           call
	status         int
	body           string
	retryAfter     string // Retry-After
	hasLostAttempt bool
	kind           volume.Kind
	words          []string
}

func (r ruleRow) response() gophercloud.ErrUnexpectedResponseCode {
	h := http.Header{"X-Openstack-Request-Id": {"req-1"}}
	if r.retryAfter != "" {
		h.Set("Retry-After", r.retryAfter)
	}
	return gophercloud.ErrUnexpectedResponseCode{Actual: r.status, Body: []byte(r.body), ResponseHeader: h}
}

func ruleRows() []ruleRow {
	get := call{
		service: blockStorage, name: "volume_get", what: "reading volume v", method: "GET", path: "/volumes/v",
		objects: []object{{"volume", "v"}},
	}
	extend := call{
		service: blockStorage, name: "volume_extend", what: "extending volume v to 3 GiB", method: "POST",
		path: "/volumes/v/action", objects: []object{{"volume", "v"}},
	}
	retype := call{
		service: blockStorage, name: "volume_retype", what: "changing the type of volume v", method: "POST",
		path:    "/volumes/v/action",
		objects: []object{{"volume", "v"}}, volumeType: "nope",
	}
	remove := call{
		service: blockStorage, name: "volume_delete", what: "deleting volume v", method: "DELETE",
		path: "/volumes/v", objects: []object{{"volume", "v"}},
	}
	attach := call{
		service: blockStorage, name: "volume_attach", what: "attaching volume v to server s", method: "POST",
		path: "/servers/s/os-volume_attachments", objects: []object{{"server", serverID}},
	}
	detach := call{
		service: blockStorage, name: "volume_detach", what: "detaching volume v from server s",
		method: "DELETE", path: "/servers/s/os-volume_attachments/v",
	}
	attachment := call{
		service: blockStorage, name: "attachment_get", what: "looking for volume v on server s", method: "GET",
		path:    "/servers/s/os-volume_attachments/v",
		objects: []object{{"server", "s"}, {"volume", "v"}},
	}
	login := call{
		service: blockStorage, name: "token_create", what: "logging in to cloud c", method: "POST",
		path: "/v3/auth/tokens",
	}
	return []ruleRow{
		{
			name: "wrong password", call: login, status: 401,
			body: faultBody("The request you have made requires authentication."),
			kind: volume.KindUnauthenticated, words: []string{"correct the credentials"},
		},
		{name: "login forbidden", call: login, status: 403, body: faultBody("no"), kind: volume.KindUnauthenticated},
		{
			name: "no Keystone there", call: login, status: 404, body: htmlPage, kind: volume.KindUnavailable,
			words: []string{"check auth-url"},
		},
		{
			name: "no such project", call: login, status: 404, body: faultBody("Could not find project: x."),
			kind: volume.KindUnavailable, words: []string{"Could not find project: x"},
		},

		{
			name: "a success that it is not", call: attach, status: 204, kind: volume.KindUnavailable,
			words: []string{"204 No Content", "check that the endpoint"},
		},
		{
			name: "redirect", call: get, status: 301, kind: volume.KindUnavailable,
			words: []string{"301 Moved Permanently", "endpoint in the catalog"},
		},
		{name: "400 of a proxy", call: get, status: 400, body: htmlPage, kind: volume.KindUnavailable},
		{
			name: "404 of a proxy", call: get, status: 404, body: htmlPage, kind: volume.KindUnavailable,
			words: []string{"check that the endpoint"},
		},
		{
			name: "404 of a wrong address", call: remove, status: 404, body: missingBody("The resource could not be found."),
			kind: volume.KindUnavailable, words: []string{"check that the endpoint"},
		},
		{
			name: "404 of a wrong address of Nova", call: attachment, status: 404,
			body: missingBody("The resource could not be found.<br /><br />"), kind: volume.KindUnavailable,
			words: []string{"check that the endpoint"},
		},
		{
			name: "not attached", call: attachment, status: 404, body: missingBody("Instance s is not attached to volume v"),
			kind: volume.KindNotFound,
		},
		{
			name: "no such type", call: retype, status: 404, body: missingBody("Volume type with name nope could not be found."),
			kind: volume.KindInvalid, words: []string{"with name nope", "correct the name"},
		},
		{
			name: "no such type, translated", call: retype, status: 404,
			body: missingBody("Datenträgertyp Nope wurde nicht gefunden."), kind: volume.KindInvalid,
		},
		{
			name: "no such volume to retype", call: retype, status: 404, body: missingBody("Volume v could not be found."),
			kind: volume.KindNotFound,
		},
		{
			name: "a type that the call does not name", call: extend, status: 404,
			body: missingBody("Volume type with name nope could not be found."), kind: volume.KindUnavailable,
			words: []string{"does not say that v does not exist"},
		},
		{name: "404 without a body", call: remove, status: 404, kind: volume.KindUnavailable},

		{
			name: "refused after a lost reply", call: remove, status: 400, body: faultBody("Volume status must be available"),
			hasLostAttempt: true, kind: volume.KindInProgress, words: []string{"an earlier attempt got no answer"},
		},

		{
			name: "attached here, multiattach", call: attach, status: 400,
			body: faultBody("Invalid volume: volume v already attached"),
			kind: volume.KindAlreadyExists,
		},
		{
			name: "attached here", call: attach, status: 400,
			body: faultBody("Invalid volume: volume v is already attached to instances: " + serverID),
			kind: volume.KindAlreadyExists,
		},
		{
			name: "attached elsewhere", call: attach, status: 400,
			body: faultBody("Invalid volume: volume v is already attached to instances: " + otherServerID),
			kind: volume.KindPrecondition, words: []string{otherServerID, "until the volume is detached from the other node"},
		},
		{
			name: "attach in a wrong state", call: attach, status: 400,
			body: faultBody(
				"Invalid volume: Volume v status must be available or downloading to reserve, but the current status is creating."),
			kind: volume.KindPrecondition, words: []string{"current status is creating"},
		},
		{
			name: "no slot", call: attach, status: 403,
			body: faultBody("The maximum allowed number of disk devices (26) to attach to a single instance has been exceeded."),
			kind: volume.KindExhausted, words: []string{"(26)", "move pods"},
		},
		{
			name: "attach forbidden", call: attach, status: 403, body: faultBody("Policy doesn't allow it"),
			kind: volume.KindDenied,
		},
		{
			name: "server locked", call: attach, status: 409, body: faultBody("Instance s is locked"),
			kind: volume.KindInProgress,
		},
		{
			name: "detach of a root disk", call: detach, status: 400, body: faultBody("Cannot detach a root device volume"),
			kind: volume.KindPrecondition,
		},

		{
			name: "below the type's minimum", call: extend, status: 400,
			body: faultBody(
				"Invalid input received: Specified volume size of '1' is less than the minimum required size of '2' for volume " +
					"type 't'."), kind: volume.KindOutOfRange,
		},
		{
			name: "rate limit of Cinder", call: extend, status: 413, body: faultBody("This request was rate-limited."),
			retryAfter: "7",
			kind:       volume.KindUnavailable, words: []string{"try again in 7s"},
		},
		{
			name: "quota of Cinder", call: extend, status: 413,
			body:       faultBody("VolumeSizeExceedsAvailableQuota: Requested volume exceeds allowed gigabytes quota."),
			retryAfter: "0",
			kind:       volume.KindOutOfRange, words: []string{"request less"},
		},
		{name: "quota without Retry-After", call: extend, status: 413, body: faultBody("over"), kind: volume.KindOutOfRange},
		{
			name: "quota of Nova", call: extend, status: 403, body: faultBody("Quota exceeded for resources: ['gigabytes']"),
			kind: volume.KindOutOfRange,
		},
		{
			name: "policy about quotas", call: get, status: 403,
			body: faultBody("Policy doesn't allow volume_extension:quotas:show to be performed."), kind: volume.KindDenied,
			words: []string{"a role that the policy"},
		},

		{
			name: "delete in use", call: remove, status: 400,
			body: faultBody("Invalid volume: Volume status must be available and must not be attached"),
			kind: volume.KindPrecondition, words: []string{"snapshots"},
		},
		{
			name: "a copy of what is being attached", call: call{
				service: blockStorage, name: "volume_create",
				what: "creating volume x",
			}, status: 400,
			body: faultBody("Invalid volume: Originating source volume status must be one of 'available, in-use' values"),
			kind: volume.KindInProgress,
		},
		{
			name: "extend while extending", call: extend, status: 400,
			body: faultBody("Invalid volume: Volume v status must be '('available',)' to extend, currently extending."),
			kind: volume.KindInProgress, words: []string{"currently extending"},
		},
		{
			name: "extend to less", call: extend, status: 400,
			body: faultBody(
				"Invalid input received: New size for extend must be greater than current size. (current: 3, extended: 3)."),
			kind: volume.KindInvalid,
		},

		{name: "token refused", call: get, status: 401, body: htmlPage, kind: volume.KindUnauthenticated},
		{
			name: "policy", call: extend, status: 403, body: faultBody("Policy doesn't allow volume:extend to be performed."),
			kind: volume.KindDenied,
		},
		{
			name: "gone", call: get, status: 404, body: missingBody("Volume v could not be found."), kind: volume.KindNotFound,
			words: []string{"Volume v could not be found [GET /volumes/v, request req-1]"},
		},
		{name: "no such method", call: get, status: 405, body: faultBody("no"), kind: volume.KindUnsupported},
		{
			name: "too new", call: extend, status: 406,
			body: `{"errors": [{"title": "Not acceptable", "detail": "Version 3.99 is not supported"}]}`,
			kind: volume.KindPrecondition, words: []string{"Not acceptable: Version 3.99 is not supported"},
		},
		{name: "slow client", call: get, status: 408, body: faultBody("slow"), kind: volume.KindUnavailable},
		{
			name: "gone, of another service", call: get, status: 404, body: faultBody("Volume v could not be found."),
			kind: volume.KindUnavailable,
		},
		{
			name: "another one is gone", call: attachment, status: 404, body: missingBody("Instance z could not be found."),
			kind: volume.KindUnavailable, words: []string{"does not say that s or v does not exist"},
		},
		{
			name: "gone for good", call: get, status: 410,
			body: `{"computeFault": {"code": 410, "message": "Volume v is gone."}}`, kind: volume.KindNotFound,
		},
		{
			name: "an address that is gone", call: get, status: 410, body: faultBody("gone"), kind: volume.KindUnavailable,
			words: []string{"check that the endpoint"},
		},
		{
			name: "407 of a proxy", call: get, status: 407, body: htmlPage, kind: volume.KindUnavailable,
			words: []string{"proxy"},
		},
		{
			name: "too many", call: get, status: 429, body: htmlPage, retryAfter: "3", kind: volume.KindUnavailable,
			words: []string{"try again in 3s"},
		},
		{name: "throttled by Rackspace", call: get, status: 498, kind: volume.KindUnavailable},
		{name: "unprocessable", call: get, status: 422, body: faultBody("no"), kind: volume.KindInvalid},
		{
			name: "broken", call: get, status: 500,
			body: faultBody("The server has either erred or is incapable of performing the requested operation."),
			kind: volume.KindUnavailable, words: []string{"the request id"},
		},
		{
			name: "no server behind the proxy", call: get, status: 503, body: htmlPage, kind: volume.KindUnavailable,
			words: []string{"503 Service Unavailable"},
		},
	}
}

func TestStatusWithoutARuleIsInternal(t *testing.T) {
	k := call{service: compute, what: "asking", name: "x", method: "GET", path: "/x"}
	volumetest.WantKind(t, newAnswer(k, gophercloud.ErrUnexpectedResponseCode{Actual: 199}, false).toError(),
		volume.KindInternal,
		"asking: nova answered 199", "[GET /x]")
}

func TestMessageOf(t *testing.T) {
	for body, want := range map[string]string{
		`{"badRequest": {"code": 400, "message": "a\n  b"}}`: "a b",
		`{"error": {"message": "m", "title": "T"}}`:          "m",
		`{"errors": [{"title": "T", "detail": "d"}]}`:        "T: d",
		`{"message": "flat"}`:                                "",
		`[]`:                                                 "",
		``:                                                   "",
		htmlPage:                                             "",
		`{"x": {"message": "` + strings.Repeat("ü", 600) + `"}}`: strings.Repeat("ü", 500) + "…",
	} {
		if got := messageOf([]byte(body)); got != want {
			t.Errorf("messageOf(%.60s) = %q, want %q", body, got, want)
		}
	}
}

func TestErrorsOfOthersHaveNoStatus(t *testing.T) {
	if StatusCode(nil) != 0 || StatusCode(volume.Errorf(volume.KindInternal, "x")) != 0 {
		t.Error("an error that came from no answer has a status")
	}
}
