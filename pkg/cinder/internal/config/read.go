package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unicode"
)

// maxFile is far above any file of credentials: what is larger is something
// else.
const maxFile = 4 << 20

// read returns a file's content, and remembers how it stood.
func (r *reader) read(path string) ([]byte, error) {
	s := stampOf(path)
	if _, twice := r.config.seen[path]; !twice {
		r.config.seen[path] = s
	}
	if s.size > maxFile {
		return nil, fmt.Errorf("%s: %d bytes are too many for a configuration", path, s.size)
	}
	data, err := os.ReadFile(path)
	if err != nil && !showable(path) {
		var bare *fs.PathError
		if errors.As(err, &bare) {
			err = bare.Err // without the name
		}
		return nil, fmt.Errorf("%w: it should be the name of a file, and seems to be the content of one", err)
	}
	return data, err
}

// showable reports whether path may stand in a message: a certificate or a key
// that was given in the place of a file name must not.
func showable(path string) bool {
	return len(path) <= 255 && !strings.Contains(path, "-----") && !strings.ContainsFunc(path, unicode.IsControl)
}

// pem fills in the contents of certificate files.
func (r *reader) pem(c *Cloud, ca, cert, key string) error {
	for _, f := range []struct {
		key, path string
		into      *string
	}{{"ca-file (cacert)", ca, &c.CA}, {"cert-file (cert)", cert, &c.Cert}, {"key-file (key)", key, &c.Key}} {
		if f.path == "" {
			continue
		}
		data, err := r.read(f.path)
		if err != nil {
			return fmt.Errorf("%s: %w", f.key, err)
		}
		*f.into = string(data)
	}
	return nil
}
