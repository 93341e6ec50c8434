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

// newLogger returns a logger that writes records of at least level (debug, info, warn,
// error) in format (text, json), and adds the request id of the context to each record.
func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var minLevel slog.Level
	if err := minLevel.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q is not known: use debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: minLevel}
	switch strings.ToLower(format) {
	case "text":
		return slog.New(contextHandler{slog.NewTextHandler(w, options)}), nil
	case "json":
		return slog.New(contextHandler{slog.NewJSONHandler(w, options)}), nil
	}
	return nil, fmt.Errorf("--log-format %q is not known: use text or json", format)
}

// redirectKlog redirects to log what libraries of Kubernetes log through klog. klog is
// global to the process, so only a program may call redirectKlog, before anything else
// runs. If log writes debug records, klog's verbosity becomes 4, at which mount-utils logs
// the commands that it runs.
func redirectKlog(ctx context.Context, log *slog.Logger) error {
	klog.SetSlogLogger(log)
	verbosity := "0"
	if log.Enabled(ctx, slog.LevelDebug) {
		verbosity = "4"
	}
	fs := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(fs)
	if err := fs.Set("v", verbosity); err != nil {
		return fmt.Errorf("cannot set the verbosity of klog: %w", err)
	}
	return nil
}

// requestIDKey is the key of the context's value that withRequestID sets.
type requestIDKey struct{}

// contextHandler adds the request id of the context to each record.
type contextHandler struct{ slog.Handler }

func (h contextHandler) Handle(ctx context.Context, record slog.Record) error {
	if id, ok := ctx.Value(requestIDKey{}).(string); ok {
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
