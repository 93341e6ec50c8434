package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestNodesAreReadOnlyWithKubernetes(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	if nodes, err := openNodes(t.Context(), config{}, log); err != nil || nodes != nil ||
		!strings.Contains(text.String(), "cannot be fenced") {
		t.Errorf("got %v, %v without --kubernetes, want none and a warning; log:\n%s", nodes, err, text.String())
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := openNodes(t.Context(), config{kubernetes: true}, log); err == nil ||
		!strings.Contains(err.Error(), "--kubernetes: KUBERNETES_SERVICE_HOST") {
		t.Errorf("got %v outside of a pod, want an error", err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	if nodes, err := openNodes(t.Context(), config{kubernetes: true}, log); err != nil || nodes == nil {
		t.Errorf("got %v, %v in a pod, want the Nodes", nodes, err)
	}
}
