package filesystem

import (
	"context"
	"errors"
	"testing"

	utilexec "k8s.io/utils/exec"
)

// fakeExec runs commands by calling a function.
func fakeExec(t *testing.T, run func(command []string) ([]byte, error)) utilexec.Interface {
	t.Helper()
	return &execFunc{t: t, run: run}
}

type execFunc struct {
	utilexec.Interface
	t   *testing.T
	run func(command []string) ([]byte, error)
}

func (ef *execFunc) CommandContext(ctx context.Context, name string, args ...string) utilexec.Cmd {
	if ctx == nil {
		ef.t.Errorf("%s runs without a context", name)
	}
	return execCmd{run: func() ([]byte, error) { return ef.run(append([]string{name}, args...)) }}
}

func (ef *execFunc) Command(name string, _ ...string) utilexec.Cmd {
	ef.t.Errorf("%s runs without a context", name)
	return execCmd{run: func() ([]byte, error) { return nil, errors.ErrUnsupported }}
}

type execCmd struct {
	utilexec.Cmd
	run func() ([]byte, error)
}

func (ec execCmd) CombinedOutput() ([]byte, error) { return ec.run() }
