// Package cloud is the client of OpenStack: one method for one call of one API
// of Cinder or Nova, with safe retries and renewed logins inside. Its errors
// are *volume.Error; their kind follows from the answer by one table (rules),
// their text has what was asked, what the cloud said and the request id.
//
// It knows nothing of CSI, and decides nothing: what an answer means for a
// volume is up to the caller.
package cloud

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/cinder/internal/config"
	"github.com/growvol/growvol/pkg/cinder/internal/transport"
	"github.com/growvol/growvol/pkg/volume"
)

// Options say where the clouds are described.
type Options struct {
	CloudConfig []string // cloud.conf files; keys of later ones override those of earlier ones
	CloudsYAML  string   // clouds.yaml; secure.yaml beside it is merged in; empty: none, unless a cloud.conf says use-clouds
	// Default is the cloud of requests that name none. Empty: the section
	// [Global] of cloud.conf, or else the only cloud there is.
	Default    string
	UserAgent  string
	Log        *slog.Logger          // nil: slog.Default
	Registerer prometheus.Registerer // takes the metrics of the API calls; nil: none
}

// Settings are what cloud.conf says beyond the clouds.
type Settings = config.Settings

// lookEvery is how often, at most, the files are looked at on use.
const lookEvery = 3 * time.Second

// Clouds are the configured clouds. Its methods are safe for concurrent use.
type Clouds struct {
	log       *slog.Logger
	userAgent string
	metrics   *transport.Metrics
	watch     *config.Watch
	byDefault string
	tune      tuning
	detached  sync.WaitGroup // work that does not end with its call; see detach
	closing   chan struct{}  // closed by Close

	mu     sync.Mutex
	clouds map[string]*Cloud
	closed bool
}

// Open reads the files and logs in to the default cloud, so that wrong
// credentials are told at the start. An outage of Keystone does not make it
// fail: Ready tells when there is a login. Kinds: Invalid (files),
// Unauthenticated, Unavailable (what no retry mends, such as a certificate).
func Open(ctx context.Context, o Options) (*Clouds, error) {
	return open(ctx, o, tuning{limits: defaultLimits()})
}

func open(ctx context.Context, o Options, tune tuning) (*Clouds, error) {
	cs := &Clouds{log: o.Log, userAgent: o.UserAgent, tune: tune, closing: make(chan struct{}), clouds: map[string]*Cloud{}}
	if cs.log == nil {
		cs.log = slog.Default()
	}
	var err error
	cs.watch, err = config.NewWatch(config.Files{CloudConf: o.CloudConfig, CloudsYAML: o.CloudsYAML}, lookEvery, cs.changed(context.WithoutCancel(ctx)))
	if err != nil {
		return nil, volume.Errorf(volume.KindInvalid, "reading how to reach the clouds: %w", err)
	}
	current := cs.watch.Current(false)
	cs.warn(ctx, current)
	if cs.byDefault, err = defaultOf(current, o.Default); err != nil {
		return nil, err
	}
	if o.Registerer != nil {
		if cs.metrics, err = transport.NewMetrics(o.Registerer); err != nil {
			return nil, volume.Errorf(volume.KindInternal, "registering the metrics of OpenStack calls: %w", err)
		}
	}
	if err := cs.start(ctx); err != nil {
		cs.Close()
		if errors.Is(err, errSeveralRegions) {
			return nil, volume.Errorf(volume.KindInvalid, "%w", err)
		}
		return nil, err
	}
	return cs, nil
}

// start logs in to the default cloud for the first time. A program that ended
// for each outage of Keystone would be restarted at ever longer intervals, and
// come back minutes after Keystone.
func (cs *Clouds) start(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, cs.tune.limits.start)
	defer cancel()
	_, err := cs.Cloud(limited, "")
	if err == nil || ctx.Err() != nil || !isOutage(err) {
		return err
	}
	cs.log.WarnContext(ctx, "the program starts without a login, which is tried again with each probe and each call", "cloud", cs.byDefault, "error", err)
	return nil
}

// Ready returns nil if there is a login to the default cloud. A login under way
// is waited for briefly; no other service is asked. Kinds: InProgress (Keystone
// does not answer yet), those of Cloud.
func (cs *Clouds) Ready(ctx context.Context) error {
	if _, err := cs.entry(cs.byDefault, false); err != nil {
		return err
	}
	if cs.cloud(cs.byDefault).present() != nil {
		return nil // whether its token is still good a call tells
	}
	limited, cancel := context.WithTimeout(ctx, cs.tune.limits.ready)
	defer cancel()
	_, err := cs.Cloud(limited, "")
	if err != nil && ctx.Err() == nil && isOutage(err) {
		return volume.Errorf(volume.KindInProgress, "not logged in to the cloud yet: %w", err)
	}
	return err
}

// changed logs what came of reading changed files.
func (cs *Clouds) changed(ctx context.Context) func(*config.Config, error) {
	return func(c *config.Config, err error) {
		if err != nil {
			cs.log.ErrorContext(ctx, "the changed configuration of the clouds is broken; for what is, the old one stays in use", "error", err)
		} else {
			cs.log.InfoContext(ctx, "the configuration of the clouds has changed and was read again", "clouds", c.Names())
		}
		cs.warn(ctx, c)
	}
}

