// Package config reads how to reach clouds: clouds.yaml with secure.yaml, as
// openstacksdk describes them, and cloud.conf, as cinder-csi-plugin reads it. Errors
// name file, cloud and key, and never a value, which may be a secret.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Cloud is how to reach one cloud and who to be there. It is comparable, so
// that a change can be told.
type Cloud struct {
	Name   string
	Origin string // where it stands, for messages: "/etc/config/cloud.conf, section [Global]"

	AuthURL                                        string
	Username, UserID, UserDomainName, UserDomainID string
	Password                                       string
	ProjectName, ProjectID                         string
	ProjectDomainName, ProjectDomainID             string
	TrustID                                        string
	AppCredentialID, AppCredentialName             string
	AppCredentialSecret                            string
	Token                                          string

	Region    string // empty: the only one of the catalog
	Interface string // public, internal or admin

	BlockStorageURL, ComputeURL string // instead of what the catalog says; empty: the catalog

	CA, Cert, Key string // PEM, not file names: a renewed certificate is a change
	Insecure      bool   // do not verify the cloud's certificate
}

// LogValue implements slog.LogValuer: a Cloud holds secrets, none of which may
// reach a log.
func (c Cloud) LogValue() slog.Value { return slog.StringValue(c.Name + " (" + c.Origin + ")") }

// String implements fmt.Stringer, for the same reason.
func (c Cloud) String() string { return c.Name + " (" + c.Origin + ")" }

// GoString implements fmt.GoStringer, for the same reason.
func (c Cloud) GoString() string { return c.String() }

// validate says what is missing or contradicts itself.
func (c Cloud) validate() error {
	switch {
	case c.AuthURL == "":
		return missing("auth-url (auth_url)")
	case !strings.HasPrefix(c.AuthURL, "http://") && !strings.HasPrefix(c.AuthURL, "https://"):
		return errors.New("auth-url (auth_url) does not begin with http:// or https://")
	case !isAddress(c.AuthURL):
		return errors.New("auth-url (auth_url) is not an address")
	case c.BlockStorageURL != "" && !isAddress(c.BlockStorageURL):
		return errors.New("block_storage_endpoint_override (volume_endpoint_override) is not an address")
	case c.ComputeURL != "" && !isAddress(c.ComputeURL):
		return errors.New("compute_endpoint_override is not an address")
	case !slices.Contains([]string{"public", "internal", "admin"}, c.Interface):
		return errors.New("os-endpoint-type (interface) is none of public, internal, admin")
	case c.AppCredentialID != "" || c.AppCredentialName != "":
		return c.validateAppCredential()
	case c.Token != "":
		return nil
	}
	return c.validatePassword()
}

// isAddress reports whether text is a URL of HTTP, which may have a place for the
// project's id. Whoever uses one that is not gets an error with a part of it, which may be
// a password.
func isAddress(text string) bool {
	u, err := url.Parse(regexp.MustCompile(`[%$]\((project|tenant)_id\)s`).ReplaceAllString(text, "id"))
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https")
}

func missing(keys ...string) error { return fmt.Errorf("%s is missing", strings.Join(keys, " or ")) }

// userKnown tells whether the user is named unmistakably.
func (c Cloud) userKnown() bool {
	return c.UserID != "" || c.Username != "" && c.UserDomainID+c.UserDomainName != ""
}

func (c Cloud) validateAppCredential() error {
	switch {
	case c.AppCredentialSecret == "":
		return missing("application-credential-secret (application_credential_secret)")
	case c.AppCredentialID == "" && !c.userKnown():
		return errors.New("application-credential-name (application_credential_name) needs user-id (user_id), or username with user-domain-name (user_domain_name)")
	}
	return nil
}

