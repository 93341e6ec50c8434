package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/growvol/growvol/pkg/cinder/internal/transport"
	"github.com/growvol/growvol/pkg/volume"
)

// answer is a refusal of OpenStack.
type answer struct {
	service   service
	method    string
	path      string
	status    int
	message   string        // what the cloud said; empty if OpenStack did not say it
	later     time.Duration // in which the cloud asks to come again; 0: it does not say
	doubt     bool          // an earlier attempt of the same call may have been carried out
	requestID string        // by which the cloud's operator finds it in the logs

	// What a 404 or 410 says; see readMissing.
	about   []string // ids of the objects that it may be about
	missing string   // the one of them that the service says it does not have; empty: none
	noType  bool     // the service says that it does not have the volume type
	noRoute bool     // the API does not have the path
}

func (a *answer) Error() string {
	text := fmt.Sprintf("%s answered %d %s", a.service, a.status, http.StatusText(a.status))
	if a.message != "" {
		text += ": " + strings.TrimSuffix(a.message, ".")
	}
	if a.later > 0 {
		text += fmt.Sprintf(" (it asks to come again in %s)", a.later.Round(time.Second))
	}
	if a.doubt {
		text += " (an earlier attempt got no answer, and may be what stands in the way)"
	}
	if len(a.about) > 0 && a.missing == "" && !a.noType {
		text += fmt.Sprintf(" (it does not say that %s does not exist)", strings.Join(a.about, " or "))
	}
	text += fmt.Sprintf(" [%s %s", a.method, a.path)
	if a.requestID != "" {
		text += ", request " + a.requestID
	}
	return text + "]"
}

// StatusCode returns the HTTP status of the answer that err came from, or 0.
func StatusCode(err error) int {
	var a *answer
	if errors.As(err, &a) {
		return a.status
	}
	return 0
}

// MayBeDone reports whether a request that ended with err can have been carried out, or can
// still be: it got no answer, or not one that Cinder gives instead of doing the work.
func MayBeDone(err error) bool {
	switch code := StatusCode(err); code {
	case http.StatusTooManyRequests, http.StatusRequestEntityTooLarge:
		return false
	default:
		kind := volume.KindOf(err)
		return kind == volume.KindUnavailable || kind == volume.KindDeadline || kind == volume.KindCanceled || code > 0 && code < 400
	}
}

// refusal is the error for an answer that is not the wanted one. doubt: an
// earlier attempt of the call may have been carried out.
func refusal(k call, r gophercloud.ErrUnexpectedResponseCode, doubt bool) error {
	return judge(k, newAnswer(k, r, doubt))
}

func newAnswer(k call, r gophercloud.ErrUnexpectedResponseCode, doubt bool) *answer {
	path, _, _ := strings.Cut(k.path, "?")
	a := &answer{
		service: k.service, method: k.method, path: "/" + path, status: r.Actual,
		message: said(r.Body), requestID: transport.RequestID(r.ResponseHeader),
		doubt: doubt && r.Actual >= 400 && r.Actual < 500,
	}
	a.later, _ = transport.RetryAfter(r.ResponseHeader, time.Now())
	a.readMissing(k, r.Body)
	return a
}

// eventRefused is the error for a part of an answer that has its own code, about
// the event of one server.
func eventRefused(k call, server string, code int, status string) error {
	a := &answer{service: k.service, method: k.method, path: "/" + k.path, status: code, message: "the event has " + status}
	if code == http.StatusNotFound {
		a.about = k.objects
		if strings.EqualFold(server, k.objects[0]) {
			a.missing = k.objects[0]
		}
	}
	return judge(k, a)
}

// judge gives an answer its kind and remedy by the first rule that fits.
func judge(k call, a *answer) error {
	for _, r := range rules() {
		if r.fits(k, a) {
			return volume.Errorf(r.kind, "%s: %w", k.what, a).WithRemedy(r.remedy)
		}
	}
	return volume.Errorf(volume.KindInternal, "%s: %w", k.what, a)
}

// failure is the error for a call that got no answer.
func failure(ctx context.Context, k call, err error) error {
	// The address that was called is of no use to the reader.
	var broken *url.Error
	if errors.As(err, &broken) {
		err = broken.Err
	}
	doubt := ""
	if k.method == http.MethodPost && !k.repeatable && k.service != identity {
		doubt = "; whether it was done is not known"
	}
	if ended := ctx.Err(); ended != nil {
		return volume.Errorf(volume.KindOf(ended), "%s: the call ended before %s answered%s: %w", k.what, k.service, doubt, err)
	}
	return volume.Errorf(volume.KindUnavailable, "%s: no answer of %s%s: %w", k.what, k.service, doubt, err)
}

// nonsense is the error for an answer that cannot be read.
func nonsense(k call, err error, requestID string) error {
	if requestID != "" {
		requestID = " (request " + requestID + ")"
	}
	return volume.Errorf(volume.KindUnavailable, "%s: the answer of %s makes no sense%s: %w", k.what, k.service, requestID, err)
}

// said takes what is meant for people out of an answer's body: OpenStack wraps
// it in an object named after the fault. Pages of proxies say nothing useful.
func said(body []byte) string {
	var faults map[string]json.RawMessage
	if json.Unmarshal(body, &faults) != nil {
		return ""
	}
	for _, name := range sortedKeys(faults) {
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

// oneLine keeps a message readable in an event and a log.
func oneLine(text string) string {
	const most = 500
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	return text
}
