package cloud

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/cinder/internal/config"
	"github.com/growvol/growvol/pkg/cinder/internal/transport"
	"github.com/growvol/growvol/pkg/volume"
)

// Options name the configuration files and the default cloud, and where Clouds logs and counts.
type Options struct {
	CloudConfig []string // cloud.conf files; keys of later files override those of earlier ones
	// CloudsYAML is the path of a clouds.yaml; the secure.yaml in the same directory is merged in. If
	// it is empty, a clouds.yaml is read only if a cloud.conf sets use-clouds.
	CloudsYAML string
	// Default is the cloud of requests that name no cloud. If it is empty, that is the cloud of the
	// section [Global] of cloud.conf, or else the only configured cloud.
	Default    string
	UserAgent  string                // put before gophercloud's own; empty: only that
	Log        *slog.Logger          // nil means slog.Default
	Registerer prometheus.Registerer // receives the metrics of the API calls; nil means no metrics
	// Dial opens the connections to the services; nil means TCP. Tests set it.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Settings are the keys of cloud.conf that do not belong to one cloud.
type Settings = config.Settings

// checkInterval is the least time between two checks of the files for changes.
const checkInterval = 3 * time.Second

// Clouds are the configured clouds. Its methods are safe for concurrent use.
type Clouds struct {
	log         *slog.Logger
	userAgent   string
	metrics     *transport.Metrics
	versions    *versionReport
	watch       *config.Watch
	defaultName string
	tuning      tuning
	dial        func(ctx context.Context, network, address string) (net.Conn, error) // nil: TCP

	backgroundWork sync.WaitGroup  // work that does not end with the call that began it; see detach
	background     context.Context //nolint:containedctx // canceled by Close
	stopBackground context.CancelFunc

	mu     sync.Mutex // guards clouds, and the cancellation of background
	clouds map[string]*Cloud
}

// Open reads the files and logs in to the default cloud, so that wrong credentials are reported at
// the start. An outage of Keystone does not make it fail: Ready reports when there is a login.
// Kinds: Invalid (files, or no region although the catalog has several), Unauthenticated,
// Unavailable (an error that no retry repairs, such as an untrusted certificate), Internal (the
// metrics cannot be registered), Canceled and Deadline (ctx).
func Open(ctx context.Context, o Options) (*Clouds, error) {
	return open(ctx, o, tuning{timeouts: defaultTimeouts()})
}

func open(ctx context.Context, o Options, tuning tuning) (*Clouds, error) {
	cs := &Clouds{
		log: cmp.Or(o.Log, slog.Default()), userAgent: o.UserAgent, dial: o.Dial, tuning: tuning,
		clouds: map[string]*Cloud{},
	}
	cs.versions = newVersionReport()
	cs.background, cs.stopBackground = context.WithCancel(context.WithoutCancel(ctx))
	files := config.Files{CloudConf: o.CloudConfig, CloudsYAML: o.CloudsYAML}
	var err error
	cs.watch, err = config.NewWatch(files, checkInterval, cs.logChange)
	if err != nil {
		return nil, volume.Errorf(volume.KindInvalid, "cannot read the configuration of the clouds: %w", err)
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
		if err = o.Registerer.Register(cs.versions); err != nil {
			return nil, volume.Errorf(volume.KindInternal, "registering the metrics of API versions: %w", err)
		}
	}
	if err := cs.loginDefault(ctx); err != nil {
		cs.Close()
		if errors.Is(err, errSeveralRegions) {
			return nil, volume.Errorf(volume.KindInvalid, "%w", err)
		}
		return nil, err
	}
	return cs, nil
}

// loginDefault logs in to the default cloud for the first time. It returns nil during an outage of
// Keystone: if the program exited, Kubernetes would restart it after longer and longer pauses, so
// it could start minutes after Keystone is back.
func (cs *Clouds) loginDefault(ctx context.Context) error {
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

// Ready returns nil if there is a login to the default cloud. If there is none, it tries to log in
// and waits a short time for the result. It calls no service but Keystone. Kinds: InProgress
// (Keystone does not answer yet), and those of Cloud.
func (cs *Clouds) Ready(ctx context.Context) error {
	if _, err := cs.configOf(cs.defaultName, false); err != nil {
		return err
	}
	if cs.cloud(cs.defaultName).current() != nil {
		return nil // the token is not checked: a call that needs it logs in again if it is refused
	}
	limited, cancel := context.WithTimeout(ctx, cs.tuning.timeouts.ready)
	defer cancel()
	_, err := cs.Cloud(limited, "")
	if err != nil && ctx.Err() == nil && isOutage(err) {
		return volume.Errorf(volume.KindInProgress, "not logged in to the cloud yet: %w", err)
	}
	return err
}

// logChange logs that changed files were read. err is the reason why a part of the new
// configuration cannot be used, or nil; c is the configuration in use from now on.
func (cs *Clouds) logChange(c *config.Config, err error) {
	if err != nil {
		cs.log.ErrorContext(cs.background, "the changed configuration of the clouds has errors; "+
			"the previous configuration stays in use for the clouds that the errors affect", "error", err)
	} else {
		cs.log.InfoContext(cs.background, "the configuration of the clouds has changed and was read again",
			"clouds", c.Names())
	}
	cs.logWarnings(cs.background, c)
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

// chooseDefault returns the name of the default cloud: wanted, or, if that is empty, the cloud of
// the section [Global] or the only cloud. Kind Invalid: wanted is not configured, or it is empty
// and there are several clouds without a section [Global].
func chooseDefault(c *config.Config, wanted string) (string, error) {
	names := c.Names()
	_, hasUnnamed := c.Clouds[config.Unnamed]
	switch {
	case wanted != "" && !slices.Contains(names, wanted):
		return "", volume.Errorf(volume.KindInvalid, "the default cloud %q is not configured; configured are %s",
			wanted, config.QuoteList(names))
	case wanted != "":
		return wanted, nil
	case hasUnnamed:
		return config.Unnamed, nil
	case len(names) == 1:
		return names[0], nil
	}
	return "", volume.Errorf(volume.KindInvalid, "there are several clouds (%s), but none is the default",
		config.QuoteList(names)).WithRemedy("name the default cloud with the flag --cloud of growvol-controller, " +
		"or describe it in the section [Global] of cloud.conf, without a name")
}

// Cloud returns the cloud of this name, or the default cloud if name is empty. It logs in if there
// is no connection yet. Kinds: Invalid (not configured, or not any more), Unauthenticated,
// Unavailable.
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

// configOf returns the configuration of a cloud. With refresh it checks the files for changes even
// if they were checked less than checkInterval ago. Kinds: Invalid (not configured), Unavailable
// (its configuration has an error, or cs is closed).
func (cs *Clouds) configOf(name string, refresh bool) (config.Cloud, error) {
	if cs.isClosed() {
		return config.Cloud{}, volume.Errorf(volume.KindUnavailable, "cloud %q: the client is closed", name)
	}
	current := cs.watch.Current(refresh)
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

// Names lists the configured clouds, the default first. The default cloud is listed even if it is
// no longer configured.
func (cs *Clouds) Names() []string {
	names := slices.DeleteFunc(cs.watch.Current(false).Names(), func(n string) bool { return n == cs.defaultName })
	return append([]string{cs.defaultName}, names...)
}

// IsUsable reports whether a cloud is configured without an error. A cloud that was usable stays
// usable when an error is introduced into its configuration, because the previous one is kept.
func (cs *Clouds) IsUsable(name string) bool {
	e, ok := cs.watch.Current(false).Clouds[name]
	return ok && e.Err == nil
}

// Settings returns the settings of cloud.conf as the file has them now.
func (cs *Clouds) Settings() Settings { return cs.watch.Current(false).Settings }

// Close cancels the background work (shared logins and version requests), waits until it has ended,
// and closes idle connections. It does not interrupt calls in progress; later calls fail.
func (cs *Clouds) Close() {
	cs.mu.Lock()
	cs.stopBackground()
	cs.mu.Unlock()
	cs.backgroundWork.Wait()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for _, c := range cs.clouds {
		if conn := c.current(); conn != nil {
			conn.pool.CloseIdleConnections()
		}
	}
}

func (cs *Clouds) isClosed() bool { return cs.background.Err() != nil }
