package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/gcfg.v1"
)

// cloudConf has the sections and keys of cinder-csi-plugin's cloud.conf that are read.
type cloudConf struct {
	Global       map[string]*globalSection
	BlockStorage Settings
	Metadata     struct{} // accepted, but no key of it is read
}

// globalSection is one section [Global] or [Global "name"].
type globalSection struct {
	credentials
	TenantDomainID   string `gcfg:"tenant-domain-id"`
	TenantDomainName string `gcfg:"tenant-domain-name"`
	TrusteeID        string `gcfg:"trustee-id"`
	TrusteePassword  string `gcfg:"trustee-password"`
	Region           string `gcfg:"region"`
	OSEndpointType   string `gcfg:"os-endpoint-type"`
	EndpointType     string `gcfg:"endpoint-type"`
	CAFile           string `gcfg:"ca-file"`
	CertFile         string `gcfg:"cert-file"`
	KeyFile          string `gcfg:"key-file"`
	TLSInsecure      string `gcfg:"tls-insecure"`
	UseClouds        bool   `gcfg:"use-clouds"`
	CloudsFile       string `gcfg:"clouds-file"`
	Cloud            string `gcfg:"cloud"`
}

// defaultCloudsFile is where use-clouds looks when nothing names the file.
const defaultCloudsFile = "/etc/openstack/clouds.yaml"

// readCloudConf reads the files of f; the keys of later files override those of earlier ones.
func (r *reader) readCloudConf(f Files) error {
	var conf cloudConf
	for _, path := range f.CloudConf {
		data, err := r.readFile(path)
		if err != nil {
			return err
		}
		ignored, cut, err := parseConf(&conf, data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		r.addWarning(Warning{File: path, Keys: ignored})
		r.addWarning(Warning{File: path, Keys: cut, IsCut: true})
	}
	files := strings.Join(f.CloudConf, "+")
	for name, g := range conf.Global {
		section := fmt.Sprintf("[Global %q]", name)
		if name == "" {
			name, section = Unnamed, "[Global]"
		}
		r.addCloud(g.cloud(r, f, name, files+", section "+section))
	}
	r.config.Settings = conf.BlockStorage
	return nil
}

// parseConf reads one file over what conf has. ignored are the keys and sections that conf does
// not have, cut the keys whose value ends at a comment that may have been meant as a part of it.
func parseConf(conf *cloudConf, data []byte) (ignored, cut []string, err error) {
	text := strings.TrimPrefix(string(data), "\ufeff")
	err = gcfg.FatalOnly(gcfg.ReadStringInto(conf, text))
	if err != nil {
		return nil, nil, redactConfError(err)
	}
	ignored, cut = scanConf(text)
	return ignored, cut, nil
}

// redactConfError replaces an error of gcfg, which quotes the text that it cannot read, by one that
// has nothing of the file but the names of section and key.
func redactConfError(err error) error {
	text := err.Error()
	if m := regexp.MustCompile(`^(\d+:\d+): (.*)`).FindStringSubmatch(text); m != nil {
		// All other messages are constant.
		message, _, _ := strings.Cut(m[2], " U+") // "illegal character U+0021 '!'"
		return fmt.Errorf("%s: %s", m[1], message)
	}
	i := strings.LastIndex(text, ` at section "`)
	switch {
	case i < 0:
		return errors.New("the file does not have the form of a cloud.conf")
	case strings.HasPrefix(text, "blank value"):
		return fmt.Errorf("the value is missing%s", text[i:])
	}
	return fmt.Errorf("the value is neither true nor false%s", text[i:])
}

// cloud makes a Cloud of a section. With use-clouds, the fields that the section lacks come from
// clouds.yaml.
func (g *globalSection) cloud(r *reader, f Files, name, origin string) (Cloud, error) {
	c := g.newCloud(name, origin)
	c.ProjectID, c.ProjectName = cmp.Or(g.TenantID, g.ProjectID), cmp.Or(g.TenantName, g.ProjectName)
	c.Region, c.Interface = g.Region, strings.TrimSuffix(cmp.Or(g.OSEndpointType, g.EndpointType), "URL")
	c.UserDomainID, c.UserDomainName = firstDomain(g.UserDomainID, g.UserDomainName, g.DomainID, g.DomainName)
	c.ProjectDomainID, c.ProjectDomainName = firstDomain(
		g.TenantDomainID, g.TenantDomainName, g.ProjectDomainID, g.ProjectDomainName, g.DomainID, g.DomainName)
	if g.TrustID != "" { // the trustee logs in, in the name of the trustor
		if g.TrusteeID != "" {
			c.UserID, c.Username = g.TrusteeID, ""
		}
		c.Password = cmp.Or(g.TrusteePassword, c.Password)
	}
	if g.TLSInsecure != "" {
		insecure, err := strconv.ParseBool(g.TLSInsecure)
		if err != nil {
			return c, errors.New("tls-insecure is neither true nor false")
		}
		c.Insecure = insecure
	}
	if err := r.readPEM(&c, g.CAFile, g.CertFile, g.KeyFile); err != nil {
		return c, err
	}
	if !g.UseClouds {
		return c, nil
	}
	base, err := g.fromClouds(r, cmp.Or(g.CloudsFile, f.CloudsYAML, defaultCloudsFile))
	return withDefaults(c, base), err
}

// fromClouds reads the entry of a clouds.yaml that the section refers to.
func (g *globalSection) fromClouds(r *reader, path string) (Cloud, error) {
	clouds, err := r.readCloudsYAML(path)
	if err != nil {
		return Cloud{}, fmt.Errorf("use-clouds: %w", err)
	}
	raw, ok := clouds[g.Cloud]
	if !ok {
		names := QuoteList(slices.Sorted(maps.Keys(clouds)))
		return Cloud{}, fmt.Errorf("use-clouds: %s has no cloud %q (key cloud), but %s", path, g.Cloud, names)
	}
	c, err := raw.cloud(r, g.Cloud, path)
	if err != nil {
		return Cloud{}, fmt.Errorf("use-clouds: %s: %w", c.Origin, err)
	}
	return c, nil
}

// QuoteList joins names for a message.
func QuoteList(names []string) string {
	var quoted []string
	for _, name := range names {
		quoted = append(quoted, strconv.Quote(name))
	}
	return strings.Join(quoted, ", ")
}

// withDefaults returns c with its empty fields filled from defaults. The id and the name of the
// same object belong together: if c has one of them, neither is filled.
func withDefaults(c, defaults Cloud) Cloud {
	for _, pair := range []struct{ id, name, defaultID, defaultName *string }{
		{&c.UserDomainID, &c.UserDomainName, &defaults.UserDomainID, &defaults.UserDomainName},
		{&c.ProjectDomainID, &c.ProjectDomainName, &defaults.ProjectDomainID, &defaults.ProjectDomainName},
		{&c.UserID, &c.Username, &defaults.UserID, &defaults.Username},
		{&c.ProjectID, &c.ProjectName, &defaults.ProjectID, &defaults.ProjectName},
		{&c.AppCredentialID, &c.AppCredentialName, &defaults.AppCredentialID, &defaults.AppCredentialName},
	} {
		if *pair.id+*pair.name != "" {
			*pair.defaultID, *pair.defaultName = *pair.id, *pair.name
		}
	}
	fields, fallback := reflect.ValueOf(&c).Elem(), reflect.ValueOf(defaults)
	for i := range fields.NumField() {
		if fields.Field(i).IsZero() {
			fields.Field(i).Set(fallback.Field(i))
		}
	}
	return c
}