func (cs *Clouds) warn(ctx context.Context, c *config.Config) {
	for _, w := range c.Warnings {
		log := cs.log.With("file", w.File, "keys", w.Keys)
		if w.Cut {
			log.WarnContext(ctx, "values of a configuration file end at an unquoted # or ;, which begins a comment; "+
				"put a value that has one in double quotes")
		} else {
			log.WarnContext(ctx, "keys of a configuration file are not read and have no effect")
		}
	}
	for _, name := range c.Names() {
		if err := c.Clouds[name].Err; err != nil {
			cs.log.WarnContext(ctx, "a cloud cannot be used", "cloud", name, "error", err)
		}
	}
}

// defaultOf picks the default cloud.
func defaultOf(c *config.Config, wanted string) (string, error) {
	names := c.Names()
	_, unnamed := c.Clouds[config.Unnamed]
	switch {
	case wanted != "" && !slices.Contains(names, wanted):
		return "", volume.Errorf(volume.KindInvalid, "the default cloud %q is not configured; there are %s", wanted, list(names))
	case wanted != "":
		return wanted, nil
	case unnamed:
		return config.Unnamed, nil
	case len(names) == 1:
		return names[0], nil
	}
	return "", volume.Errorf(volume.KindInvalid, "there are several clouds (%s) and none is the default", list(names)).WithRemedy("name the default cloud")
}

func list(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = strconv.Quote(n)
	}
	return strings.Join(quoted, ", ")
}

// Cloud returns a cloud by name ("": the default), connected. Kinds: Invalid
// (not configured, or not any more), Unauthenticated, Unavailable.
func (cs *Clouds) Cloud(ctx context.Context, name string) (*Cloud, error) {
	name = cmp.Or(name, cs.byDefault)
	if _, err := cs.entry(name, false); err != nil {
		return nil, err
	}
	c := cs.cloud(name)
	if _, err := c.connection(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// cloud returns the cloud of a configured name, be it connected or not.
func (cs *Clouds) cloud(name string) *Cloud {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.clouds[name]
	if c == nil {
		c = &Cloud{name: name, owner: cs, turn: make(chan struct{}, 1)}
		cs.clouds[name] = c
	}
	return c
}

// entry returns how a cloud is configured now.
func (cs *Clouds) entry(name string, now bool) (config.Cloud, error) {
	cs.mu.Lock()
	closed := cs.closed
	cs.mu.Unlock()
	if closed {
		return config.Cloud{}, volume.Errorf(volume.KindUnavailable, "cloud %q: the client is closed", name)
	}
	current := cs.watch.Current(now)
	e, ok := current.Clouds[name]
	if !ok {
		return config.Cloud{}, volume.Errorf(volume.KindInvalid, "cloud %q is not configured; there are %s", name, list(current.Names())).
			WithRemedy("correct the name, or add the cloud to the configuration (it is read again without a restart)")
	}
	if e.Err != nil {
		return config.Cloud{}, volume.Errorf(volume.KindUnavailable, "cloud %q cannot be used: %w", name, e.Err).
			WithRemedy("correct the configuration; it is read again without a restart")
	}
	return e.Cloud, nil
}

// Names lists the configured clouds, the default first.
func (cs *Clouds) Names() []string {
	names := slices.DeleteFunc(cs.watch.Current(false).Names(), func(n string) bool { return n == cs.byDefault })
	return append([]string{cs.byDefault}, names...)
}

// IsUsable tells whether a cloud's description is complete. It stays usable while
// a changed one is broken.
func (cs *Clouds) IsUsable(name string) bool {
	e, ok := cs.watch.Current(false).Clouds[name]
	return ok && e.Err == nil
}

// Settings returns what cloud.conf says beyond the clouds, as it stands now.
func (cs *Clouds) Settings() Settings { return cs.watch.Current(false).Settings }

// Close drops all connections. Calls that are under way fail or finish; work
// that outlived its call is ended and waited for.
func (cs *Clouds) Close() {
	cs.mu.Lock()
	if !cs.closed {
		cs.closed = true
		close(cs.closing)
	}
	cs.mu.Unlock()
	cs.detached.Wait()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for _, c := range cs.clouds {
		c.close()
	}
}

// Cloud is one cloud as one project sees it.
type Cloud struct {
	name  string
	owner *Clouds
	turn  chan struct{} // held while a login is under way; guards the next five

	failed       error // of the last login
	failedAs     config.Cloud
	notUntil     time.Time // no login with the same credentials before
	refreshAs    config.Cloud
	refreshAfter time.Time // no refresh with the same credentials before

	listed atomic.Pointer[time.Time] // when Cinder last listed volumes; see unlessHidden

	mu   sync.Mutex
	conn *connection
}

// Name is the cloud's name in the configuration.
func (c *Cloud) Name() string { return c.name }

// CheckFeature returns nil if the cloud can do f. It asks the service of f for its
// versions, and no other, unless that has told them. Kinds: Unsupported (the
// message names the needed and the offered microversion), Unavailable (the
// service does not answer, or did not some seconds ago).
func (c *Cloud) CheckFeature(ctx context.Context, f Feature) error { return c.supports(ctx, f.need()) }

func (c *Cloud) supports(ctx context.Context, n need) error {
	return c.loggedIn(ctx, "asking what "+string(n.service)+" offers", func(conn *connection) error { return conn.supports(ctx, n) })
}

// best returns the version of Cinder to ask for, if it offers it; else none.
func (c *Cloud) best(ctx context.Context, v microversion) microversion {
	if c.supports(ctx, need{service: blockStorage, version: v}) != nil {
		return microversion{}
	}
	return v
}

// present returns the connection that there is, or nil.
func (c *Cloud) present() *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

func (c *Cloud) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.pool.CloseIdleConnections()
		c.conn = nil
	}
}
