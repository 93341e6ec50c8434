package config

import (
	"errors"
	"maps"
	"os"
	"sync"
	"syscall"
	"time"
)

// Watch keeps what the files say up to date. It looks at the files when it is
// asked, not by itself: secrets that Kubernetes mounts change by a swapped
// link, which stat sees and which costs a few microseconds.
type Watch struct {
	files Files
	every time.Duration
	on    func(*Config, error)

	mu      sync.Mutex
	current *Config
	seen    map[string]stamp // the files as they were when they were last read
	looked  time.Time
}

// NewWatch reads the files for the first time. Later it looks at most once in
// every whether they changed. on is told when they were read again, with what
// is in force now and the error if they are broken: then the old configuration
// stays, or that of a cloud whose description alone is broken. It is called
// with the Watch locked.
func NewWatch(files Files, every time.Duration, on func(*Config, error)) (*Watch, error) {
	current, err := files.Load()
	if err != nil {
		return nil, err
	}
	return &Watch{files: files, every: every, on: on, current: current, seen: current.seen, looked: time.Now()}, nil
}

// Current returns the configuration. now: look at the files even if they were
// looked at a moment ago.
func (w *Watch) Current(now bool) *Config {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !now && time.Since(w.looked) < w.every {
		return w.current
	}
	w.looked = time.Now()
	present := map[string]stamp{}
	for path := range w.seen {
		present[path] = stampOf(path)
	}
	if maps.Equal(present, w.seen) {
		return w.current
	}
	next, err := w.files.Load()
	if err != nil {
		w.seen = present // broken as they are, they are not worth another reading
		w.on(w.current, err)
		return w.current
	}
	err = next.keep(w.current)
	w.current, w.seen = next, next.seen
	w.on(next, err)
	return next
}

// keep puts the old description of a cloud in the place of a broken new one,
// and says what is broken. A cloud that is not described at all is gone.
func (c *Config) keep(old *Config) error {
	var broken []error
	for _, name := range c.Names() {
		e, before := c.Clouds[name], old.Clouds[name]
		if e.Err != nil && before.Cloud.Name != "" && before.Err == nil {
			broken = append(broken, e.Err)
			c.Clouds[name] = before
		}
	}
	return errors.Join(broken...)
}

// stamp tells a file from a later state of it. The zero value is a file that
// cannot be seen.
type stamp struct {
	size     int64
	modified time.Time
	inode    uint64
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	s := stamp{size: info.Size(), modified: info.ModTime()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = sys.Ino
	}
	return s
}
