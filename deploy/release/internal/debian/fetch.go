package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Mirror downloads from a mirror of Debian and caches packages on disk.
type Mirror struct {
	URL   string // has debian and debian-security below it
	Cache string // directory of the downloaded packages
}

const (
	maxAttempts     = 5
	attemptInterval = 2 * time.Second
	downloadTimeout = 2 * time.Minute
)

// File returns the name of the .deb file of a package, which it downloads if the cache does not
// have it. The content always has the checksum of the lock.
func (m Mirror) File(ctx context.Context, p Package) (string, error) {
	name := filepath.Join(m.Cache, p.SHA256+".deb")
	content, err := os.ReadFile(name)
	if err == nil && checksum(content) == p.SHA256 {
		return name, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the cached package %s: %w", p.Name, err)
	}
	if content, err = m.get(ctx, p.Path); err != nil {
		return "", fmt.Errorf("download %s %s: %w (next step: if the mirror no longer has this version, run: "+
			"make release-packages)", p.Name, p.Version, err)
	}
	if got := checksum(content); got != p.SHA256 {
		return "", fmt.Errorf("download %s %s: the file has the SHA-256 %s, the lock says %s",
			p.Name, p.Version, got, p.SHA256)
	}
	return name, writeAtomically(name, content)
}

func checksum(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// writeAtomically writes a file that other processes see only complete.
func writeAtomically(name string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// get downloads a file of the mirror, and again if the mirror does not answer.
func (m Mirror) get(ctx context.Context, path string) ([]byte, error) {
	url := strings.TrimSuffix(m.URL, "/") + "/" + path
	for attempt := 1; ; attempt++ {
		content, retry, err := getOnce(ctx, url)
		if err == nil || !retry || attempt == maxAttempts {
			return content, err
		}
		select {
		case <-time.After(attemptInterval):
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		}
	}
}

// getOnce downloads a file. It reports whether another attempt can succeed.
func getOnce(ctx context.Context, url string) (content []byte, retry bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, false, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, true, err
	}
	defer func() { _ = response.Body.Close() }() // only read
	if response.StatusCode != http.StatusOK {
		return nil, response.StatusCode >= http.StatusInternalServerError, fmt.Errorf("GET %s: %s", url, response.Status)
	}
	content, err = io.ReadAll(response.Body)
	return content, true, err
}
