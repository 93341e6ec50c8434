package autogrow

import (
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

func TestTwoReadingsAreNeeded(t *testing.T) {
	checkRules(t, []rule{
		{"none", func(s *subject) { s.readings = nil }, verdictConfirm, 0, nil},
		{"one", func(s *subject) { s.readings = s.readings[:1] }, verdictConfirm, 0, nil},
		{"one below 2 %", func(s *subject) {
			s.readings = s.readings[:1]
			s.readings[0].usage.Available = 200 * volume.MiB
		}, verdictGrow, 11 * gib, nil},
		{"one below 2 %, above the threshold", func(s *subject) {
			s.annotate(AnnotationThreshold, "1%")
			s.readings = s.readings[:1]
			s.readings[0].usage.Available = 200 * volume.MiB
		}, verdictEnough, 0, nil},
		{"first shows enough", func(s *subject) { s.readings[1].usage.Available = 5 * gib }, verdictConfirm, 0, nil},
		{"the same twice", func(s *subject) { s.readings[1] = s.readings[0] }, verdictConfirm, 0, nil},
		{
			"first too old",
			func(s *subject) { s.readings[1] = newReading(600*volume.MiB, -3*time.Minute) },
			verdictConfirm,
			0,
			nil,
		},
		{"of two nodes", func(s *subject) { s.readings[1].node = "node2" }, verdictConfirm, 0, nil},
	})
}

// A reading from before the last growth must never count: that would be a loop.
func TestReadingsFromBeforeTheGrowth(t *testing.T) {
	const total = 9*gib - 64*volume.MiB
	checkRules(t, []rule{
		{
			"both after it",
			func(s *subject) { s.setRecord(time.Minute, 9*gib, 10*gib, total, false) },
			verdictGrow,
			11 * gib,
			nil,
		},
		{
			"newest before it",
			func(s *subject) { s.setRecord(time.Second, 9*gib, 10*gib, total, false) },
			verdictUnusable,
			0,
			nil,
		},
		{
			"first before it",
			func(s *subject) { s.setRecord(5*time.Second, 9*gib, 10*gib, total, false) },
			verdictConfirm,
			0,
			nil,
		},
		{"below 2 %, before it", func(s *subject) {
			s.setRecord(time.Second, 9*gib, 10*gib, total, false)
			s.readings[0].usage.Available = 0
		}, verdictUnusable, 0, nil},
		{
			"filesystem of the old size", func(s *subject) { s.readings[0].size.Size = 9 * gib }, verdictShort, 0,
			[]string{"9 GiB of the claim's 10 GiB", "must grow first"},
		},
		{"first of the old size", func(s *subject) { s.readings[1].size.Size = 9 * gib }, verdictConfirm, 0, nil},
		{"smallest growth", func(s *subject) { s.setSize("10Gi", "10Gi", 10*gib-minGrowth) }, verdictShort, 0, nil},
		{
			"less the LUKS header",
			func(s *subject) { s.setSize("10Gi", "10Gi", 10*gib-16*volume.MiB) },
			verdictGrow,
			11 * gib,
			nil,
		},
		{"usage read before the size", func(s *subject) {
			s.readings[0].size.ReadAt = testTime
		}, verdictUnusable, 0, nil},
		{"not larger after the growth", func(s *subject) {
			s.setRecord(time.Minute, 9*gib, 10*gib, 10*gib-64*volume.MiB, false)
		}, verdictNoGain, 0, []string{"from 9 GiB to 10 GiB", "useless"}},
		{"grown by a person since", func(s *subject) {
			s.setRecord(time.Minute, 8*gib, 9*gib, 8*gib-64*volume.MiB, false)
		}, verdictGrow, 11 * gib, nil},
	})
}

func TestReadingsThatSayNothing(t *testing.T) {
	checkRules(t, []rule{
		{"old", func(s *subject) { s.now = s.now.Add(time.Minute) }, verdictUnusable, 0, []string{"is 1m2s old"}},
		{
			"in the future",
			func(s *subject) { s.now = s.now.Add(-time.Minute) },
			verdictUnusable,
			0,
			[]string{"58s in the future"},
		},
		{
			"empty",
			func(s *subject) { s.readings[0].usage.Total = 0 },
			verdictUnusable,
			0,
			[]string{"500 MiB available of 0 B"},
		},
		{"negative", func(s *subject) { s.readings[0].usage.Available = -1 }, verdictUnusable, 0, nil},
		{"no size", func(s *subject) { s.readings[0].size.Size = 0 }, verdictUnusable, 0, nil},
	})
}
