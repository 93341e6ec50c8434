package filesystem

import (
	"context"
	"errors"
	"slices"
	"strings"

	utilexec "k8s.io/utils/exec"

	"github.com/growvol/growvol/pkg/volume"
)

// run runs a program until it exits, or kills it when ctx ends. code is its exit status;
// output is shortened for a message. err is set only when the program did not exit by
// itself. Kinds: Precondition (not installed), Deadline, Canceled, Internal.
func (s *System) run(ctx context.Context, name string, args ...string) (output string, code int, err error) {
	out, err := s.exec.CommandContext(ctx, name, args...).CombinedOutput()
	output = shortenOutput(string(out))
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return output, 0, nil
	case ctx.Err() != nil:
		return output, 0, &volume.Error{
			Kind: volume.KindOf(ctx.Err()), Msg: name + " was stopped before it finished", Cause: ctx.Err(),
		}
	case errors.Is(err, utilexec.ErrExecutableNotFound):
		return output, 0, volume.Errorf(volume.KindPrecondition, "%s is not installed on this node: %w", name, err).
			WithRemedy("run the node plugin from its own image, which contains " + name + ", or install it in your image")
	case errors.As(err, &exit) && exit.Exited():
		return output, exit.ExitStatus(), nil
	default:
		return output, 0, volume.Errorf(volume.KindInternal, "cannot run %s: %w: %s", name, err, output)
	}
}

// shortenOutput reduces the output of a program to the lines that can hold the cause of
// a failure. The cause stands before a usage text, and after progress reports.
func shortenOutput(output string) string {
	const maxLength, maxFirstLine = 512, 160
	lines := strings.FieldsFunc(output, func(r rune) bool { return r == '\n' || r == '\r' || r == '\b' })
	lines = slices.DeleteFunc(lines, func(line string) bool { return isBanner(strings.TrimSpace(line)) })
	if usage := slices.IndexFunc(lines, isUsageText); usage >= 0 {
		lines = lines[:max(usage, 1)]
	}
	text := strings.Join(lines, "; ")
	if len(text) <= maxLength {
		return text
	}
	first := lines[0]
	if len(first) > maxFirstLine {
		first = strings.ToValidUTF8(first[:maxFirstLine], "")
	}
	return first + "; ...; " + strings.ToValidUTF8(text[len(text)-(maxLength-len(first)):], "")
}

// isBanner reports whether a line is empty, a web address, or a program's name and
// version.
func isBanner(line string) bool {
	if line == "" || strings.HasPrefix(line, "See http") {
		return true
	}
	name, version, _ := strings.Cut(line, " ")
	version = strings.TrimPrefix(version, "v")
	return slices.Contains([]string{"mke2fs", "e2fsck", "resize2fs", "btrfs-progs"}, name) &&
		version != "" && version[0] >= '0' && version[0] <= '9'
}

// isUsageText reports whether a usage text begins with this line.
func isUsageText(line string) bool {
	line = strings.ToLower(strings.TrimSpace(line))
	return strings.HasPrefix(line, "usage:") || strings.Contains(line, "options are separated by commas")
}

// isInUse reports whether a tool of e2fsprogs, xfsprogs or btrfs-progs has refused a
// device because another program has it open exclusively, or it is mounted, or another
// growth of its filesystem is under way.
func isInUse(output string) bool {
	return containsAny(output, "is in use", "in use by the system", "is mounted", "mounted filesystem", "is busy",
		"resource busy", "temporarily unavailable", "in progress")
}

// containsAny reports whether the output of a program contains one of the texts, which
// are in lower case.
func containsAny(output string, texts ...string) bool {
	output = strings.ToLower(output)
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(output, text) })
}
