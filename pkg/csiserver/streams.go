package csiserver

import (
	"context"

	"google.golang.org/grpc"
)

// This file runs the interceptors of calls around calls that answer with a stream (the service
// SnapshotMetadata).

// streamInterceptor returns the unary interceptors, outermost first, as one for streams. They see
// neither request nor response: the handler of a stream receives the one and sends the others.
func streamInterceptor(unary []grpc.UnaryServerInterceptor) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		next := func(ctx context.Context, _ any) (any, error) {
			return nil, handler(srv, &streamWithContext{ServerStream: stream, ctx: ctx})
		}
		unaryInfo := &grpc.UnaryServerInfo{Server: srv, FullMethod: info.FullMethod}
		for i := len(unary) - 1; i >= 0; i-- {
			interceptor, inner := unary[i], next
			next = func(ctx context.Context, req any) (any, error) { return interceptor(ctx, req, unaryInfo, inner) }
		}
		_, err := next(stream.Context(), nil)
		return err
	}
}

// streamWithContext is a stream whose context the interceptors have changed.
type streamWithContext struct {
	grpc.ServerStream

	ctx context.Context //nolint:containedctx // grpc.ServerStream hands the context to its handler this way
}

// Context implements grpc.ServerStream.
func (s *streamWithContext) Context() context.Context { return s.ctx }
