package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestErrorText(t *testing.T) {
	err := &Error{
		Kind: KindOutOfRange, Op: "expand", ID: "vol-1", Msg: "the pool is full", Cause: io.ErrShortWrite,
		Remedy: "ask for 3 GiB or less",
	}
	want := "expand vol-1: the pool is full: short write (next step: ask for 3 GiB or less)"
	if got := err.Error(); got != want {
		t.Errorf("text %q, want %q", got, want)
	}
	if got := Errorf(KindInternal, "reading: %w", io.EOF).Error(); got != "reading: EOF" {
		t.Errorf("the cause is not named once: %q", got)
	}
}

func TestErrorfKeepsTheChain(t *testing.T) {
	err := Errorf(KindInternal, "reading the superblock: %w", io.ErrUnexpectedEOF)
	if !errors.Is(err.WithRemedy("replace the disk"), io.ErrUnexpectedEOF) {
		t.Error("the cause is lost")
	}
}

func TestErrorfKeepsTheChainOfEachCause(t *testing.T) {
	err := Errorf(KindInternal, "reading: %w: %w", io.ErrUnexpectedEOF, context.Canceled).WithRemedy("replace the disk")
	for _, cause := range []error{io.ErrUnexpectedEOF, context.Canceled} {
		if !errors.Is(err, cause) {
			t.Errorf("errors.Is(%v, %v): got false, want true", err, cause)
		}
	}
	if want := "reading: unexpected EOF: context canceled (next step: replace the disk)"; err.Error() != want {
		t.Errorf("got text %q, want %q", err, want)
	}
}

func TestWrapNamesTheVolumeOnce(t *testing.T) {
	inner := &Error{Kind: KindInProgress, ID: "vol-1", Msg: "another operation is running"}
	for id, want := range map[string]string{
		"vol-1": "expand vol-1: another operation is running",
		"vol-2": "expand vol-2: vol-1: another operation is running",
		"":      "expand: vol-1: another operation is running",
	} {
		if got := Wrap(inner, "expand", id); got.Error() != want || !IsKind(got, KindInProgress) {
			t.Errorf("Wrap with the id %q: got %q (kind %s), want %q (kind %s)", id, got, KindOf(got), want, KindInProgress)
		}
	}
}

func TestWrap(t *testing.T) {
	if Wrap(nil, "expand", "vol-1") != nil {
		t.Error("nil became an error")
	}
	inner := Errorf(KindOutOfRange, "no space").WithRemedy("ask for less")
	err := Wrap(inner, "expand", "vol-1")
	if !IsKind(err, KindOutOfRange) || err.Error() != "expand vol-1: no space (next step: ask for less)" {
		t.Errorf("wrapped: %v, kind %s", err, KindOf(err))
	}
	if again := Wrap(err, "expand", "vol-1"); again != err { //nolint:errorlint // identity is the point
		t.Errorf("the same operation is named twice: %v", again)
	}
	outer := Wrap(fmt.Errorf("outer: %w", err), "stage", "vol-1")
	if !IsKind(outer, KindOutOfRange) || !strings.HasPrefix(outer.Error(), "stage vol-1: outer: expand vol-1: no space") {
		t.Errorf("wrapped through fmt: %v, kind %s", outer, KindOf(outer))
	}
	if inner.Op != "" {
		t.Error("wrapping changed the error that was wrapped")
	}
}

func TestKindOf(t *testing.T) {
	for kind, err := range map[Kind]error{
		KindInternal: io.EOF,
		KindDeadline: fmt.Errorf("waiting: %w", context.DeadlineExceeded),
		KindCanceled: fmt.Errorf("waiting: %w", context.Canceled),
		KindNotFound: fmt.Errorf("outer: %w", Errorf(KindNotFound, "gone: %w", context.Canceled)),
	} {
		if got := KindOf(err); got != kind {
			t.Errorf("KindOf(%v) = %s, want %s", err, got, kind)
		}
	}
	if IsKind(nil, KindInternal) {
		t.Error("no error has a kind")
	}
	if got := KindStale.String(); got != "stale" {
		t.Errorf("the last kind is called %q: the names are out of step", got)
	}
}

func TestNonFinalKeepsOnlyAlreadyExists(t *testing.T) {
	if NonFinal(nil, "it exists") != nil {
		t.Error("nil became an error")
	}
	for kind := KindInternal; kind <= KindStale; kind++ {
		in := Errorf(kind, "refused").WithRemedy("ask again")
		err := NonFinal(in, "it exists")
		want := KindUnavailable
		if !kind.IsFinal() || kind == KindAlreadyExists {
			want = kind
		}
		if got := KindOf(err); got != want || !errors.Is(err, in) ||
			!strings.Contains(err.Error(), "refused (next step: ask again)") {
			t.Errorf("%s: %v (%s), want %s", kind, err, got, want)
		}
		if changed := err != error(in); changed != (want != kind) { //nolint:errorlint // identity is the point
			t.Errorf("%s: changed %t, want %t", kind, changed, want != kind)
		}
	}
}

func TestJoinReturnsOneLine(t *testing.T) {
	first, second := Errorf(KindDeadline, "first"), errors.New("second")
	err := Join(nil, first, nil, second)
	if got, want := err.Error(), "first; second"; got != want {
		t.Errorf("Join = %q, want %q", got, want)
	}
	if !errors.Is(err, second) || KindOf(err) != KindDeadline {
		t.Errorf("Join(first, second) = %v, kind %s; want one that wraps both, of kind deadline", err, KindOf(err))
	}
	if err := Join(nil, nil); err != nil {
		t.Errorf("Join(nil, nil) = %v, want nil", err)
	}
}
