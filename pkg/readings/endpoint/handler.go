package endpoint

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// readTimeout bounds the reading of one request; what is not read then has a Problem.
	readTimeout = 10 * time.Second
	// maxReadings bounds the requests that are read at the same time; others wait for them.
	maxReadings = 4
	// maxIDLength bounds an id, in bytes (CSI v1.13 allows 128 in a field).
	maxIDLength = 1024
)

// handler answers the requests. This file decides who gets which answer: nothing of a volume is
// read before the token is reviewed.
type handler struct {
	opts     Options
	reviewer *reviewer
	reading  chan struct{} // holds one element for each request that is read
}

func newHandler(opts Options) *handler {
	return &handler{
		opts: opts, reviewer: newReviewer(opts.API.MayGet, opts.Log), reading: make(chan struct{}, maxReadings),
	}
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	ctx := r.Context()
	switch isAllowed, err := h.reviewer.mayRead(ctx, r.Header.Values(readings.TokenHeader)); {
	case err != nil:
		refuse(w, http.StatusServiceUnavailable, readings.ReviewFailed)
	case !isAllowed:
		refuse(w, http.StatusUnauthorized, readings.Refusal)
	case r.URL.Path != readings.Path:
		refuse(w, http.StatusNotFound, "the only path is "+readings.Path)
	case r.Method != http.MethodGet:
		header.Set("Allow", http.MethodGet)
		refuse(w, http.StatusMethodNotAllowed, "the only method is GET")
	default:
		h.answer(ctx, w, r.URL)
	}
}

func refuse(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = fmt.Fprintln(w, text) // the caller notices
}

// answer reads the volumes and answers with them.
func (h *handler) answer(ctx context.Context, w http.ResponseWriter, address *url.URL) {
	ids, err := parseIDs(address)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	select {
	case h.reading <- struct{}{}:
		defer func() { <-h.reading }()
	case <-ctx.Done():
		refuse(w, http.StatusServiceUnavailable, "too many requests are being answered")
		return
	}
	answer := h.opts.Answer
	answer.Volumes, err = h.opts.Read(ctx, ids)
	switch {
	case volume.IsKind(err, volume.KindInvalid):
		refuse(w, http.StatusBadRequest, err.Error())
		return
	case err != nil:
		h.opts.Log.WarnContext(ctx, "cannot answer a request for readings", "cause", err)
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	case answer.Volumes == nil:
		answer.Volumes = []readings.Volume{} // [] in JSON, not null
	}
	body, err := json.Marshal(answer)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // the caller notices
}

// parseIDs returns the ids of the query. Kind Invalid: the query is malformed or too large.
func parseIDs(address *url.URL) ([]string, error) {
	query, err := url.ParseQuery(address.RawQuery)
	if err != nil {
		return nil, volume.Errorf(volume.KindInvalid, "the query is malformed: %w", err)
	}
	for name := range query {
		if name != readings.IDParameter {
			return nil, volume.Errorf(volume.KindInvalid, "the query has the parameter %q: only %s is known",
				name, readings.IDParameter)
		}
	}
	ids := query[readings.IDParameter]
	if len(ids) > readings.MaxIDs {
		return nil, volume.Errorf(volume.KindInvalid, "the query has %d ids, and at most %d are allowed",
			len(ids), readings.MaxIDs).WithRemedy("send several requests")
	}
	for _, id := range ids {
		if id == "" || len(id) > maxIDLength {
			return nil, volume.Errorf(volume.KindInvalid, "an id has %d bytes, and 1 to %d are allowed", len(id), maxIDLength)
		}
	}
	return ids, nil
}
