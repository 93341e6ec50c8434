package config

import (
	"fmt"
	"os"
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
	return os.ReadFile(path)
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
