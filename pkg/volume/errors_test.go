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
	err := &Error{Kind: OutOfRange, Op: "expand", ID: "vol-1", Msg: "the pool is full", Cause: io.ErrShortWrite, Remedy: "ask for 3 GiB or less"}
	want := "expand vol-1: the pool is full: short write (next step: ask for 3 GiB or less)"
	if got := err.Error(); got != want {
		t.Errorf("text %q, want %q", got, want)
	}
	if got := Errorf(Internal, "reading: %w", io.EOF).Error(); got != "reading: EOF" {
		t.Errorf("the cause is not named once: %q", got)
	}
}

func TestErrorfKeepsTheChain(t *testing.T) {
	err := Errorf(Internal, "reading the superblock: %w", io.ErrUnexpectedEOF)
	if !errors.Is(err.WithRemedy("replace the disk"), io.ErrUnexpectedEOF) {
		t.Error("the cause is lost")
	}
}

func TestWrap(t *testing.T) {
	if Wrap(nil, "expand", "vol-1") != nil {
		t.Error("nil became an error")
	}
	inner := Errorf(OutOfRange, "no room").WithRemedy("ask for less")
	err := Wrap(inner, "expand", "vol-1")
	if !IsKind(err, OutOfRange) || err.Error() != "expand vol-1: no room (next step: ask for less)" {
		t.Errorf("wrapped: %v, kind %s", err, KindOf(err))
	}
	if again := Wrap(err, "expand", "vol-1"); again != err { //nolint:errorlint // identity is the point
		t.Errorf("the same operation is named twice: %v", again)
	}
	outer := Wrap(fmt.Errorf("outer: %w", err), "stage", "vol-1")
	if !IsKind(outer, OutOfRange) || !strings.HasPrefix(outer.Error(), "stage vol-1: outer: expand vol-1: no room") {
		t.Errorf("wrapped through fmt: %v, kind %s", outer, KindOf(outer))
	}
	if inner.Op != "" {
		t.Error("wrapping changed the error that was wrapped")
	}
}

func TestKindOf(t *testing.T) {
	for kind, err := range map[Kind]error{
		Internal: io.EOF,
		Deadline: fmt.Errorf("waiting: %w", context.DeadlineExceeded),
		Canceled: fmt.Errorf("waiting: %w", context.Canceled),
		NotFound: fmt.Errorf("outer: %w", Errorf(NotFound, "gone: %w", context.Canceled)),
	} {
		if got := KindOf(err); got != kind {
			t.Errorf("KindOf(%v) = %s, want %s", err, got, kind)
		}
	}
	if IsKind(nil, Internal) {
		t.Error("no error has a kind")
	}
	if got := Stale.String(); got != "stale" {
		t.Errorf("the last kind is called %q: the names are out of step", got)
	}
}

func TestNotFinalKeepsOnlyAlreadyExists(t *testing.T) {
	if NotFinal(nil, "it exists") != nil {
		t.Error("nil became an error")
	}
	for kind := Internal; kind <= Stale; kind++ {
		in := Errorf(kind, "refused").WithRemedy("ask again")
		err := NotFinal(in, "it exists")
		want := Unavailable
		if !kind.Final() || kind == AlreadyExists {
			want = kind
		}
		if got := KindOf(err); got != want || !errors.Is(err, in) || !strings.Contains(err.Error(), "refused (next step: ask again)") {
			t.Errorf("%s: %v (%s), want %s", kind, err, got, want)
		}
		if changed := err != error(in); changed != (want != kind) { //nolint:errorlint // identity is the point
			t.Errorf("%s: changed %t, want %t", kind, changed, want != kind)
		}
	}
}
