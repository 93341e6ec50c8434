package csiserver

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"k8s.io/klog/v2"
)

// NewLogger returns a logger that writes records of at least a level (debug,
// info, warn, error) as text or json, and adds the request id of the context
// to each.
func NewLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	minimum, err := parseLevel(level)
	if err != nil {
		return nil, err
	}
	options := &slog.HandlerOptions{Level: minimum}
	switch strings.ToLower(format) {
	case "text":
		return slog.New(contextHandler{slog.NewTextHandler(w, options)}), nil
	case "json":
		return slog.New(contextHandler{slog.NewJSONHandler(w, options)}), nil
	}
	return nil, fmt.Errorf("log format %q: want text or json", format)
}

func parseLevel(text string) (slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(text)); err != nil {
		return level, fmt.Errorf("log level %q: want debug, info, warn or error", text)
	}
	return level, nil
}

// BridgeKlog sends what libraries of Kubernetes log through klog to log. klog
// is global to the process, so only a main function should call it, before
// anything else runs. At level debug klog's verbosity becomes 4 (in which
// mount-utils tells the commands it runs).
func BridgeKlog(log *slog.Logger, level slog.Level) error {
	klog.SetSlogLogger(log)
	verbosity := "0"
	if level <= slog.LevelDebug {
		verbosity = "4"
	}
	fs := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(fs)
	if err := fs.Set("v", verbosity); err != nil {
		return fmt.Errorf("verbosity of klog: %w", err)
	}
	return nil
}

type requestIDKey struct{}

// RequestID returns the id that the server gave to the call of ctx; it is in
// each log record of the call. It is empty outside a call.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// contextHandler adds what the context knows to each record.
type contextHandler struct{ slog.Handler }

func (h contextHandler) Handle(ctx context.Context, record slog.Record) error {
	if id := RequestID(ctx); id != "" {
		record.AddAttrs(slog.String("request_id", id))
	}
	return h.Handler.Handle(ctx, record)
}

func (h contextHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return contextHandler{h.Handler.WithAttrs(attrs)}
}

func (h contextHandler) WithGroup(name string) slog.Handler {
	return contextHandler{h.Handler.WithGroup(name)}
}
