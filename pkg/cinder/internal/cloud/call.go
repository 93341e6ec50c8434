package cloud

import (
	"context"
	"encoding/json"
	"errors"
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
	body    any          // sent as JSON; nil: none
	into    any          // filled from the JSON of the answer; nil: none
	ok      []int        // good status codes; nil: the usual ones of the method
	// repeatable marks a POST that does no harm when it is done twice.
	repeatable bool
	attempts   int           // at most so many; 0: as many as the transport makes
	timeout    time.Duration // of one attempt; 0: the transport's
}

// do makes the call. A token that has run out is renewed once, with the
// credentials as they stand in the files by then.
func (c *Cloud) do(ctx context.Context, k call) error {
	conn, err := c.connection(ctx)
	if err != nil {
		return within(k.what, err)
	}
	sent := time.Now()
	err = c.attempt(ctx, conn, k)
	if StatusCode(err) == http.StatusNotAcceptable {
		conn.versions[k.service].forget(sent) // the service was downgraded since it was asked
	}
	if StatusCode(err) != http.StatusUnauthorized {
		return err
	}
	renewed, errRenew := c.renew(ctx, conn)
	if errRenew != nil {
		return within(k.what+": the token was refused and could not be renewed", errRenew)
	}
	return c.attempt(ctx, renewed, k)
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
	return conn.request(ctx, k, e.url+strings.TrimPrefix(k.path, "/"), version)
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
	if err := json.Unmarshal(data, k.into); err != nil {
		return nonsense(k, err, transport.RequestID(resp.Header))
	}
	return nil
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
	return id != "" && strings.IndexFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}) < 0
}

// unknown is the error for an id that cannot exist.
func unknown(object, id string) error {
	return volume.Errorf(volume.NotFound, "%s %q cannot exist: it is not an id of OpenStack", object, id)
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
