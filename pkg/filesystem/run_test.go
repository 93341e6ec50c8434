package filesystem

import (
	"strings"
	"testing"
)

func TestShortenOutputKeepsTheCause(t *testing.T) {
	progress := strings.Repeat("Allocating group tables: 0/4\b\b\b", 200)
	for _, tc := range []struct{ name, output, want string }{
		{"nothing", "", ""},
		{"one line", "mkfs.ext4: no\n", "mkfs.ext4: no"},
		{
			"before a usage text",
			"Filesystem must be larger than 300MB.\nUsage: mkfs.xfs\n/* blocksize */\t\t[-b size=num]\n",
			"Filesystem must be larger than 300MB.",
		},
		{
			"before a list of options",
			"mke2fs 1.47.0 (5-Feb-2023)\n\nBad option(s) specified: foo\n\n" +
				"Extended options are separated by commas, and\n\tstride=\n",
			"Bad option(s) specified: foo",
		},
		{
			"before a banner",
			"ERROR: too small\nbtrfs-progs v6.2\nSee http://btrfs.wiki.kernel.org for more information.\n\n",
			"ERROR: too small",
		},
		{
			"a usage text alone", "usage: mkfs.btrfs [options] <dev>\n\n    Create a BTRFS filesystem\n",
			"usage: mkfs.btrfs [options] <dev>",
		},
		{"several lines", "one\rtwo\n\n three", "one; two;  three"},
	} {
		if got := shortenOutput(tc.output); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	for _, cause := range []string{"first: " + progress, progress + "the cause is last", "ü" + strings.Repeat("ü", 2000)} {
		got := shortenOutput(cause)
		if len(got) > 600 || strings.HasPrefix(cause, "first") != strings.HasPrefix(got, "first") ||
			strings.HasSuffix(cause, "last") != strings.HasSuffix(got, "the cause is last") {
			t.Errorf("%d bytes: %q", len(got), got)
		}
		if !strings.Contains(got, "...") || strings.ContainsRune(got, '\uFFFD') {
			t.Errorf("cut without a sign, or within a character: %q", got)
		}
	}
}
