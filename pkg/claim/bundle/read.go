package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/volume"
)

// API reads from the API server. This file has the reading.
type API interface {
	// Get sends a request with the method GET. The error is one of package apierrors.
	Get(ctx context.Context, uri string) (io.ReadCloser, error)
}

// Server is the API server behind a client.
type Server struct {
	Client rest.Interface
}

// Get implements API.
func (s Server) Get(ctx context.Context, uri string) (io.ReadCloser, error) {
	return s.Client.Get().RequestURI(uri).SetHeader("Accept", "application/json, */*").Stream(ctx)
}

const (
	// requestTimeout bounds one request: a node that is lost does not send its logs.
	requestTimeout = 30 * time.Second
	// maxResponse is the largest list or page of metrics.
	maxResponse = 64 * volume.MiB
)

// get returns what the source answers, up to maxResponse.
func (r *run) get(ctx context.Context, s source, values map[string]string) ([]byte, error) {
	raw, isCut, err := r.getTail(ctx, s, values, maxResponse)
	if err == nil && isCut {
		err = volume.Errorf(volume.KindOutOfRange, "the answer is larger than %s", maxResponse)
	}
	return raw, err
}

// getTail returns the last limit bytes of what the source answers. It is the only function that
// uses the API.
func (r *run) getTail(
	ctx context.Context, s source, values map[string]string, limit volume.Size,
) (tail []byte, isCut bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := r.API.Get(ctx, fill(s.path, values, url.QueryEscape))
	if err != nil {
		return nil, false, accessError(err, s, values)
	}
	defer func() { _ = stream.Close() }() // everything is read
	tail, isCut, err = readTail(stream, int(limit))
	if err != nil {
		return nil, false, volume.Errorf(volume.KindUnavailable, "the answer ends too early: %w", err)
	}
	return tail, isCut, nil
}

// accessError returns the error of a request. It names the missing right, and its kind is NotFound
// for a resource that the cluster does not have.
func accessError(err error, s source, values map[string]string) error {
	if apierrors.IsNotFound(err) && s.verb == "list" {
		return volume.Errorf(volume.KindNotFound, "the cluster does not have this resource")
	}
	return apierror.Of(err, s.verb, s.resource, s.namespace(values))
}

// readTail returns the last limit bytes. If bytes before them are left out, it begins with a whole
// line, so that no secret begins in the middle.
func readTail(from io.Reader, limit int) (tail []byte, isCut bool, err error) {
	var buffer bytes.Buffer
	for {
		n, err := io.CopyN(&buffer, from, int64(limit))
		if excess := buffer.Len() - limit; excess > 0 {
			buffer.Next(excess)
			isCut = true
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, isCut, fmt.Errorf("after %d bytes: %w", n, err)
		}
	}
	tail = buffer.Bytes()
	if isCut {
		_, tail, _ = bytes.Cut(tail, []byte("\n"))
	}
	return tail, isCut, nil
}

// list returns the list that the source answers.
func (r *run) list(
	ctx context.Context, s source, values map[string]string,
) (*unstructured.UnstructuredList, error) {
	raw, err := r.get(ctx, s, values)
	if err != nil {
		return nil, err
	}
	list := &unstructured.UnstructuredList{}
	if err := list.UnmarshalJSON(raw); err != nil {
		return nil, volume.Errorf(volume.KindInternal, "malformed list of %s: %w", s.resource, err)
	}
	return list, nil
}

func removeField(o *unstructured.Unstructured, path ...string) {
	unstructured.RemoveNestedField(o.Object, path...)
}

// text returns the text at the path of the object, or an empty one.
func textAt(o *unstructured.Unstructured, path ...string) string {
	text, _, _ := unstructured.NestedString(o.Object, path...)
	return text
}
