package csiserver

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

// Not parallel: klog is global.
func TestKlogIsRedirected(t *testing.T) {
	state := klog.CaptureState()
	t.Cleanup(state.Restore)
	var out buffer
	for _, level := range []string{"info", "debug"} {
		log, err := newLogger(&out, "text", level)
		if err != nil {
			t.Fatal(err)
		}
		if err := redirectKlog(t.Context(), log); err != nil {
			t.Fatal(err)
		}
		klog.Infof("plain at %s", level)
		klog.V(4).Infof("mounting at %s", level)
	}
	got := out.String()
	for text, want := range map[string]bool{
		"plain at info": true, "mounting at info": false, "plain at debug": true, "mounting at debug": true,
	} {
		if strings.Contains(got, text) != want {
			t.Errorf("%q in the log: got %t, want %t\n%s", text, !want, want, got)
		}
	}
}

func TestLoggerAddsRequestID(t *testing.T) {
	t.Parallel()
	var out buffer
	log, err := newLogger(&out, "text", "WARN")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithValue(t.Context(), requestIDKey{}, "abc")
	log.InfoContext(ctx, "too low")
	log.With("a", 1).WithGroup("g").WarnContext(ctx, "shown", slog.Int("b", 2))
	if got := out.String(); strings.Contains(got, "too low") || !strings.Contains(got, "request_id=abc") ||
		!strings.Contains(got, "g.b=2") {
		t.Errorf("got log %q, want only the warning, with request_id and g.b", got)
	}
	if _, err := newLogger(&out, "xml", "info"); err == nil {
		t.Error("format xml: got success, want an error")
	}
	if _, err := newLogger(&out, "text", "loud"); err == nil {
		t.Error("level loud: got success, want an error")
	}
}
