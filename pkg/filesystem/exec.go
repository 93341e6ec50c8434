package filesystem

import (
	"context"
	"errors"
	"strings"

	utilexec "k8s.io/utils/exec"

	"github.com/growvol/growvol/pkg/volume"
)

// run starts a program, bound to ctx, and waits for its real end. code is its
// exit status; err is set only when it did not run to an end of its own.
func (s *System) run(ctx context.Context, name string, args ...string) (output string, code int, err error) {
	out, err := s.exec.CommandContext(ctx, name, args...).CombinedOutput()
	output = lastLines(string(out))
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return output, 0, nil
	case ctx.Err() != nil:
		return output, 0, &volume.Error{Kind: volume.KindOf(ctx.Err()), Msg: name + " was stopped before it finished", Cause: ctx.Err()}
	case errors.Is(err, utilexec.ErrExecutableNotFound):
		return output, 0, volume.Errorf(volume.Precondition, "%s is not installed on this node: %w", name, err).
			WithRemedy("use the driver's own image, which has it")
	case errors.As(err, &exit) && exit.Exited():
		return output, exit.ExitStatus(), nil
	default:
		return output, 0, volume.Errorf(volume.Internal, "%s: %w: %s", name, err, output)
	}
}

// lastLines shortens the output of a program for a message: the cause stands
// at the end.
func lastLines(s string) string {
	const limit = 512
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' || r == '\b' }), "; ")
	if len(s) > limit {
		s = "..." + strings.ToValidUTF8(s[len(s)-limit:], "")
	}
	return s
}
