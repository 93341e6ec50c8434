package volume

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Kind tells what an error means to the caller of an operation. It is chosen
// where the cause is known and is turned into a gRPC code in one place only
// (package csiserver), because the container orchestrator's next step
// (retry, give up, let the user lower the request) hangs on that code.
type Kind uint8

// The kinds.
const (
	// KindInternal: an invariant is broken or the cause is not understood.
	KindInternal Kind = iota
	// KindInvalid: the request is malformed; repeating it cannot help.
	KindInvalid
	// KindOutOfRange: the size cannot be had (limit, quota, pool full, file
	// system limit); the user may ask for another.
	KindOutOfRange
	// KindNotFound: the backend says that the volume, snapshot or node does not
	// exist. Never used for a path that is missing on a node: kubelet takes
	// this kind as "can never work".
	KindNotFound
	// KindAlreadyExists: the name is taken by an object that differs from the
	// request.
	KindAlreadyExists
	// KindInProgress: an earlier operation on the same volume still runs; retry.
	KindInProgress
	// KindUnavailable: the backend cannot be reached or is overloaded; retry.
	KindUnavailable
	// KindDeadline: the time given by the caller ran out before the wanted state
	// was read back.
	KindDeadline
	// KindCanceled: the caller went away.
	KindCanceled
	// KindPrecondition: the volume is in a state that rules the operation out and
	// that will not pass by itself (in use on delete, attached elsewhere, a
	// filesystem that must be repaired first).
	KindPrecondition
	// KindExhausted: no attachment slot is left on the node.
	KindExhausted
	// KindDenied: the backend refused for lack of permission.
	KindDenied
	// KindUnauthenticated: the backend did not accept the credentials.
	KindUnauthenticated
	// KindUnsupported: this backend or connector has no such operation.
	KindUnsupported
	// KindStale: a paging token does not belong to the present listing; start
	// over.
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

// IsFinal reports whether an answer of the kind to CreateVolume tells
// external-provisioner that nothing is being made: then it forgets the claim, and
// when the claim is deleted, nobody removes a volume that there is all the same.
// After one of the other kinds it goes on calling until there is a volume, which
// it then deletes with the claim.
func (k Kind) IsFinal() bool {
	switch k {
	case KindInProgress, KindUnavailable, KindDeadline, KindCanceled, KindStale:
		return false
	default:
		return true
	}
}

// ErrGone is wrapped by errors that prove that what a disk held is gone: the
// kernel has no block device of that number any more, a loop device has lost
// its file, or a disk holds what is left of this very volume after its deletion.
// What is still mounted of such a disk serves nobody and may be unmounted. No
// other error proves anything of the kind.
var ErrGone = errors.New("the device is gone")

// Error is the one error type of the domain. Its text is what the user reads
// in an event of the PVC: what was attempted on which volume, why it failed,
// and what to do next.
type Error struct {
	Kind   Kind
	Op     string // what was attempted: "expand", "stage"; may be empty
	ID     string // volume or snapshot id; may be empty
	Msg    string // what happened, with the sizes
	Cause  error  // the underlying error; may be nil
	Remedy string // the next step for a person; may be empty

	chain error // what %w named in Errorf; its text is in Msg already
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

// Unwrap returns the cause.
func (e *Error) Unwrap() error {
	if e.Cause != nil {
		return e.Cause
	}
	return e.chain
}

// Errorf makes an Error of a kind. One %w in the format is kept for errors.Is
// and errors.As, as with fmt.Errorf.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Msg: err.Error(), chain: errors.Unwrap(err)}
}

// WithRemedy returns a copy of e that names the next step for a person.
func (e *Error) WithRemedy(remedy string) *Error {
	c := *e
	c.Remedy = remedy
	return &c
}

// Wrap says what was attempted on which volume when err happened. Kind and
// remedy of err are kept; an err without a kind gets the one of KindOf. An
// err that already names an operation on this very volume is returned as it
// is; nil stays nil.
func Wrap(err error, op, id string) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) && err == error(e) { //nolint:errorlint // only an unwrapped *Error may be completed in place
		if e.Op != "" && (e.ID == id || id == "") {
			return err
		}
		if e.Op == "" && e.ID == "" {
			c := *e
			c.Op, c.ID = op, id
			return &c
		}
	}
	return &Error{Kind: KindOf(err), Op: op, ID: id, Cause: err}
}

// KindOf returns the kind of the first Error in err's chain. A bare context
// error has the kind Deadline or Canceled; everything else is Internal.
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

// IsKind tells whether err is an error of the kind.
func IsKind(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// NonFinal returns err as the answer to CreateVolume while a volume of the name
// exists or may come to be; why says so. A final kind becomes Unavailable. Only
// AlreadyExists stays: the volume that exists is not the one asked for.
func NonFinal(err error, why string) error {
	if err == nil {
		return nil
	}
	if kind := KindOf(err); !kind.IsFinal() || kind == KindAlreadyExists {
		return err
	}
	return Errorf(KindUnavailable, "%s: %w", why, err)
}
