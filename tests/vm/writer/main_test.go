package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"
)

// What "write" wrote passes "verify", and fails it after one changed bit.
func TestVerifyFindsAChangedBit(t *testing.T) {
	dir, record := t.TempDir(), filepath.Join(t.TempDir(), "record")
	first := filepath.Join(dir, "data-000000")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() { // ends the writing when the first file has data
		defer cancel()
		for info, err := os.Stat(first); err != nil || info.Size() == 0; info, err = os.Stat(first) {
			if operation.Sleep(ctx, 10*time.Millisecond) != nil {
				return
			}
		}
	}()
	var out strings.Builder
	if err := run(ctx, []string{"write", dir, record}, &out); err != nil || !strings.Contains(out.String(), `"bytes":`) {
		t.Fatalf("write: got %q, %v; want a report", out.String(), err)
	}
	verify := func() error { return run(t.Context(), []string{"verify", dir, record}, &out) }
	if err := verify(); err != nil {
		t.Error(err)
	}
	content, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(first, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := verify(); err == nil || !strings.Contains(err.Error(), "data is lost") {
		t.Errorf("verify after one changed bit: got %v, want an error about lost data", err)
	}
	if err := run(t.Context(), []string{"read"}, &out); err == nil {
		t.Error("run without arguments: got no error, want the usage")
	}
}
