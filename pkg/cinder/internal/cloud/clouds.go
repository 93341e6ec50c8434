package cloud

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/cinder/internal/config"
	"github.com/growvol/growvol/pkg/cinder/internal/transport"
	"github.com/growvol/growvol/pkg/volume"
)

// Options say where the clouds are described, which of them is the default, and where Clouds logs
// and counts.
type Options struct {
	CloudConfig []string // cloud.conf files; keys of later ones override those of earlier ones
	// CloudsYAML is a clouds.yaml; secure.yaml beside it is merged in. Empty: none, unless a
	// cloud.conf says use-clouds.
	CloudsYAML string
	// Default is the cloud of requests that name none. Empty: the section [Global] of cloud.conf, or
	// else the only cloud there is.
	Default    string
	UserAgent  string
	Log        *slog.Logger          // nil: slog.Default
	Registerer prometheus.Registerer // takes the metrics of the API calls; nil: none
}

// Settings are what cloud.conf says beyond the clouds.
type Settings = config.Settings

// checkInterval is the least time between two checks of the files for changes.
const checkInterval = 3 * time.Second

// Clouds are the configured clouds. Its methods are safe for concurrent use.
type Clouds struct {
	log         *slog.Logger
	userAgent   string
	metrics     *transport.Metrics
	watch       *config.Watch
	defaultName string
	tuning      tuning

	detached sync.WaitGroup  // work that does not end with its call; see detach
	lifetime context.Context //nolint:containedctx // ended by Close
	endLife  context.CancelFunc

	mu     sync.Mutex // guards clouds, and the end of lifetime
	clouds map[string]*Cloud
}

// Open reads the files and logs in to the default cloud, so that wrong credentials are reported at
// the start. An outage of Keystone does not make it fail: Ready reports when there is a login.
// Kinds: Invalid (files), Unauthenticated, Unavailable (what no retry repairs, such as a
// certificate).
func Open(ctx context.Context, o Options) (*Clouds, error) {
	return open(ctx, o, tuning{timeouts: defaultTimeouts()})
}

