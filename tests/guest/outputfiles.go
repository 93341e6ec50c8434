package guest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// outputFiles brings the files that a test binary writes (profiles, traces,
// coverage) from the guest to the machine, through a writable share. The guest
// writes each file under its flag's name, and copyBack copies it to the flag's path.
type outputFiles struct {
	hostDir, guestDir string            // the share's path on the machine and in the guest
	destinations      map[string]string // name in the share → path on the machine
}

// guestArguments rebuilds the command line from the flags that were set, for the
// guest.
func (o *outputFiles) guestArguments(set *flag.FlagSet) ([]string, error) {
	outputDir := ""
	if f := set.Lookup("test.outputdir"); f != nil {
		outputDir = f.Value.String()
	}
	o.destinations = make(map[string]string)
	var args []string
	var flagErr error
	set.Visit(func(f *flag.Flag) {
		value := f.Value.String()
		switch f.Name {
		case "test.coverprofile", "test.cpuprofile", "test.memprofile", "test.blockprofile",
			"test.mutexprofile", "test.trace":
			if value == "" {
				return
			}
			if !filepath.IsAbs(value) {
				value = filepath.Join(outputDir, value)
			}
			o.destinations[f.Name] = value
			value = filepath.Join(o.guestDir, f.Name)
		case "test.gocoverdir":
			o.destinations[f.Name] = value
			value = filepath.Join(o.guestDir, f.Name)
			flagErr = errors.Join(flagErr, os.Mkdir(filepath.Join(o.hostDir, f.Name), 0o755))
		case "test.outputdir":
			return // the flags that use it have absolute paths here
		case "test.testlogfile":
			return // without this file the go command does not cache the result
		case "test.fuzz":
			flagErr = errors.New("fuzzing is not possible in a guest: what it finds would be lost with the guest")
		}
		args = append(args, "-"+f.Name+"="+value)
	})
	return append(args, set.Args()...), flagErr
}

// copyBack copies the files that the guest wrote to their destinations.
func (o *outputFiles) copyBack() error {
	var errs []error
	for name, path := range o.destinations {
		from := filepath.Join(o.hostDir, name)
		info, err := os.Stat(from)
		switch {
		case errors.Is(err, os.ErrNotExist): // the run ended before it wrote the file
		case err != nil:
			errs = append(errs, err)
		case info.IsDir():
			errs = append(errs, os.CopyFS(path, os.DirFS(from)))
		default:
			errs = append(errs, copyFile(from, path, 0o644))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("copy the files that the tests wrote: %w", err)
	}
	return nil
}
