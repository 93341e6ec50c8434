package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/growvol/growvol/pkg/cinder/internal/transport"
	"github.com/growvol/growvol/pkg/volume"
)

// answer is an HTTP answer that a call cannot use, usually a refusal, as an error.
type answer struct {
	call
	status         int
	message        string        // the text of the answer; empty if OpenStack did not write it
	retryAfter     time.Duration // the pause that the answer asks for; 0 if it asks for none
	hasLostAttempt bool          // an earlier attempt of the same call may have been carried out
	requestID      string        // by which the cloud's operator finds the request in the logs

	// What a 404 or 410 says; see readMissing.
	about         []string // ids of the objects that the answer can be about
	missingID     string   // the one of them that the service says does not exist; empty: none
	isTypeMissing bool     // the service says that the volume type does not exist
	isUnknownPath bool     // the API does not have the path
}

func (a *answer) Error() string {
	text := fmt.Sprintf("%s answered %d %s", a.service, a.status, http.StatusText(a.status))
	if a.message != "" {
		text += ": " + strings.TrimSuffix(a.message, ".")
	}
	if a.retryAfter > 0 {
		text += fmt.Sprintf(" (it asks to try again in %s)", a.retryAfter.Round(time.Second))
	}
	if a.hasLostAttempt {
		text += " (an earlier attempt got no answer, and may be the reason)"
	}
	if len(a.about) > 0 && a.missingID == "" && !a.isTypeMissing {
		text += fmt.Sprintf(" (it does not say that %s does not exist)", strings.Join(a.about, " or "))
	}
	text += fmt.Sprintf(" [%s %s", a.method, a.path)
	if a.requestID != "" {
		text += ", request " + a.requestID
	}
	return text + "]"
}

// StatusCode returns the HTTP status of the answer in err, or 0 if err has none.
func StatusCode(err error) int {
	var a *answer
	if errors.As(err, &a) {
		return a.status
	}
	return 0
}

// MayBeDone reports whether a request that ended with err might have been carried out, or might
// still be. That is so for the kinds Unavailable, Deadline and Canceled, except when Cinder
// answered 413 or 429, which it does instead of the work.
func MayBeDone(err error) bool {
	code, kind := StatusCode(err), volume.KindOf(err)
	if code == http.StatusTooManyRequests || code == http.StatusRequestEntityTooLarge {
		return false
	}
	return kind == volume.KindUnavailable || kind == volume.KindDeadline || kind == volume.KindCanceled
}

func newAnswer(call call, r gophercloud.ErrUnexpectedResponseCode, hasLostAttempt bool) *answer {
	a := &answer{
		call: call, status: r.Actual, message: messageOf(r.Body), requestID: transport.RequestID(r.ResponseHeader),
		hasLostAttempt: hasLostAttempt && r.Actual >= 400 && r.Actual < 500,
	}
	a.retryAfter, _ = transport.RetryAfter(r.ResponseHeader, time.Now())
	a.readMissing(r.Body)
	return a
}

// toError converts the answer into a *volume.Error with the kind and remedy of the first rule that
// matches, or with kind Internal if none does.
func (a *answer) toError() error {
	for _, r := range rules() {
		if r.matches(a) {
			return volume.Errorf(r.kind, "%s: %w", a.what, a).WithRemedy(r.remedy)
		}
	}
	return volume.Errorf(volume.KindInternal, "%s: %w", a.what, a)
}

// noAnswerError returns the error for a call that got no answer. Kinds: Unavailable, or that of
// ctx.
func noAnswerError(ctx context.Context, call call, err error) error {
	effect := ""
	if call.method == http.MethodPost && !call.isRepeatable {
		effect = "; it is not known whether the request was carried out"
	}
	if ended := ctx.Err(); ended != nil {
		return volume.Errorf(volume.KindOf(ended), "%s: the call ended before %s answered%s: %w",
			call.what, call.service, effect, err)
	}
	return volume.Errorf(volume.KindUnavailable, "%s: no answer from %s%s: %w", call.what, call.service, effect, err)
}

// unusableError returns the error for an answer with a good status that does not fit the call or
// cannot be read.
func unusableError(call call, err error, requestID string) error {
	if requestID != "" {
		requestID = " (request " + requestID + ")"
	}
	return volume.Errorf(volume.KindUnavailable, "%s: the answer of %s cannot be used%s: %w",
		call.what, call.service, requestID, err).WithRemedy(checkEndpoint)
}

// messageOf returns the message for people in an answer's body, which OpenStack puts into an object
// named after the fault. It returns "" for a body of another form, such as the page of a proxy.
func messageOf(body []byte) string {
	var faults map[string]json.RawMessage
	if json.Unmarshal(body, &faults) != nil {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		var fault struct {
			Message string `json:"message"`
			Detail  string `json:"detail"`
		}
		var list []struct {
			Title  string `json:"title"`
			Detail string `json:"detail"`
		}
		switch {
		case json.Unmarshal(faults[name], &fault) == nil && fault.Message+fault.Detail != "":
			return oneLine(fault.Message + fault.Detail)
		case json.Unmarshal(faults[name], &list) == nil && len(list) > 0:
			return oneLine(list[0].Title + ": " + list[0].Detail)
		}
	}
	return ""
}

// oneLine shortens a message for events and logs to one line of at most 500 characters.
func oneLine(text string) string {
	const maxLength = 500
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > maxLength {
		text = string(r[:maxLength]) + "…"
	}
	return text
}
