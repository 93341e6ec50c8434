package csiserver

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/volume"
)

// maxMessage bounds the text of an error in bytes. The output of a tool can be
// long, while gRPC clients drop headers above 8 KiB and with them the code.
const maxMessage = 4 << 10

// Code returns the gRPC code that stands for a kind of error. The codes are
// those of the CSI specification v1.13; where it leaves a choice, the next
// step of the Kubernetes sidecars decided:
//
//   - OutOfRange is infeasible for external-resizer, so that the user may
//     lower the request. RESOURCE_EXHAUSTED would pin the user to it.
//   - InProgress, Unavailable, Deadline and Canceled are retried with the same
//     target.
//   - Precondition must never stand for a state that passes: external-resizer
//     and kubelet stop retrying.
func Code(kind volume.Kind) codes.Code {
	switch kind {
	case volume.KindInternal:
		return codes.Internal
	case volume.KindInvalid:
		return codes.InvalidArgument
	case volume.KindOutOfRange:
		return codes.OutOfRange
	case volume.KindNotFound:
		return codes.NotFound
	case volume.KindAlreadyExists:
		return codes.AlreadyExists
	case volume.KindInProgress, volume.KindStale:
		return codes.Aborted
	case volume.KindUnavailable:
		return codes.Unavailable
	case volume.KindDeadline:
		return codes.DeadlineExceeded
	case volume.KindCanceled:
		return codes.Canceled
	case volume.KindPrecondition:
		return codes.FailedPrecondition
	case volume.KindExhausted:
		return codes.ResourceExhausted
	case volume.KindDenied:
		return codes.PermissionDenied
	case volume.KindUnauthenticated:
		return codes.Unauthenticated
	case volume.KindUnsupported:
		return codes.Unimplemented
	}
	return codes.Internal
}

// toStatus gives err its gRPC code. A gRPC status is passed on unchanged, but
// one that only lies somewhere below an error of the domain does not count:
// the kind was chosen with more knowledge.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	// Not errors.As: only an unwrapped status is the handler's own answer.
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return err
	}
	var domain *volume.Error
	if !errors.As(err, &domain) {
		if s, ok := status.FromError(err); ok {
			return status.Error(s.Code(), clip(err.Error()))
		}
	}
	return status.Error(Code(volume.KindOf(err)), clip(err.Error()))
}

// clip makes a text fit for a gRPC message.
func clip(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= maxMessage {
		return text
	}
	const more = " … (shortened; the whole text is in the log)"
	cut := maxMessage - len(more)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + more
}

// convertErrors gives every error of a handler its gRPC code. The whole text
// of one that had to be shortened is logged here.
func (s *Server) convertErrors(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	if err == nil {
		return resp, nil
	}
	if text := err.Error(); len(text) > maxMessage {
		s.log.ErrorContext(ctx, "long error", "method", method(info), "error", text)
	}
	return nil, toStatus(err)
}