func open(ctx context.Context, o Options, tuning tuning) (*Clouds, error) {
	cs := &Clouds{log: cmp.Or(o.Log, slog.Default()), userAgent: o.UserAgent, tuning: tuning, clouds: map[string]*Cloud{}}
	cs.lifetime, cs.endLife = context.WithCancel(context.WithoutCancel(ctx))
	files := config.Files{CloudConf: o.CloudConfig, CloudsYAML: o.CloudsYAML}
	var err error
	cs.watch, err = config.NewWatch(files, checkInterval, cs.logChange)
	if err != nil {
		return nil, volume.Errorf(volume.KindInvalid, "reading how to reach the clouds: %w", err)
	}
	current := cs.watch.Current(false)
	cs.logWarnings(ctx, current)
	if cs.defaultName, err = chooseDefault(current, o.Default); err != nil {
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

// start logs in to the default cloud for the first time. A program that ended for each outage of
// Keystone would be restarted at ever longer intervals, and come back minutes after Keystone.
func (cs *Clouds) start(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, cs.tuning.timeouts.start)
	defer cancel()
	_, err := cs.Cloud(limited, "")
	if err == nil || ctx.Err() != nil || !isOutage(err) {
		return err
	}
	cs.log.WarnContext(ctx, "the program starts without a login; each probe and each call tries again",
		"cloud", cs.defaultName, "error", err)
	return nil
}

// Ready returns nil if there is a login to the default cloud. It waits briefly for a login, and
// asks no other service. Kinds: InProgress (Keystone does not answer yet), those of Cloud.
func (cs *Clouds) Ready(ctx context.Context) error {
	if _, err := cs.configOf(cs.defaultName, false); err != nil {
		return err
	}
	if cs.cloud(cs.defaultName).current() != nil {
		return nil // whether its token is still good, the next call will show
	}
	limited, cancel := context.WithTimeout(ctx, cs.tuning.timeouts.ready)
	defer cancel()
	_, err := cs.Cloud(limited, "")
	if err != nil && ctx.Err() == nil && isOutage(err) {
		return volume.Errorf(volume.KindInProgress, "not logged in to the cloud yet: %w", err)
	}
	return err
}

// logChange logs that changed files were read, or err, which is wrong with them.
func (cs *Clouds) logChange(c *config.Config, err error) {
	if err != nil {
		cs.log.ErrorContext(cs.lifetime, "the changed configuration of the clouds is broken; "+
			"what is broken keeps its old configuration", "error", err)
	} else {
		cs.log.InfoContext(cs.lifetime, "the configuration of the clouds has changed and was read again", "clouds", c.Names())
	}
	cs.logWarnings(cs.lifetime, c)
}

func (cs *Clouds) logWarnings(ctx context.Context, c *config.Config) {
	for _, w := range c.Warnings {
		log := cs.log.With("file", w.File, "keys", w.Keys)
		if w.IsCut {
			log.WarnContext(ctx, "values of a configuration file end at an unquoted # or ;, which begins a comment; "+
				"put a value that contains one in double quotes")
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

// chooseDefault returns the name of the default cloud. Kind Invalid: wanted is not configured, or
// there are several and none is wanted.
func chooseDefault(c *config.Config, wanted string) (string, error) {
	names := c.Names()
	_, unnamed := c.Clouds[config.Unnamed]
	switch {
	case wanted != "" && !slices.Contains(names, wanted):
		return "", volume.Errorf(volume.KindInvalid, "the default cloud %q is not configured; configured are %s",
			wanted, config.QuoteList(names))
	case wanted != "":
		return wanted, nil
	case unnamed:
		return config.Unnamed, nil
	case len(names) == 1:
		return names[0], nil
	}
	return "", volume.Errorf(volume.KindInvalid, "there are several clouds (%s), but none is the default",
		config.QuoteList(names)).WithRemedy("name the default cloud")
}

// Cloud returns a cloud by name ("": the default), logged in. Kinds: Invalid (not configured, or
// no longer), Unauthenticated, Unavailable.
func (cs *Clouds) Cloud(ctx context.Context, name string) (*Cloud, error) {
	name = cmp.Or(name, cs.defaultName)
	if _, err := cs.configOf(name, false); err != nil {
		return nil, err
	}
	c := cs.cloud(name)
	if _, err := c.connection(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// cloud returns the cloud of a configured name, logged in or not.
func (cs *Clouds) cloud(name string) *Cloud {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.clouds[name]
	if c == nil {
		c = &Cloud{name: name, clouds: cs}
		cs.clouds[name] = c
	}
	return c
}

// configOf returns how a cloud is configured. now: the files are checked even if they were checked
// a moment ago.
func (cs *Clouds) configOf(name string, now bool) (config.Cloud, error) {
	if cs.isClosed() {
		return config.Cloud{}, volume.Errorf(volume.KindUnavailable, "cloud %q: the client is closed", name)
	}
	current := cs.watch.Current(now)
	e, ok := current.Clouds[name]
	if !ok {
		return config.Cloud{}, volume.Errorf(volume.KindInvalid, "cloud %q is not configured; configured are %s",
			name, config.QuoteList(current.Names())).
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
	names := slices.DeleteFunc(cs.watch.Current(false).Names(), func(n string) bool { return n == cs.defaultName })
	return append([]string{cs.defaultName}, names...)
}

// IsUsable reports whether a cloud's description is complete. The cloud stays usable while a
// changed description is broken.
func (cs *Clouds) IsUsable(name string) bool {
	e, ok := cs.watch.Current(false).Clouds[name]
	return ok && e.Err == nil
}

// Settings returns what cloud.conf says beyond the clouds, as it stands now.
func (cs *Clouds) Settings() Settings { return cs.watch.Current(false).Settings }

// Close drops all connections. Calls that are under way fail or finish; work that does not end
// with its call is ended and waited for.
func (cs *Clouds) Close() {
	cs.mu.Lock()
	cs.endLife()
	cs.mu.Unlock()
	cs.detached.Wait()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for _, c := range cs.clouds {
		if conn := c.current(); conn != nil {
			conn.pool.CloseIdleConnections()
		}
	}
}

func (cs *Clouds) isClosed() bool { return cs.lifetime.Err() != nil }
