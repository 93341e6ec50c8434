package autogrow

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
)

// The record keeps what counts within the hour, at most maxRecent growths, without losing bytes.
func TestRecord(t *testing.T) {
	r, now := record{}, testTime
	for i := range 2 * maxRecent {
		now = now.Add(time.Minute)
		r = r.next(now, gib, 2*gib, gib, false)
		var used fleetUsage
		used.add(newSubject().claim, r, now)
		if want := gib * volume.Size(i+1); used.bytes != want || len(r.Recent) > maxRecent {
			t.Fatalf("after %d growths of 1 GiB: got %s in %d entries, want %s", i+1, used.bytes, len(r.Recent), want)
		}
	}
	r = r.next(now, gib, 2*gib, gib, false)
	if r = r.next(now, gib, 9*gib, gib, true); r.Recent[len(r.Recent)-1].Bytes != 8*gib || len(r.Recent) != maxRecent {
		t.Errorf("got %v, want half a step in place of the whole one", r.Recent)
	}
	if r = r.next(now.Add(2*time.Hour), gib, 2*gib, gib, false); len(r.Recent) != 1 {
		t.Errorf("got %v after two hours, want the new growth only", r.Recent)
	}
	s := newSubject()
	s.setRecord(time.Minute, gib, 2*gib, gib, true)
	if got := must.Value(recordOf(s.claim))(t); got.to != 2*gib || got.From != gib || !got.IsHalf || len(got.Recent) != 1 {
		t.Errorf("got the record %+v", got)
	}
}

// The patch must be refused if anything has changed since the claim was read.
func TestPatchTestsWhatWasRead(t *testing.T) {
	s := newSubject()
	for _, annotations := range []map[string]string{nil, {"a": "b"}} {
		s.claim.Annotations = annotations
		patch := string(must.Value(newPatch(s.claim, record{At: testTime, to: 11 * gib}))(t))
		for _, want := range []string{
			`{"op":"test","path":"/metadata/uid","value":"claim-uid"}`,
			`{"op":"test","path":"/metadata/resourceVersion","value":"7"}`,
			`{"op":"test","path":"/spec/resources/requests/storage","value":"10Gi"}`,
			`{"op":"replace","path":"/spec/resources/requests/storage","value":"11Gi"}`,
			`{"op":"add","path":"/metadata/annotations/growvol.io~1grown-to","value":"11Gi"}`,
		} {
			if !strings.Contains(patch, want) {
				t.Errorf("got the patch %s, want %s in it", patch, want)
			}
		}
		if creates := strings.Contains(patch, `"path":"/metadata/annotations","value":{}`); creates != (annotations == nil) {
			t.Errorf("got the patch %s of a claim with the annotations %v", patch, annotations)
		}
	}
}

func TestFleet(t *testing.T) {
	f := Fleet{MaxBytes: 10 * gib, MaxAtOnce: 2}
	for _, row := range []struct {
		used  fleetUsage
		bytes volume.Size
		key   string
	}{
		{fleetUsage{}, 10 * gib, ""},
		{fleetUsage{}, 11 * gib, "step"},
		{fleetUsage{bytes: 9 * gib, running: 1}, gib, ""},
		{fleetUsage{bytes: 9 * gib}, 2 * gib, "bytes"},
		{fleetUsage{running: 2}, gib, "running"},
	} {
		if key, cause := f.refuse(row.used, row.bytes); key != row.key || (key == "") != (cause == "") {
			t.Errorf("%+v and %s: got %q (%s), want %q", row.used, row.bytes, key, cause, row.key)
		}
		if key, _ := (Fleet{}).refuse(row.used, row.bytes); key != "" {
			t.Errorf("%+v without limits: got %q", row.used, key)
		}
	}
	for name, row := range map[string]struct {
		change func(*subject)
		want   int
	}{
		"running":   {func(s *subject) { s.setRecord(time.Minute, 10*gib, 11*gib, gib, false) }, 1},
		"grown":     {func(s *subject) { s.setRecord(time.Minute, 9*gib, 10*gib, gib, false) }, 0},
		"for hours": {func(s *subject) { s.setRecord(2*time.Hour, 10*gib, 11*gib, gib, false) }, 0},
		"infeasible": {func(s *subject) {
			s.setRecord(time.Minute, 10*gib, 11*gib, gib, false)
			s.setStep(corev1.PersistentVolumeClaimControllerResizeInfeasible, "11Gi")
		}, 0},
		"never grown": {func(*subject) {}, 0},
	} {
		s := newSubject()
		row.change(s)
		var used fleetUsage
		used.add(s.claim, must.Value(recordOf(s.claim))(t), testTime)
		if used.running != row.want {
			t.Errorf("%s: got %d running growths, want %d", name, used.running, row.want)
		}
	}
}

// minGrowth keeps the size of a filesystem before a growth distinguishable from that after it.
func TestSmallestGrowthIsVisible(t *testing.T) {
	if minGrowth <= claim.MaxUnused {
		t.Errorf("the smallest growth is %s, want more than %s", minGrowth, claim.MaxUnused)
	}
}
