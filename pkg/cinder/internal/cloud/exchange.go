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

// exchange is the request and the answer of one call. It stands between gophercloud and the
// transport: it checks an answer before gophercloud reads it, and turns the error that gophercloud
// returns into a *volume.Error.
type exchange struct {
	call      call
	provider  gophercloud.ProviderClient // this call's own, which sends through the exchange
	endpoint  string                     // address of the service
	transport http.RoundTripper
	progress  transport.Call
	requestID string // that OpenStack gave to the request
}

func newExchange(provider *gophercloud.ProviderClient, k call, endpoint string) *exchange {
	e := &exchange{call: k, provider: *provider, endpoint: endpoint, transport: provider.HTTPClient.Transport}
	e.provider.HTTPClient.Transport = e
	e.progress = transport.Call{
		Service: string(k.service), Name: k.name, Repeatable: k.isRepeatable, MaxAttempts: k.maxAttempts, Timeout: k.timeout,
	}
	return e
}

// run calls send with a client for the service, in the microversion that the call needs.
func (e *exchange) run(ctx context.Context, send func(*serviceClient) error) error {
	return e.errorOf(ctx, send(&serviceClient{
		ProviderClient: &e.provider, Endpoint: e.endpoint, Type: catalogTypes(e.call.service)[0],
		Microversion: e.call.needs.version,
	}))
}

// request makes a request for which gophercloud has no function; codes are the good statuses.
func request(
	ctx context.Context, client *serviceClient, method, address string, body, answer any, codes ...int,
) error {
	resp, err := client.Request(ctx, method, address, &gophercloud.RequestOpts{
		JSONBody: body, JSONResponse: answer, OkCodes: codes,
	})
	if resp != nil {
		_ = resp.Body.Close() // it was read
	}
	return err
}

// RoundTrip implements http.RoundTripper. It sends the request over the transport, which repeats
// it if need be.
func (e *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	e.call.method, e.call.path = req.Method, req.URL.Path
	if root, err := url.Parse(e.endpoint); err == nil {
		e.call.path = "/" + strings.TrimPrefix(strings.TrimPrefix(req.URL.Path, root.Path), "/")
	}
	resp, err := e.transport.RoundTrip(req.WithContext(transport.WithCall(req.Context(), &e.progress)))
	if err != nil {
		return nil, err
	}
	e.requestID = transport.RequestID(resp.Header)
	// 204 and 300 pass as well: gophercloud's pager takes them for pages.
	if e.call.key != "" && resp.StatusCode >= http.StatusOK && resp.StatusCode <= http.StatusMultipleChoices {
		if err := e.check(resp); err != nil {
			return nil, unusableError(e.call, err, e.requestID)
		}
	}
	return resp, nil
}

// check returns an error unless the answer is one to the call: some services answer 200 to any
// request. It leaves a body that gophercloud can read.
func (e *exchange) check(resp *http.Response) error {
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
		return fmt.Errorf("it has no %q", e.call.key)
	}
	if e.call.idField != "" {
		fields, _ := content.(map[string]any)
		got, _ := fields[e.call.idField].(string)
		if wanted := e.call.objects[len(e.call.objects)-1]; !strings.EqualFold(got, wanted.id) {
			return fmt.Errorf("it describes the %s %q", wanted.kind, got)
		}
	}
	if normalizeTimes(body) {
		if data, err = json.Marshal(body); err != nil {
			return err
		}
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	resp.Header.Set("Content-Type", "application/json") // gophercloud's pager reads no other
	return nil
}

// normalizeTimes writes the times of an answer as gophercloud reads them, in UTC without a zone,
// and removes those that are no times: these must not fail a call. It reports whether it changed
// the answer.
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
			case strings.HasSuffix(key, "metadata"): // its keys are the users'
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

// errorOf turns an error of gophercloud into a *volume.Error.
func (e *exchange) errorOf(ctx context.Context, err error) error {
	var own *volume.Error
	var refused gophercloud.ErrUnexpectedResponseCode
	var failed *url.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own):
		return own
	case errors.As(err, &refused):
		return newAnswer(e.call, refused, e.progress.MayBeDone && !e.call.isRepeatable).judge()
	case errors.As(err, &failed):
		return failure(ctx, e.call, failed.Err) // without the address, which is of no use to the reader
	case e.call.method == "":
		return volume.Errorf(volume.KindInvalid, "%s: no request was sent: %w", e.call.what, err)
	}
	return unusableError(e.call, err, e.requestID)
}
