package autogrow

import (
	"fmt"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/volume"
)

// This file judges readings: which of them may be used, and whether a filesystem is nearly full.

// judgeReadings reports whether the newest reading shows a filesystem that is nearly full and says
// something of the present size. The decision has the note of the reading; its verdict is
// verdictConfirm if a second reading is needed.
func (s *subject) judgeReadings(values settings, r record) (d decision, isLow bool) {
	if len(s.readings) == 0 {
		return decision{verdict: verdictConfirm, isQuiet: true}, false
	}
	newest := s.readings[0]
	if cause := newest.fault(s.now); cause != "" {
		note := "how full the filesystem is, is not known: " + cause
		return decision{verdict: verdictUnusable, key: "unusable", note: note}, false
	}
	shortage := values.shortage(&newest.usage)
	if shortage == "" {
		spare := newest.usage.Available - values.threshold.of(newest.usage.Total)
		return decision{verdict: verdictEnough, spare: spare, isQuiet: true}, false
	}
	note := fmt.Sprintf("%s (read at %s on %s)", shortage, newest.usage.ReadAt.UTC().Format(time.TimeOnly), newest.node)
	if d := s.checkGrown(newest, r, note); d.verdict != "" {
		return d, false
	}
	d = decision{verdict: verdictConfirm, note: note, isQuiet: true}
	if values.isUrgent(&newest.usage) || s.isConfirmed(values, r) {
		d.verdict = ""
	}
	return d, true
}

// isConfirmed reports whether the earlier reading shows the same as the newest one.
func (s *subject) isConfirmed(values settings, r record) bool {
	if len(s.readings) < 2 {
		return false
	}
	newest, earlier := s.readings[0], s.readings[1]
	age := newest.usage.ReadAt.Sub(earlier.usage.ReadAt)
	return age > 0 && age <= maxPairAge && earlier.node == newest.node && values.shortage(&earlier.usage) != "" &&
		s.checkGrown(earlier, r, "").verdict == ""
}

// checkGrown returns a decision with a verdict if the reading is not of a filesystem that has the
// claim's present size. All times of a reading are of the node's clock; that the filesystem has the
// size when it is read proves that the reading is newer than the growth, whatever the clocks say.
func (s *subject) checkGrown(v reading, r record, note string) decision {
	capacity := claim.Capacity(s.claim)
	switch {
	case !r.At.IsZero() && !v.usage.ReadAt.After(r.At), v.usage.ReadAt.Before(v.size.ReadAt):
		return decision{verdict: verdictUnusable, key: "old", isQuiet: true}
	case v.size.Size < capacity-claim.MaxUnused:
		return decision{
			verdict: verdictShort, key: fmt.Sprintf("short %d", capacity), isOwnGrowth: r.to == claim.Request(s.claim),
			note: fmt.Sprintf("%s; the filesystem has %s of the claim's %s, and must grow first",
				note, approximate(v.size.Size), capacity),
		}
	case r.to > 0 && capacity >= r.to && v.usage.Total-r.Total < (r.to-r.From)/2:
		return decision{
			verdict: verdictNoGain, key: fmt.Sprintf("noGain %d", r.to),
			note: fmt.Sprintf("%s; the last growth, from %s to %s, has changed the size that the filesystem offers from "+
				"%s to %s only, so that another one would be useless (next step: check the quotas of the filesystem; then "+
				"remove the annotations %s and %s)", note, r.From, r.to, approximate(r.Total), approximate(v.usage.Total),
				AnnotationRecord, AnnotationGrownTo),
		}
	}
	return decision{}
}

// fault returns why nothing follows from the reading, or an empty text.
func (v reading) fault(now time.Time) string {
	age := now.Sub(v.usage.ReadAt)
	switch u := v.usage; {
	case age > maxReadingAge:
		return fmt.Sprintf("the reading of %s is %s old "+
			"(next step: read the log of the node plugin, and check the node's clock)", v.node, age.Round(time.Second))
	case age < -maxReadingAge:
		return fmt.Sprintf("the reading of %s is from %s in the future (next step: set the node's clock)",
			v.node, (-age).Round(time.Second))
	case u.Total <= 0 || u.Available < 0 || u.Available > u.Total || u.Used < 0:
		return fmt.Sprintf("%s reports %s available of %s", v.node, u.Available, u.Total)
	case v.size.Size <= 0:
		return v.node + " does not report the size of the filesystem"
	}
	return ""
}

// isExt reports whether the number of inodes is fixed. XFS and btrfs make inodes as they need them.
func isExt(filesystem string) bool {
	return slices.Contains([]string{"ext2", "ext3", "ext4"}, filesystem)
}

// shortage says what is below its threshold, or is empty.
func (s settings) shortage(u *readings.Usage) string {
	if u.Available < s.threshold.of(u.Total) {
		return fmt.Sprintf("the filesystem has %s of %s free, below %s",
			approximate(u.Available), approximate(u.Total), s.threshold)
	}
	if isExt(u.Filesystem) && u.Inodes > 0 &&
		float64(u.InodesAvailable) < float64(u.Inodes)*s.inodesThreshold.percent/100 {
		return fmt.Sprintf("the filesystem has %d of %d inodes free, below %s",
			u.InodesAvailable, u.Inodes, s.inodesThreshold)
	}
	return ""
}

// isUrgent reports whether one reading is enough.
func (s settings) isUrgent(u *readings.Usage) bool {
	return u.Available < s.threshold.of(u.Total) && u.Available < u.Total/100*urgentShare
}

// approximate rounds a size for people.
func approximate(size volume.Size) volume.Size {
	if size < 10*volume.MiB {
		return size
	}
	return size.RoundDown(volume.MiB)
}
