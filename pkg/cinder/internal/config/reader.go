package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unicode"
)

// reader reads the files and collects what they say.
type reader struct{ config *Config }

// addWarning adds a warning, unless it has no keys or the file has a warning of this kind already.
func (r *reader) addWarning(w Warning) {
	isSame := func(o Warning) bool { return o.File == w.File && o.IsCut == w.IsCut }
	if len(w.Keys) == 0 || slices.ContainsFunc(r.config.Warnings, isSame) {
		return
	}
	slices.Sort(w.Keys)
	w.Keys = slices.Compact(w.Keys)
	r.config.Warnings = append(r.config.Warnings, w)
}

// addCloud adds a cloud; err is the reason why it cannot be used, or nil. If two clouds have the
// same name, neither can be used.
func (r *reader) addCloud(c Cloud, err error) {
	if c.Interface == "" {
		c.Interface = "public"
	}
	if err == nil {
		err = c.check()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", c.Origin, err)
	}
	if other, isTaken := r.config.Clouds[c.Name]; isTaken {
		err = fmt.Errorf("the name %q is used twice: in %s and in %s", c.Name, other.Cloud.Origin, c.Origin)
	}
	r.config.Clouds[c.Name] = Entry{Cloud: c, Err: err}
}

// maxFileSize is the largest file that is read, in bytes: far above any file of credentials.
const maxFileSize = 4 << 20

// readFile returns a file's content, and notes the state of the file.
func (r *reader) readFile(path string) ([]byte, error) {
	s := fileStateOf(path)
	if _, isNoted := r.config.states[path]; !isNoted {
		r.config.states[path] = s
	}
	if s.size > maxFileSize {
		return nil, fmt.Errorf("%s: the file has %d bytes, too many for a configuration", path, s.size)
	}
	data, err := os.ReadFile(path)
	if err != nil && !isPrintable(path) {
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err // pathErr also has the path
		}
		return nil, fmt.Errorf("%w: the value should be the name of a file, but seems to be the content of one", err)
	}
	return data, err
}

// isPrintable reports whether a message may name path: a certificate or a key that was given in
// the place of a file name must not be quoted.
func isPrintable(path string) bool {
	return len(path) <= 255 && !strings.Contains(path, "-----") && !strings.ContainsFunc(path, unicode.IsControl)
}

// readPEM reads the files with certificates and key into c.
func (r *reader) readPEM(c *Cloud, ca, cert, key string) error {
	for _, f := range []struct {
		key, path string
		into      *string
	}{{"ca-file (cacert)", ca, &c.CA}, {"cert-file (cert)", cert, &c.Cert}, {"key-file (key)", key, &c.Key}} {
		if f.path == "" {
			continue
		}
		data, err := r.readFile(f.path)
		if err != nil {
			return fmt.Errorf("%s: %w", f.key, err)
		}
		*f.into = string(data)
	}
	return nil
}
