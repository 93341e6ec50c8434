package cloud

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/growvol/growvol/pkg/volume"
)

// call describes one request to one OpenStack service: its purpose, the microversion that it needs,
// and what its answer must have. gophercloud makes the request itself; see Cloud.run.
type call struct {
	service service
	name    string // label of the metrics: one of a fixed set, without ids
	what    string // for messages: "extending volume X to 3 GiB"
	needs   need   // the microversion to request; zero: none is requested, and the service uses its oldest
	prefers string // the microversion to request instead, if the service has it; empty: none

	// objects are those that the request names. Their ids are checked before the request is sent. An
	// object counts as missing only if a 404 or 410 names it.
	objects    []object
	volumeType string // the volume type that the request names, if any

	key     string // a field that the JSON of the answer must have; empty: the answer is not checked
	idField string // the field in the object of key that must be the id of the last of objects; empty: none

	// isRepeatable marks a POST or PUT that has the same effect when it is carried out twice.
	isRepeatable bool
	maxAttempts  int           // 0: the default of the transport
	timeout      time.Duration // of one attempt; 0: the default of the transport

	method, path string // of the request that was sent, for messages; the path is relative to the endpoint
}

// object is something that a request names: its kind, such as "volume", and its id.
type object struct{ kind, id string }

// cinderCall describes a call of Cinder that names objects.
func cinderCall(name, what string, objects ...object) call {
	return call{service: blockStorage, name: name, what: what, objects: objects}
}

// novaCall describes a call of Nova that names objects.
func novaCall(name, what string, objects ...object) call {
	return call{service: compute, name: name, what: what, objects: objects}
}

// withID returns the objects that have an id.
func withID(objects ...object) []object {
	var found []object
	for _, o := range objects {
		if o.id != "" {
			found = append(found, o)
		}
	}
	return found
}

// isID reports whether text is not empty and has only characters that OpenStack ids can contain.
func isID(text string) bool {
	return text != "" && strings.IndexFunc(text, func(r rune) bool { return !isIDRune(r) }) < 0
}

// isIDRune reports whether OpenStack ids can contain the character.
func isIDRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

// serviceClient is gophercloud's client of one service, in one microversion.
type serviceClient = gophercloud.ServiceClient

// run makes a call: it calls send, which sends the request with gophercloud, with a client of the
// service in the microversion that the call needs or prefers. If the token is refused, run logs in
// again and calls send once more. The errors are *volume.Error; their kind follows from the answer
// (see rules). run returns kind NotFound without a request if an id does not have the form of an
// OpenStack id: such an object cannot exist, and the id could change the path of the request.
func (c *Cloud) run(ctx context.Context, call call, send func(*serviceClient) error) error {
	for _, o := range call.objects {
		if !isID(o.id) {
			return volume.Errorf(volume.KindNotFound, "the %s %q cannot exist: this is not an OpenStack id", o.kind, o.id)
		}
	}
	return c.withLogin(ctx, call.what, func(conn *connection) error { return conn.run(ctx, call, send) })
}

// readByID is runForObject for a request that reads the one object that the call names, by its id.
func readByID[T any](ctx context.Context, c *Cloud, call call, send func(*serviceClient) (*T, error)) (T, error) {
	call.idField = "id"
	return runForObject(ctx, c, call, call.objects[0].kind, send)
}

// runForObject is run for a request whose answer has an object in the field key. It returns that
// object.
func runForObject[T any](
	ctx context.Context, c *Cloud, call call, key string, send func(*serviceClient) (*T, error),
) (T, error) {
	call.key = key
	var object T
	err := c.run(ctx, call, func(client *serviceClient) error {
		got, err := send(client)
		if err == nil {
			object = *got
		}
		return err
	})
	return object, err
}

// run makes a call with the token and the endpoints of this connection.
func (c *connection) run(ctx context.Context, call call, send func(*serviceClient) error) error {
	if call.prefers != "" && c.checkVersion(ctx, need{service: call.service, version: call.prefers}) == nil {
		call.needs.version = call.prefers
	} else if call.needs.version != "" {
		if err := c.checkVersion(ctx, call.needs); err != nil {
			return withContext(call.what, err)
		}
	}
	e := c.endpoints[call.service]
	if e.err != nil {
		return withContext(call.what, e.err)
	}
	sent := time.Now()
	err := newExchange(c.provider, call, e.url).run(ctx, send)
	if StatusCode(err) == http.StatusNotAcceptable {
		c.versions[call.service].forget(sent) // the service may have been downgraded since it was asked
	}
	return err
}

// withContext puts what before the message of err, and keeps its kind and remedy.
func withContext(what string, err error) error {
	var inner *volume.Error
	if errors.As(err, &inner) {
		c := *inner
		c.Msg = what + ": " + c.Msg
		return &c
	}
	return volume.Errorf(volume.KindOf(err), "%s: %w", what, err)
}
