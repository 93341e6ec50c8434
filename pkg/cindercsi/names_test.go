package cindercsi

import (
	"regexp"
	"strings"
	"testing"
)

func TestZoneLabel(t *testing.T) {
	for zone, want := range map[string]string{
		"nova": "nova", "eu-de-1.A_b": "eu-de-1.A_b", "": "",
		"Zone 1 (north)": "Zone-1-north", "zürich": "z-rich", "--a--": "a", "a//b": "a-b", "///": "",
		strings.Repeat("a", 62) + ".b": strings.Repeat("a", 62),
	} {
		if got := ZoneLabel(zone); got != want {
			t.Errorf("%q: got %q, want %q", zone, got, want)
		}
	}
}

func FuzzZoneLabel(f *testing.F) {
	f.Add("nova")
	f.Add("a/ \xff-")
	valid := regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$`)
	f.Fuzz(func(t *testing.T, zone string) {
		label := ZoneLabel(zone)
		if !valid.MatchString(label) {
			t.Errorf("%q: got %q, which is no label value", zone, label)
		}
		if again := ZoneLabel(label); again != label || valid.MatchString(zone) && label != zone {
			t.Errorf("%q: got %q, and %q from that, want it unchanged", zone, label, again)
		}
	})
}
