package openstack

import (
	"context"
	"testing"
	"time"
)

// TestProgramEndsWithItsContext also covers a child that outlives the program and keeps its output
// open.
func TestProgramEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := runProgram(ctx, "sh", "-c", "sleep 30; true"); err == nil || time.Since(start) > 20*time.Second {
		t.Errorf("got %v after %s, want an error within 20s", err, time.Since(start))
	}
}
