package bundle

import (
	"fmt"
	"strings"
	"time"
)

// manifest returns the list of the contents of the bundle, and what is not in it. This file has it.
func (r *run) manifest() string {
	var b strings.Builder
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format+"\n", args...) }
	line("Support bundle of growvol")
	line("")
	line("made at   %s", r.MadeAt.UTC().Format(time.RFC3339))
	line("claims    %s", r.Claims)
	line("logs      of the last %s, at most %s of each container", r.Logs.Since, r.Logs.Bytes)
	line("")
	line("Secrets, and texts that may be secrets, are replaced by a mark. REMOVED is the number of these places.")
	line("")
	line("%10s  %7s  %s", "BYTES", "REMOVED", "FILE")
	for _, file := range r.archive.Files() {
		line("%10d  %7d  %s", file.Bytes, file.Redactions, file.Name)
	}
	line("")
	if len(r.unread) == 0 {
		line("Everything was read.")
		return b.String()
	}
	line("NOT READ")
	for _, u := range r.unread {
		line("  %s", u)
	}
	return b.String()
}

// String returns a line that names what is missing and why.
func (u Unread) String() string { return u.What + ": " + strings.Join(strings.Fields(u.Reason), " ") }

// String returns the selection as words.
func (s Selection) String() string {
	switch {
	case s.Namespace == "":
		return "of all namespaces"
	case len(s.Names) == 0:
		return "of the namespace " + s.Namespace
	}
	return strings.Join(s.Names, ", ") + " of the namespace " + s.Namespace
}
