package config

import (
	"maps"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// Watch provides the configuration as the files have it now. It checks the files when Current is
// called, not in the background: stat takes a few microseconds, and it also notices the swapped
// link by which Kubernetes changes a mounted secret.
type Watch struct {
	files    Files
	interval time.Duration
	onChange func(*Config, error)

	mu        sync.Mutex
	current   *Config
	states    map[string]fileState // of the files when they were last read
	checkedAt time.Time
}

// NewWatch reads the files for the first time. Later calls of Current check at most once per
// interval whether they changed. onChange is called after the files were read again, with the
// configuration in use from then on and an error or nil. If the files cannot be read, the whole
// previous configuration stays in use; if only the entry of a cloud has an error, the previous
// entry of that cloud does. onChange is called with the Watch locked.
func NewWatch(files Files, interval time.Duration, onChange func(*Config, error)) (*Watch, error) {
	current, err := files.Load()
	if err != nil {
		return nil, err
	}
	return &Watch{
		files: files, interval: interval, onChange: onChange,
		current: current, states: current.states, checkedAt: time.Now(),
	}, nil
}

// Current returns the configuration. With refresh it checks the files even if they were checked
// less than the interval ago.
func (w *Watch) Current(refresh bool) *Config {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !refresh && time.Since(w.checkedAt) < w.interval {
		return w.current
	}
	w.checkedAt = time.Now()
	states := map[string]fileState{}
	for path := range w.states {
		states[path] = fileStateOf(path)
	}
	if maps.Equal(states, w.states) {
		return w.current
	}
	next, err := w.files.Load()
	if err != nil {
		w.states = states // the files are not read again until they change
		w.onChange(w.current, err)
		return w.current
	}
	err = next.keepUsable(w.current)
	w.current, w.states = next, next.states
	w.onChange(next, err)
	return next
}

// keepUsable replaces each entry that has an error by the entry of old, if that has none, and
// returns the errors of the replaced entries. Clouds that are only in old are not added.
func (c *Config) keepUsable(old *Config) error {
	var broken []error
	for _, name := range c.Names() {
		e, before := c.Clouds[name], old.Clouds[name]
		if e.Err != nil && before.Cloud.Name != "" && before.Err == nil {
			broken = append(broken, e.Err)
			c.Clouds[name] = before
		}
	}
	return volume.Join(broken...)
}

// fileState identifies the state of a file, to notice a change. The zero value is a file that
// cannot be read.
type fileState struct {
	size       int64
	modifiedAt time.Time
	inode      uint64
}

func fileStateOf(path string) fileState {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{}
	}
	s := fileState{size: info.Size(), modifiedAt: info.ModTime()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = sys.Ino
	}
	return s
}
