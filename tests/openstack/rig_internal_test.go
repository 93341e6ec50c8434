package openstack

import (
	"context"
	"testing"
	"time"
)

// A program whose children outlive it does not keep its caller beyond the time.
func TestProgramsObeyTheirContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := output(ctx, "sh", "-c", "sleep 30; true"); err == nil || time.Since(start) > 20*time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
}
