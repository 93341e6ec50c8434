package filesystem

import (
	"context"
	"errors"
	"slices"
	"strings"

	utilexec "k8s.io/utils/exec"

	"github.com/growvol/growvol/pkg/volume"
)

// run starts a program, bound to ctx, and waits for its real end. code is its
// exit status; err is set only when it did not run to an end of its own.
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
			WithRemedy("use the driver's own image, which has it")
	case errors.As(err, &exit) && exit.Exited():
		return output, exit.ExitStatus(), nil
	default:
		return output, 0, volume.Errorf(volume.KindInternal, "%s: %w: %s", name, err, output)
	}
}

// shortenOutput shortens the output of a program for a message, to the lines that
// can hold the cause: it stands before a usage text, and behind a report of
// progress.
func shortenOutput(output string) string {
	const limit, first = 512, 160
	lines := strings.FieldsFunc(output, func(r rune) bool { return r == '\n' || r == '\r' || r == '\b' })
	lines = slices.DeleteFunc(lines, func(line string) bool { return isBanner(strings.TrimSpace(line)) })
	if help := slices.IndexFunc(lines, isUsageText); help >= 0 {
		lines = lines[:max(help, 1)]
	}
	text := strings.Join(lines, "; ")
	if len(text) <= limit {
		return text
	}
	head := lines[0]
	if len(head) > first {
		head = strings.ToValidUTF8(head[:first], "")
	}
	return head + "; ...; " + strings.ToValidUTF8(text[len(text)-(limit-len(head)):], "")
}

// isBanner reports whether a line tells nothing: it is empty, or a program's
// name and version.
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
