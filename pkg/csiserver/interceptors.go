package csiserver

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path"
	"runtime/debug"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/kubernetes-csi/csi-lib-utils/protosanitizer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// interceptors returns the layers around each handler, outermost first. The conversion of
// errors and the recovery come after log and metrics, so that these see the code that the
// caller gets.
func (s *server) interceptors() []grpc.UnaryServerInterceptor {
	return []grpc.UnaryServerInterceptor{
		withRequestID,
		s.logCall,
		s.Metrics.measure,
		s.refuseWhenStopping,
		s.convertErrors,
		recovery.UnaryServerInterceptor(recovery.WithRecoveryHandlerContext(s.recoverPanic)),
		s.withDeadline,
		withSecrets,
	}
}

// method returns the short name of a call, such as "ControllerExpandVolume".
func method(info *grpc.UnaryServerInfo) string { return path.Base(info.FullMethod) }

// withRequestID gives the call a random id, which the logger adds to each record.
func withRequestID(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	return next(context.WithValue(ctx, requestIDKey{}, fmt.Sprintf("%016x", rand.Uint64())), req)
}

// The context of a call ends before the caller's deadline, by answerMargin or by 1/answerParts of
// the remaining time, whichever is smaller. The time is for what a handler does after its context
// has ended, and for the transport of the answer, on a machine that is busy.
const (
	answerMargin = 2 * time.Second
	answerParts  = 5
)

// withDeadline ends the context of a call before the caller's deadline, so that the caller gets an
// error that names the volume and what is missing: after its deadline it sees only
// DEADLINE_EXCEEDED. It bounds calls whose caller has set no deadline, so that no call can keep a
// volume locked for ever.
func (s *server) withDeadline(
	ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler,
) (any, error) {
	if _, ok := ctx.Deadline(); !ok {
		limited, cancel := context.WithTimeout(ctx, s.CallTimeout)
		defer cancel()
		return next(limited, req)
	}
	limited, cancel := operation.WithMargin(ctx, answerMargin, answerParts)
	defer cancel()
	return next(limited, req)
}

// withSecrets puts the secrets of a request into the context of its handler.
func withSecrets(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if r, ok := req.(interface{ GetSecrets() map[string]string }); ok {
		ctx = volume.WithSecrets(ctx, r.GetSecrets())
	}
	return next(ctx, req)
}

// refuseWhenStopping refuses calls on connections that are still open when the server has
// begun to stop (kind Unavailable), and counts the running calls.
func (s *server) refuseWhenStopping(
	ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler,
) (any, error) {
	if s.stopping.Load() {
		return nil, toStatus(volume.Errorf(volume.KindUnavailable, "the plugin is stopping").
			WithRemedy("no action needed: Kubernetes retries this automatically"))
	}
	s.running.Add(1)
	defer s.running.Add(-1)
	return next(ctx, req)
}

// recoverPanic returns the error of a call whose handler panicked. Only the log gets the
// panic's value, which may hold secrets.
func (s *server) recoverPanic(ctx context.Context, value any) error {
	s.Log.ErrorContext(ctx, "panic", "value", fmt.Sprint(value), "stack", string(debug.Stack()))
	return volume.Errorf(volume.KindInternal, "the plugin panicked during this call").
		WithRemedy("find the record \"panic\" in the log of the plugin, and report it as a bug of the driver")
}

// logCall logs one record per call, and at level debug the request and the response
// without their secrets.
func (s *server) logCall(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler,
) (any, error) {
	s.Log.DebugContext(ctx, "csi request", "method", method(info), "request", sanitized{req})
	start := time.Now()
	resp, err := next(ctx, req)
	code := status.Code(err)
	attrs := append(callAttrs(req, resp),
		slog.String("method", method(info)), slog.String("code", code.String()), slog.Duration("duration", time.Since(start)))
	if err != nil {
		attrs = append(attrs, slog.String("error", status.Convert(err).Message()))
	} else {
		s.Log.DebugContext(ctx, "csi response", "method", method(info), "response", sanitized{resp})
	}
	s.Log.LogAttrs(ctx, callLevel(info, code), "csi call", attrs...)
	return resp, err
}

// callLevel returns the level of a call's record. Successful calls that orchestrators
// repeat periodically have level debug.
func callLevel(info *grpc.UnaryServerInfo, code codes.Code) slog.Level {
	switch code {
	case codes.OK:
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return slog.LevelError
	default:
		return slog.LevelWarn
	}
	switch method(info) {
	case "Probe", "GetPluginInfo", "GetPluginCapabilities", "ControllerGetCapabilities", "NodeGetCapabilities",
		"NodeGetVolumeStats", "GetCapacity", "ListVolumes", "GetIdentity", "GetCapabilities":
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// callAttrs returns the names, ids and the size in a call, for its record.
func callAttrs(req, resp any) []slog.Attr {
	var attrs []slog.Attr
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	if r, ok := req.(interface{ GetName() string }); ok {
		add("name", r.GetName())
	}
	if r, ok := req.(interface{ GetVolumeId() string }); ok {
		add("volume", r.GetVolumeId())
	}
	if r, ok := resp.(*csi.CreateVolumeResponse); ok {
		add("volume", r.GetVolume().GetVolumeId())
	}
	if r, ok := resp.(*csi.CreateSnapshotResponse); ok {
		add("snapshot", r.GetSnapshot().GetSnapshotId())
	}
	if r, ok := req.(interface{ GetSourceVolumeId() string }); ok {
		add("volume", r.GetSourceVolumeId())
	}
	if r, ok := req.(interface{ GetSnapshotId() string }); ok {
		add("snapshot", r.GetSnapshotId())
	}
	if r, ok := req.(interface{ GetNodeId() string }); ok {
		add("node", r.GetNodeId())
	}
	if r, ok := req.(interface{ GetCapacityRange() *csi.CapacityRange }); ok && r.GetCapacityRange() != nil {
		attrs = append(attrs, slog.Int64("required_bytes", r.GetCapacityRange().GetRequiredBytes()))
	}
	return attrs
}

// sanitized formats a CSI message without its secrets, but only if a handler writes the
// record.
type sanitized struct{ message any }

// LogValue implements slog.LogValuer.
func (v sanitized) LogValue() slog.Value {
	return slog.StringValue(protosanitizer.StripSecrets(v.message).String())
}