func (c Cloud) validatePassword() error {
	switch {
	case c.Username == "" && c.UserID == "":
		return missing("username", "user-id (user_id)", "application-credential-id (application_credential_id)", "token")
	case c.Password == "":
		return missing("password")
	case !c.userKnown():
		return missing("user-domain-name (user_domain_name)", "user-domain-id (user_domain_id)", "domain-name (domain_name)")
	case c.TrustID != "":
		return nil
	case c.ProjectID == "" && c.ProjectName == "":
		return missing("tenant-id or tenant-name (project_id, project_name)", "trust-id (trust_id)")
	case c.ProjectID == "" && c.ProjectDomainID+c.ProjectDomainName == "":
		return missing("tenant-domain-name (project_domain_name)", "tenant-domain-id (project_domain_id)", "domain-name (domain_name)")
	}
	return nil
}

// Entry is a cloud of the files, or why it cannot be used. The others can be
// used all the same.
type Entry struct {
	Cloud Cloud
	Err   error
}

// Settings are what cloud.conf says beyond the clouds. Zero: not said.
type Settings struct {
	IgnoreVolumeAZ           bool // [BlockStorage] ignore-volume-az
	IgnoreVolumeMicroversion bool // [BlockStorage] ignore-volume-microversion
}

// Warning is about keys of one file, without their values.
type Warning struct {
	File string
	Keys []string
	// Cut: the values of the keys end at a comment that may have been meant to be a part
	// of them. Otherwise the keys are not read.
	Cut bool
}

// Config is what the files say.
type Config struct {
	Clouds   map[string]Entry
	Settings Settings
	Warnings []Warning
	seen     map[string]stamp // what was read or looked for, as it was just before
}

// Names returns the clouds' names in order.
func (c *Config) Names() []string { return slices.Sorted(maps.Keys(c.Clouds)) }

// Unnamed is the name of the cloud that the section [Global] describes, which
// has none in the file.
const Unnamed = "Global"

// Files name what to read. Relative names are relative to the working
// directory of the process.
type Files struct {
	CloudConf  []string // later ones override keys of earlier ones
	CloudsYAML string   // secure.yaml beside it is merged in; empty: none
}

// Load reads the files.
func (f Files) Load() (*Config, error) {
	r := reader{config: &Config{Clouds: map[string]Entry{}, seen: map[string]stamp{}}}
	if f.CloudsYAML != "" {
		clouds, err := r.cloudsYAML(f.CloudsYAML)
		if err != nil {
			return nil, err
		}
		for name, raw := range clouds {
			r.add(raw.cloud(&r, name, f.CloudsYAML))
		}
	}
	if len(f.CloudConf) > 0 {
		if err := r.cloudConf(f); err != nil {
			return nil, err
		}
	}
	if len(r.config.Clouds) == 0 {
		return nil, fmt.Errorf("no cloud is described in %s", strings.Join(append(slices.Clone(f.CloudConf), f.CloudsYAML), ", "))
	}
	return r.config, nil
}

// reader collects what the files say.
type reader struct{ config *Config }

// warn adds a warning, unless it has no keys or the file has one of its kind already.
func (r *reader) warn(w Warning) {
	said := slices.ContainsFunc(r.config.Warnings, func(o Warning) bool { return o.File == w.File && o.Cut == w.Cut })
	if len(w.Keys) == 0 || said {
		return
	}
	slices.Sort(w.Keys)
	w.Keys = slices.Compact(w.Keys)
	r.config.Warnings = append(r.config.Warnings, w)
}

// add takes a cloud, unless its name is taken.
func (r *reader) add(c Cloud, err error) {
	if c.Interface == "" {
		c.Interface = "public"
	}
	if err == nil {
		err = c.validate()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", c.Origin, err)
	}
	if other, taken := r.config.Clouds[c.Name]; taken {
		err = fmt.Errorf("the name %q is used twice: in %s and in %s", c.Name, other.Cloud.Origin, c.Origin)
	}
	r.config.Clouds[c.Name] = Entry{Cloud: c, Err: err}
}
