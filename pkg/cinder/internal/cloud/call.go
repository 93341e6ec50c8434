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

// call describes one request to one OpenStack service: what it is for, what it needs, and what its
// answer must have. The request itself is made by gophercloud; see Cloud.run.
type call struct {
	service service
	name    string // label of the metrics: one of a fixed set, without ids
	what    string // for messages: "extending volume X to 3 GiB"
	needs   need   // the microversion to ask for; zero: none, which means the oldest
	prefers string // the microversion to ask for instead, if the service offers it

	// objects are what the request names. Their ids are checked before the request is sent. Only a
	// 404 that names one of them says that it does not exist.
	objects    []object
	volumeType string // the volume type that the request names, if any

	key     string // the JSON of the answer must have it; empty: the answer is not read
	idField string // the field of the key's object that must hold the id of the last of objects; empty: none

	// isRepeatable marks a POST or PUT that does no harm when it is done twice.
	isRepeatable bool
	maxAttempts  int           // 0: as many as the transport makes
	timeout      time.Duration // of one attempt; 0: the transport's

	method, path string // of the request that was sent, for messages; the path begins behind the endpoint
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

// isID reports whether text has only characters of OpenStack ids.
func isID(text string) bool {
	return text != "" && strings.IndexFunc(text, func(r rune) bool { return !isIDRune(r) }) < 0
}

// isIDRune reports whether OpenStack ids may contain the character.
func isIDRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

// serviceClient is gophercloud's client of one service, in one microversion.
type serviceClient = gophercloud.ServiceClient

// run makes a call: send is given a client of the service in the microversion that the call needs
// or prefers, and sends the request with gophercloud. If the token is refused, run logs in again
// and calls send once more. The errors are *volume.Error; their kind follows from the answer (see
// rules). Kind NotFound also if an id is none of OpenStack's: it cannot exist, and it would change
// the path of the request.
func (c *Cloud) run(ctx context.Context, k call, send func(*serviceClient) error) error {
	for _, o := range k.objects {
		if !isID(o.id) {
			return volume.Errorf(volume.KindNotFound, "the %s %q cannot exist: this is not an OpenStack id", o.kind, o.id)
		}
	}
	return c.withLogin(ctx, k.what, func(conn *connection) error { return conn.run(ctx, k, send) })
}

// get is fetch for a request that reads the one object that the call names, by its id.
func get[T any](ctx context.Context, c *Cloud, k call, send func(*serviceClient) (*T, error)) (T, error) {
	k.idField = "id"
	return fetch(ctx, c, k, k.objects[0].kind, send)
}

// fetch is run for a request whose answer has an object under key.
func fetch[T any](
	ctx context.Context, c *Cloud, k call, key string, send func(*serviceClient) (*T, error),
) (T, error) {
	k.key = key
	var object T
	err := c.run(ctx, k, func(client *serviceClient) error {
		got, err := send(client)
		if err == nil {
			object = *got
		}
		return err
	})
	return object, err
}

// run makes a call over one connection.
func (c *connection) run(ctx context.Context, k call, send func(*serviceClient) error) error {
	if k.prefers != "" && c.checkOffer(ctx, need{service: k.service, version: k.prefers}) == nil {
		k.needs.version = k.prefers
	} else if k.needs.version != "" {
		if err := c.checkOffer(ctx, k.needs); err != nil {
			return withContext(k.what, err)
		}
	}
	e := c.endpoints[k.service]
	if e.err != nil {
		return withContext(k.what, e.err)
	}
	sent := time.Now()
	err := newExchange(c.provider, k, e.url).run(ctx, send)
	if StatusCode(err) == http.StatusNotAcceptable {
		c.versions[k.service].forget(sent) // the service was downgraded since it was asked
	}
	return err
}

// withContext puts what was to be done before the message of err; kind and remedy stay.
func withContext(what string, err error) error {
	var inner *volume.Error
	if errors.As(err, &inner) {
		c := *inner
		c.Msg = what + ": " + c.Msg
		return &c
	}
	return volume.Errorf(volume.KindOf(err), "%s: %w", what, err)
}
