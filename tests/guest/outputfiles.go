package guest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// outputFiles sends the files that a test binary writes for the go command
// (profiles, traces, coverage) through a writable share: the guest writes
// each one under its flag's name, deliver copies it to where the flag pointed.
type outputFiles struct {
	hostDir, guestDir string            // the two ends of the share
	wanted            map[string]string // name in the share → path on the machine
}

// arguments rebuilds the command line from the flags that were set, for the
// guest.
func (o *outputFiles) arguments(set *flag.FlagSet) ([]string, error) {
	outputDir := ""
	if f := set.Lookup("test.outputdir"); f != nil {
		outputDir = f.Value.String()
	}
	o.wanted = make(map[string]string)
	var args []string
	var refused error
	set.Visit(func(f *flag.Flag) {
		value := f.Value.String()
		switch f.Name {
		case "test.coverprofile", "test.cpuprofile", "test.memprofile", "test.blockprofile", "test.mutexprofile", "test.trace":
			if value == "" {
				return
			}
			if !filepath.IsAbs(value) {
				value = filepath.Join(outputDir, value)
			}
			o.wanted[f.Name] = value
			value = filepath.Join(o.guestDir, f.Name)
		case "test.gocoverdir":
			o.wanted[f.Name] = value
			value = filepath.Join(o.guestDir, f.Name)
			refused = errors.Join(refused, os.Mkdir(filepath.Join(o.hostDir, f.Name), 0o755))
		case "test.outputdir":
			return // all its users have absolute paths now
		case "test.testlogfile":
			// Without this file the go command does not cache the result.
			return
		case "test.fuzz":
			refused = fmt.Errorf("fuzzing is not possible in a guest: it would lose what it found with every run")
		}
		args = append(args, "-"+f.Name+"="+value)
	})
	return append(args, set.Args()...), refused
}

// deliver copies the files the guest wrote to where they were asked for.
func (o *outputFiles) deliver() error {
	var errs []error
	for name, path := range o.wanted {
		from := filepath.Join(o.hostDir, name)
		info, err := os.Stat(from)
		switch {
		case errors.Is(err, os.ErrNotExist): // the run did not come that far
		case err != nil:
			errs = append(errs, err)
		case info.IsDir():
			errs = append(errs, os.CopyFS(path, os.DirFS(from)))
		default:
			errs = append(errs, copyFile(from, path, 0o644))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("files written by the tests: %w", err)
	}
	return nil
}
