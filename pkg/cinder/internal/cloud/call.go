package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/growvol/growvol/pkg/cinder/internal/transport"
	"github.com/growvol/growvol/pkg/volume"
)

// call is one request to one OpenStack service.
type call struct {
	service service
	name    string // label of the metrics: one of a fixed set, without ids
	what    string // for people: "extend volume X to 3 GiB"
	method  string
	path    string       // below the service's endpoint, with the query
	needs   need         // what the cloud must offer; zero: nothing
	version microversion // to ask for if it is above what is needed; must be offered
	server  string       // the server that it is about, if any
	// objects are the ids of which a 404 that names one says that it does not
	// exist. Without them no 404 of the call means that. A call of which a 404 can
	// name the object for the lack of a part of it, such as a metadata key, has none.
	objects []string
	volType string // the volume type that it names, if any
	body    any    // sent as JSON; nil: none
	into    any    // filled from the JSON of the answer; nil: none
	key     string // the JSON of the answer must have it: that of another service does not; empty: any
	ok      []int  // good status codes; nil: the usual ones of the method
	// repeatable marks a POST that does no harm when it is done twice.
	repeatable bool
	attempts   int           // at most so many; 0: as many as the transport makes
	timeout    time.Duration // of one attempt; 0: the transport's
}

// do makes the call. A token that has run out is renewed once, with the
// credentials as they stand in the files by then.
func (c *Cloud) do(ctx context.Context, k call) error {
	return c.loggedIn(ctx, k.what, func(conn *connection) error { return c.attempt(ctx, conn, k) })
}

// loggedIn makes a call over the present connection, and once more over a new one if
// the token is refused: it may have run out. A service that refuses a token that is
// new refuses others as well (its access to Keystone may be broken); no call logs in
// for that until refusedFor has passed, or the credentials have changed.
func (c *Cloud) loggedIn(ctx context.Context, what string, use func(*connection) error) error {
	conn, err := c.connection(ctx)
	if err != nil {
		return within(what, err)
	}
	err = use(conn)
	if StatusCode(err) != http.StatusUnauthorized || c.isNewlyRefused(conn) {
		return err
	}
	renewed, errRenew := c.renew(ctx, conn)
	if errRenew != nil {
		return within(what+": the token was refused and could not be renewed", errRenew)
	}
	err = use(renewed)
	if StatusCode(err) == http.StatusUnauthorized {
		now := time.Now()
		renewed.refused.Store(&now)
	}
	return err
}

// isNewlyRefused reports whether a service refused the token of conn right after the
// login, not long ago, and the credentials are still the same.
func (c *Cloud) isNewlyRefused(conn *connection) bool {
	at := conn.refused.Load()
	if at == nil || time.Since(*at) > refusedFor {
		return false
	}
	wanted, err := c.owner.entry(c.name, true)
	return err == nil && wanted == conn.config
}

// attempt makes the call over one connection.
func (c *Cloud) attempt(ctx context.Context, conn *connection, k call) error {
	version := k.version
	if !k.needs.version.isZero() {
		if err := conn.supports(ctx, k.needs); err != nil {
			return within(k.what, err)
		}
		if version.below(k.needs.version) {
			version = k.needs.version
		}
	}
	e := conn.endpoints[k.service]
	if e.err != nil {
		return within(k.what, e.err)
	}
	sent := time.Now()
	err := conn.request(ctx, k, e.url+strings.TrimPrefix(k.path, "/"), version)
	if StatusCode(err) == http.StatusNotAcceptable {
		conn.versions[k.service].forget(sent) // the service was downgraded since it was asked
	}
	return err
}

// request makes the call at an address.
func (c *connection) request(ctx context.Context, k call, address string, version microversion) error {
	client := &gophercloud.ServiceClient{ProviderClient: c.provider, Type: "block-storage"}
	if k.service == compute {
		client.Type = "compute"
	}
	if !version.isZero() {
		client.Microversion = version.String()
	}
	progress := &transport.Call{Service: string(k.service), Name: k.name, Repeatable: k.repeatable, Attempts: k.attempts, Timeout: k.timeout}
	resp, err := client.Request(transport.WithCall(ctx, progress), k.method, address, &gophercloud.RequestOpts{
		JSONBody: k.body, OkCodes: k.ok, KeepResponseBody: true,
	})
	if err != nil {
		var refused gophercloud.ErrUnexpectedResponseCode
		if errors.As(err, &refused) {
			return refusal(k, refused, progress.Doubt)
		}
		return failure(ctx, k, err)
	}
	data, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return failure(ctx, k, err)
	}
	if k.into == nil {
		return nil
	}
	if err := read(data, k); err != nil {
		return nonsense(k, err, transport.RequestID(resp.Header))
	}
	return nil
}

// read fills k.into from an answer.
func read(data []byte, k call) error {
	if k.key != "" {
		var parts map[string]json.RawMessage
		if err := json.Unmarshal(data, &parts); err != nil {
			return err
		}
		if len(parts[k.key]) == 0 || string(parts[k.key]) == "null" {
			return fmt.Errorf("it has no %q", k.key)
		}
	}
	return json.Unmarshal(data, k.into)
}

// within says what was asked when err happened; kind and remedy stay.
func within(what string, err error) error {
	var inner *volume.Error
	if errors.As(err, &inner) {
		c := *inner
		c.Msg = what + ": " + c.Msg
		return &c
	}
	return volume.Errorf(volume.KindOf(err), "%s: %w", what, err)
}

// known tells whether an id can be one of OpenStack's: anything else would
// change the path of a request.
func known(id string) bool {
	return id != "" && strings.IndexFunc(id, func(r rune) bool { return !isIDRune(r) }) < 0
}

// unknown is the error for an id that cannot exist.
func unknown(object, id string) error {
	return volume.Errorf(volume.KindNotFound, "%s %q cannot exist: it is not an id of OpenStack", object, id)
}

// query appends the parameters that are not empty to a path.
func query(path string, params url.Values) string {
	for k, v := range params {
		if len(v) == 0 || v[0] == "" {
			params.Del(k)
		}
	}
	if len(params) == 0 {
		return path
	}
	return path + "?" + params.Encode()
}
