package csiserver

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/volume"
)

// codeOf returns the gRPC code of a kind of error. The codes are those of the CSI
// specification v1.13. Where it leaves a choice, the reaction of the Kubernetes sidecars
// decides:
//
//   - OutOfRange is infeasible for external-resizer, so the user may lower the request.
//     With RESOURCE_EXHAUSTED the user could not.
//   - InProgress, Stale, Unavailable, Deadline and Canceled are retried with the same
//     target.
//   - Precondition must never stand for a state that passes: external-resizer and kubelet
//     stop retrying.
func codeOf(kind volume.Kind) codes.Code {
	return cmp.Or(map[volume.Kind]codes.Code{
		volume.KindInternal:        codes.Internal,
		volume.KindInvalid:         codes.InvalidArgument,
		volume.KindOutOfRange:      codes.OutOfRange,
		volume.KindNotFound:        codes.NotFound,
		volume.KindAlreadyExists:   codes.AlreadyExists,
		volume.KindInProgress:      codes.Aborted,
		volume.KindStale:           codes.Aborted,
		volume.KindUnavailable:     codes.Unavailable,
		volume.KindDeadline:        codes.DeadlineExceeded,
		volume.KindCanceled:        codes.Canceled,
		volume.KindPrecondition:    codes.FailedPrecondition,
		volume.KindExhausted:       codes.ResourceExhausted,
		volume.KindDenied:          codes.PermissionDenied,
		volume.KindUnauthenticated: codes.Unauthenticated,
		volume.KindUnsupported:     codes.Unimplemented,
	}[kind], codes.Internal)
}

// maxMessageBytes bounds the text of an error. The output of a tool can be long, and gRPC
// clients drop headers above 8 KiB, and with them the code.
const maxMessageBytes = 4 << 10

// toStatus converts err into a gRPC status. An err that is a status itself is returned
// unchanged. An err that wraps a status keeps the status's code, except a volume.Error: its
// kind already takes the wrapped status into account.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	// Not errors.As: only an unwrapped status is the handler's own answer.
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return err
	}
	if _, ok := errors.AsType[*volume.Error](err); !ok {
		if s, ok := status.FromError(err); ok {
			return status.Error(s.Code(), truncate(err.Error()))
		}
	}
	return status.Error(codeOf(volume.KindOf(err)), truncate(err.Error()))
}

// truncate returns text as valid UTF-8 of at most maxMessageBytes, as gRPC needs it.
func truncate(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= maxMessageBytes {
		return text
	}
	const suffix = " … (truncated; the log has the whole text)"
	end := maxMessageBytes - len(suffix)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + suffix
}

// convertErrors converts the error of a handler into a gRPC status. It logs the whole text
// of an error that it has to truncate.
func (s *server) convertErrors(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler,
) (any, error) {
	resp, err := next(ctx, req)
	if err == nil {
		return resp, nil
	}
	if text := err.Error(); len(text) > maxMessageBytes {
		s.Log.ErrorContext(ctx, "a text of an error is too long for gRPC: the caller gets its beginning",
			"method", method(info), "error", text)
	}
	return nil, toStatus(err)
}
