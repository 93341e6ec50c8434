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

// Cloud holds the addresses and credentials of one cloud. It is comparable, so that a change can be
// noticed.
type Cloud struct {
	Name   string
	Origin string // where it is described, for messages: "/etc/config/cloud.conf, section [Global]"

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

// LogValue implements slog.LogValuer: a Cloud holds secrets, none of which may reach a log.
func (c Cloud) LogValue() slog.Value { return slog.StringValue(c.String()) }

// String implements fmt.Stringer, for the same reason.
func (c Cloud) String() string { return c.Name + " (" + c.Origin + ")" }

// GoString implements fmt.GoStringer, for the same reason.
func (c Cloud) GoString() string { return c.String() }

// check returns an error that names what is missing or not valid.
func (c Cloud) check() error {
	switch {
	case c.AuthURL == "":
		return missingKeyError("auth-url (auth_url)")
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
		return c.checkAppCredential()
	case c.Token != "":
		return nil
	}
	return c.checkPassword()
}

// isAddress reports whether text is an HTTP or HTTPS URL, which can have a placeholder for the
// project's id. Using another text would fail with an error that quotes a part of it, which could
// be a password.
func isAddress(text string) bool {
	u, err := url.Parse(regexp.MustCompile(`[%$]\((project|tenant)_id\)s`).ReplaceAllString(text, "id"))
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https")
}

// missingKeyError returns the error for a cloud that has none of these keys.
func missingKeyError(keys ...string) error {
	return fmt.Errorf("%s is missing", strings.Join(keys, " or "))
}

// hasUser reports whether the user is identified: by id, or by name and domain.
func (c Cloud) hasUser() bool {
	return c.UserID != "" || c.Username != "" && c.UserDomainID+c.UserDomainName != ""
}

func (c Cloud) checkAppCredential() error {
	switch {
	case c.AppCredentialSecret == "":
		return missingKeyError("application-credential-secret (application_credential_secret)")
	case c.AppCredentialID == "" && !c.hasUser():
		return errors.New("application-credential-name (application_credential_name) needs user-id (user_id), " +
			"or username with user-domain-name (user_domain_name)")
	}
	return nil
}

func (c Cloud) checkPassword() error {
	switch {
	case c.Username == "" && c.UserID == "":
		return missingKeyError(
			"username", "user-id (user_id)", "application-credential-id (application_credential_id)", "token")
	case c.Password == "":
		return missingKeyError("password")
	case !c.hasUser():
		return missingKeyError(
			"user-domain-name (user_domain_name)", "user-domain-id (user_domain_id)", "domain-name (domain_name)")
	case c.TrustID != "":
		return nil
	case c.ProjectID == "" && c.ProjectName == "":
		return missingKeyError("tenant-id or tenant-name (project_id, project_name)", "trust-id (trust_id)")
	case c.ProjectID == "" && c.ProjectDomainID+c.ProjectDomainName == "":
		return missingKeyError(
			"tenant-domain-name (project_domain_name)", "tenant-domain-id (project_domain_id)", "domain-name (domain_name)")
	}
	return nil
}

// Entry is one cloud of the files. Err is the reason why it cannot be used, or nil; it does not
// affect the other clouds.
type Entry struct {
	Cloud Cloud
	Err   error
}

// Settings are the keys of the section [BlockStorage] of cloud.conf. A missing key is false.
type Settings struct {
	IgnoreVolumeAZ           bool `gcfg:"ignore-volume-az"`
	IgnoreVolumeMicroversion bool `gcfg:"ignore-volume-microversion"`
}

// Warning is about keys of one file, without their values.
type Warning struct {
	File string
	Keys []string
	// IsCut means that the values of the keys end at a comment that may have been meant as a part of
	// them. If it is false, the keys are not read.
	IsCut bool
}

// Config is the configuration that the files contain.
type Config struct {
	Clouds   map[string]Entry
	Settings Settings
	Warnings []Warning
	states   map[string]fileState // of the files that were read or not found, just before the reading
}

// Names returns the clouds' names in order.
func (c *Config) Names() []string { return slices.Sorted(maps.Keys(c.Clouds)) }

// Unnamed is the name of the cloud that the section [Global] describes, which has no name in the
// file.
const Unnamed = "Global"

// Files are the names of the files to read. Relative names are relative to the working directory
// of the process.
type Files struct {
	CloudConf  []string // the keys of later files override those of earlier ones
	CloudsYAML string   // secure.yaml beside it is merged in; empty: none
}

// Load reads the files.
func (f Files) Load() (*Config, error) {
	r := reader{config: &Config{Clouds: map[string]Entry{}, states: map[string]fileState{}}}
	if f.CloudsYAML != "" {
		clouds, err := r.readCloudsYAML(f.CloudsYAML)
		if err != nil {
			return nil, err
		}
		for name, raw := range clouds {
			r.addCloud(raw.cloud(&r, name, f.CloudsYAML))
		}
	}
	if len(f.CloudConf) > 0 {
		if err := r.readCloudConf(f); err != nil {
			return nil, err
		}
	}
	if len(r.config.Clouds) == 0 {
		files := append(slices.Clone(f.CloudConf), f.CloudsYAML)
		return nil, fmt.Errorf("no cloud is described in %s", strings.Join(files, ", "))
	}
	return r.config, nil
}
