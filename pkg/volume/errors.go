package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
)

// Kind classifies an error by what the caller of an operation can do next. The code that
// knows the cause chooses the kind. Only package csiserver turns a kind into a gRPC code:
// Kubernetes chooses its next step (retry, give up, let the user lower the request) by the
// code.
type Kind uint8

// The kinds.
const (
	// KindInternal: an invariant is broken or the cause is not understood.
	KindInternal Kind = iota
	// KindInvalid: the request is malformed; repeating it cannot help.
	KindInvalid
	// KindOutOfRange: the requested size is not possible (limit, quota, full pool, limit of
	// the filesystem); the user may request another.
	KindOutOfRange
	// KindNotFound: the storage system says that the volume, snapshot or node does not
	// exist. An error about a path that is missing on a node never has this kind: kubelet
	// takes the kind as "can never work".
	KindNotFound
	// KindAlreadyExists: the name is taken by an object that differs from the request.
	KindAlreadyExists
	// KindInProgress: an earlier operation on the same volume has not finished; a retry
	// can succeed.
	KindInProgress
	// KindUnavailable: the storage system cannot be reached or is overloaded; a retry can
	// succeed.
	KindUnavailable
	// KindDeadline: the caller's deadline passed before the requested state was read back.
	KindDeadline
	// KindCanceled: the caller canceled the call.
	KindCanceled
	// KindPrecondition: the volume is in a state that forbids the operation and does not
	// end by itself (a deletion while the volume is in use, an attachment to another node, a
	// filesystem that must be repaired first).
	KindPrecondition
	// KindExhausted: the node has no attachment slot left, or no topology that the request
	// allows can serve the volume.
	KindExhausted
	// KindDenied: the credentials lack the permission.
	KindDenied
	// KindUnauthenticated: the storage system did not accept the credentials.
	KindUnauthenticated
	// KindUnsupported: this backend or connector has no such operation.
	KindUnsupported
	// KindStale: a paging token belongs to no listing that can continue; the caller starts
	// the listing again.
	KindStale
)

// String returns the kind's name as used in logs and metrics.
func (k Kind) String() string {
	names := [...]string{
		"internal", "invalid", "out_of_range", "not_found", "already_exists", "in_progress", "unavailable", "deadline",
		"canceled", "precondition", "exhausted", "denied", "unauthenticated", "unsupported", "stale",
	}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// IsFinal reports whether an answer of this kind to CreateVolume tells
// external-provisioner that no volume is being created. external-provisioner then forgets
// the request, and nothing deletes a volume that exists nevertheless. After an answer of
// another kind it repeats the call until a volume exists, and deletes that with the claim.
func (k Kind) IsFinal() bool {
	switch k {
	case KindInProgress, KindUnavailable, KindDeadline, KindCanceled, KindStale:
		return false
	default:
		return true
	}
}

// ErrGone is wrapped by errors that prove that the content of a disk no longer exists: the
// kernel has no block device of that number, a loop device has lost its file, or the disk
// holds the remains of this very volume after its deletion. A filesystem that is still
// mounted from such a disk is of no use and may be unmounted. No other error proves this.
var ErrGone = errors.New("the device is gone")

// ErrFenced is wrapped by errors that say that the storage system no longer accepts requests of this
// node for a volume: reads and writes fail until the volume is disconnected and connected again.
var ErrFenced = errors.New("this node is fenced")

// Error is the error type of all operations on volumes. Users read its text in an event of
// the PVC: the operation, the volume, why the operation failed, and the next step.
type Error struct {
	Kind   Kind
	Op     string // the operation: "expand", "stage"; may be empty
	ID     string // volume or snapshot id; may be empty
	Msg    string // what failed and what was found, with the sizes
	Cause  error  // the underlying error; may be nil
	Remedy string // the next step for a person; may be empty

	formatted error // the error that Errorf formatted: its text is Msg, and it wraps each %w
}

// Error renders "expand volume ID: message: cause (next step: remedy)".
func (e *Error) Error() string {
	var b strings.Builder
	switch {
	case e.Op != "" && e.ID != "":
		b.WriteString(e.Op + " " + e.ID + ": ")
	case e.Op != "":
		b.WriteString(e.Op + ": ")
	case e.ID != "":
		b.WriteString(e.ID + ": ")
	}
	b.WriteString(e.Msg)
	if e.Cause != nil {
		if e.Msg != "" {
			b.WriteString(": ")
		}
		b.WriteString(e.Cause.Error())
	}
	if e.Remedy != "" {
		b.WriteString(" (next step: " + e.Remedy + ")")
	}
	return b.String()
}

// Unwrap returns the cause, or the error that Errorf formatted.
func (e *Error) Unwrap() error { return cmp.Or(e.Cause, e.formatted) }

// Errorf returns an Error of the kind with a formatted message. errors.Is and errors.As see
// each %w of the format, as with fmt.Errorf.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Msg: err.Error(), formatted: err}
}

// WithRemedy returns a copy of e that names the next step for a person.
func (e *Error) WithRemedy(remedy string) *Error {
	c := *e
	c.Remedy = remedy
	return &c
}

// Wrap adds the operation and the volume's id to err, and keeps err's kind and remedy; an
// err without a kind gets the kind that KindOf returns. Wrap returns err unchanged if err
// names an operation on this volume, or any operation while id is empty; nil for nil.
func Wrap(err error, op, id string) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) && err == error(e) { //nolint:errorlint // only an unwrapped *Error may be completed in place
		if e.Op != "" && (e.ID == id || id == "") {
			return err
		}
		if e.Op == "" && (e.ID == "" || e.ID == id) {
			c := *e
			c.Op, c.ID = op, id
			return &c
		}
	}
	return &Error{Kind: KindOf(err), Op: op, ID: id, Cause: err}
}

// Join returns the errors that are not nil as one error, like errors.Join, but in one line of
// text: events and log lines cannot show line breaks. It returns nil if all errors are nil.
func Join(errs ...error) error {
	var joined error
	for _, err := range errs {
		switch {
		case err == nil:
		case joined == nil:
			joined = err
		default:
			joined = fmt.Errorf("%w; %w", joined, err)
		}
	}
	return joined
}

// KindOf returns the kind of the first Error in err's chain. Without one, a context error
// has the kind Deadline or Canceled, every other error Internal.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded):
		return KindDeadline
	case errors.Is(err, context.Canceled):
		return KindCanceled
	}
	return KindInternal
}

// IsKind reports whether err is an error of the kind.
func IsKind(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// NonFinal returns err as an answer to CreateVolume whose kind is not final, for the time
// while a volume of the requested name exists or may still be created; why begins the text.
// A final kind becomes Unavailable. AlreadyExists stays: the existing volume is not the
// requested one.
func NonFinal(err error, why string) error {
	if err == nil {
		return nil
	}
	if kind := KindOf(err); !kind.IsFinal() || kind == KindAlreadyExists {
		return err
	}
	return Errorf(KindUnavailable, "%s: %w", why, err)
}
