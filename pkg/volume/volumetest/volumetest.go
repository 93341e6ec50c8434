// Package volumetest has the check of errors of package volume that the tests of the
// services and backends share.
package volumetest

import (
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

// WantKind fails the test unless err has the kind and its text contains each of words.
func WantKind(tb testing.TB, err error, kind volume.Kind, words ...string) {
	tb.Helper()
	if !volume.IsKind(err, kind) {
		tb.Errorf("got %v (kind %s), want kind %s", err, volume.KindOf(err), kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			tb.Errorf("got error %q, want %q in it", err, w)
		}
	}
}
