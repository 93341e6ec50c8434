package cloud

import (
	"bytes"
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

// exchange sends the request of one call and receives its answer. It is the http.RoundTripper
// between gophercloud and the transport: it checks each answer before gophercloud reads it, and
// converts the error that gophercloud returns into a *volume.Error.
type exchange struct {
	call          call
	provider      gophercloud.ProviderClient // a copy for this call, which sends through the exchange
	endpoint      string                     // address of the service
	transport     http.RoundTripper
	transportCall transport.Call
	requestID     string // the id that OpenStack gave to the request; empty: none
}

func newExchange(provider *gophercloud.ProviderClient, call call, endpoint string) *exchange {
	e := &exchange{call: call, provider: *provider, endpoint: endpoint, transport: provider.HTTPClient.Transport}
	e.provider.HTTPClient.Transport = e
	e.transportCall = transport.Call{
		Service: string(call.service), Name: call.name, Repeatable: call.isRepeatable,
		MaxAttempts: call.maxAttempts, Timeout: call.timeout,
	}
	return e
}

// run calls send with a client for the service that requests the microversion of the call.
func (e *exchange) run(ctx context.Context, send func(*serviceClient) error) error {
	return e.toError(ctx, send(&serviceClient{
		ProviderClient: &e.provider, Endpoint: e.endpoint, Type: catalogTypes(e.call.service)[0],
		Microversion: e.call.needs.version,
	}))
}

// request sends a request for which gophercloud has no function. A status that is not in okCodes
// is an error.
func request(
	ctx context.Context, client *serviceClient, method, address string, body, answer any, okCodes ...int,
) error {
	resp, err := client.Request(ctx, method, address, &gophercloud.RequestOpts{
		JSONBody: body, JSONResponse: answer, OkCodes: okCodes,
	})
	if resp != nil {
		_ = resp.Body.Close() // client.Request has read the body
	}
	return err
}

// RoundTrip implements http.RoundTripper. It sends the request over the transport, which repeats
// it where that is safe, and checks the answer.
func (e *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	e.call.method, e.call.path = req.Method, req.URL.Path
	if root, err := url.Parse(e.endpoint); err == nil {
		e.call.path = "/" + strings.TrimPrefix(strings.TrimPrefix(req.URL.Path, root.Path), "/")
	}
	resp, err := e.transport.RoundTrip(req.WithContext(transport.WithCall(req.Context(), &e.transportCall)))
	if err != nil {
		return nil, err
	}
	e.requestID = transport.RequestID(resp.Header)
	// An answer with 204 or 300 is checked too, because gophercloud's pager accepts both as pages.
	if e.call.key != "" && resp.StatusCode >= http.StatusOK && resp.StatusCode <= http.StatusMultipleChoices {
		if err := e.checkAnswer(resp); err != nil {
			return nil, unusableError(e.call, err, e.requestID)
		}
	}
	return resp, nil
}

// checkAnswer returns an error unless the answer has the JSON field that the call expects, with
// the id of the requested object: some servers answer 200 to any request. It replaces the body by
// one that gophercloud can read.
func (e *exchange) checkAnswer(resp *http.Response) error {
	data, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	var body map[string]any
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err := decoder.Decode(&body); err != nil {
		return err
	}
	content := body[e.call.key]
	if content == nil {
		return fmt.Errorf("the answer has no field %q", e.call.key)
	}
	if e.call.idField != "" {
		fields, _ := content.(map[string]any)
		got, _ := fields[e.call.idField].(string)
		if want := e.call.objects[len(e.call.objects)-1]; !strings.EqualFold(got, want.id) {
			return fmt.Errorf("the answer describes %s %q instead of %q", want.kind, got, want.id)
		}
	}
	if normalizeTimes(body) {
		if data, err = json.Marshal(body); err != nil {
			return err
		}
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	resp.Header.Set("Content-Type", "application/json") // gophercloud's pager reads no other type
	return nil
}

// normalizeTimes writes the times of an answer in the form that gophercloud reads, UTC without a
// zone. It removes the values that are not times, so that they do not make the call fail. It
// reports whether it changed the answer.
func normalizeTimes(value any) (changed bool) {
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			changed = normalizeTimes(item) || changed
		}
	case map[string]any:
		for key, field := range value {
			text, isText := field.(string)
			switch {
			case strings.HasSuffix(key, "metadata"): // users choose the keys of metadata
			case !isText:
				changed = normalizeTimes(field) || changed
			case strings.HasSuffix(key, "_at") || key == "data_timestamp":
				if _, err := time.Parse(gophercloud.RFC3339MilliNoZ, text); err == nil || text == "" {
					continue
				}
				changed = true
				delete(value, key)
				if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
					value[key] = t.UTC().Format(gophercloud.RFC3339MilliNoZ)
				}
			}
		}
	}
	return changed
}

// toError converts an error of gophercloud into a *volume.Error.
func (e *exchange) toError(ctx context.Context, err error) error {
	var volumeErr *volume.Error
	var statusErr gophercloud.ErrUnexpectedResponseCode
	var urlErr *url.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &volumeErr):
		return volumeErr
	case errors.As(err, &statusErr):
		return newAnswer(e.call, statusErr, e.transportCall.MayBeDone && !e.call.isRepeatable).toError()
	case errors.As(err, &urlErr):
		return noAnswerError(ctx, e.call, urlErr.Err) // urlErr also has the address, which does not help the reader
	case e.call.method == "":
		return volume.Errorf(volume.KindInvalid, "%s: no request was sent: %w", e.call.what, err)
	}
	return unusableError(e.call, err, e.requestID)
}
