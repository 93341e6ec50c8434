package csiserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/volume"
)

func TestCodeOf(t *testing.T) {
	t.Parallel()
	want := map[volume.Kind]codes.Code{
		volume.KindInternal:        codes.Internal,
		volume.KindInvalid:         codes.InvalidArgument,
		volume.KindOutOfRange:      codes.OutOfRange,
		volume.KindNotFound:        codes.NotFound,
		volume.KindAlreadyExists:   codes.AlreadyExists,
		volume.KindInProgress:      codes.Aborted,
		volume.KindUnavailable:     codes.Unavailable,
		volume.KindDeadline:        codes.DeadlineExceeded,
		volume.KindCanceled:        codes.Canceled,
		volume.KindPrecondition:    codes.FailedPrecondition,
		volume.KindExhausted:       codes.ResourceExhausted,
		volume.KindDenied:          codes.PermissionDenied,
		volume.KindUnauthenticated: codes.Unauthenticated,
		volume.KindUnsupported:     codes.Unimplemented,
		volume.KindStale:           codes.Aborted,
	}
	for kind := range volume.Kind(255) {
		code, known := want[kind]
		if !known {
			if !strings.HasPrefix(kind.String(), "kind(") {
				t.Errorf("the kind %s is missing in this table", kind)
			}
			code = codes.Internal
		}
		if got := codeOf(kind); got != code {
			t.Errorf("%s: got %s, want %s", kind, got, code)
		}
	}
}

// external-provisioner 6 takes every other code as proof that no volume is being created
// (checkError in its pkg/controller).
func TestFinalKindsHaveFinalCodes(t *testing.T) {
	t.Parallel()
	retried := []codes.Code{codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.Aborted}
	for kind := volume.KindInternal; kind <= volume.KindStale; kind++ {
		if code := codeOf(kind); kind.IsFinal() == slices.Contains(retried, code) {
			t.Errorf("%s: final %t, but its code is %s", kind, kind.IsFinal(), code)
		}
	}
}

func TestToStatus(t *testing.T) {
	t.Parallel()
	refused := status.Error(codes.DataLoss, "refused")
	for name, test := range map[string]struct {
		err  error
		code codes.Code
		text string
	}{
		"domain error": {volume.Errorf(volume.KindOutOfRange,
			"too large").WithRemedy("ask for less"), codes.OutOfRange, "too large (next step: ask for less)"},
		"domain error, wrapped": {fmt.Errorf("expand: %w", volume.Errorf(volume.KindDenied,
			"no")), codes.PermissionDenied, "expand: no"},
		"status": {refused, codes.DataLoss, "refused"},
		"status, wrapped": {
			fmt.Errorf("call: %w", refused), codes.DataLoss, "call: rpc error: code = DataLoss desc = refused",
		},
		"status below domain error": {
			&volume.Error{Kind: volume.KindUnavailable, Msg: "cloud", Cause: refused}, codes.Unavailable,
			"cloud: rpc error: code = DataLoss desc = refused",
		},
		"deadline": {
			fmt.Errorf("wait: %w", context.DeadlineExceeded), codes.DeadlineExceeded, "wait: context deadline exceeded",
		},
		"canceled": {context.Canceled, codes.Canceled, "context canceled"},
		"unknown":  {errors.New("broken"), codes.Internal, "broken"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := status.Convert(toStatus(test.err))
			if got.Code() != test.code || got.Message() != test.text {
				t.Errorf("got %s %q, want %s %q", got.Code(), got.Message(), test.code, test.text)
			}
		})
	}
	if toStatus(nil) != nil {
		t.Error("nil: got an error, want none")
	}
}

func TestTruncate(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		strings.Repeat("ä", maxMessageBytes), "short \xff", strings.Repeat("a", maxMessageBytes),
	} {
		got := truncate(text)
		if len(got) > maxMessageBytes || !utf8.ValidString(got) || !strings.HasPrefix(got, text[:6]) {
			t.Errorf("truncate of %d bytes: got %d bytes, valid UTF-8 %t", len(text), len(got), utf8.ValidString(got))
		}
	}
}
