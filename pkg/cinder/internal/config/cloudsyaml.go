package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// cloudEntry has the keys of a cloud in clouds.yaml, as openstacksdk documents them, that are
// read.
type cloudEntry struct {
	Auth struct {
		credentials   `yaml:",inline"`
		DefaultDomain string `yaml:"default_domain"`
	} `yaml:"auth"`
	AuthType        string   `yaml:"auth_type"`
	Region          string   `yaml:"region_name"`
	Regions         []region `yaml:"regions"`
	Interface       string   `yaml:"interface"`
	EndpointType    string   `yaml:"endpoint_type"`
	Verify          *bool    `yaml:"verify"`
	Insecure        bool     `yaml:"insecure"`
	CA              string   `yaml:"cacert"`
	Cert            string   `yaml:"cert"`
	Key             string   `yaml:"key"`
	BlockStorageURL string   `yaml:"block_storage_endpoint_override"`
	VolumeURL       string   `yaml:"volume_endpoint_override"`
	VolumeV3URL     string   `yaml:"volumev3_endpoint_override"`
	ComputeURL      string   `yaml:"compute_endpoint_override"`

	err error // why it could not be read
}

// region is an item of the list regions: a name, or a mapping with one.
type region struct {
	Name string `yaml:"name"`
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (r *region) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return n.Decode(&r.Name)
	}
	type mapping region // without this method
	return n.Decode((*mapping)(r))
}

// readCloudsYAML reads a clouds.yaml and the secure.yaml beside it, whose keys override.
func (r *reader) readCloudsYAML(path string) (map[string]cloudEntry, error) {
	entries, err := r.readYAML(path)
	if err != nil {
		return nil, err
	}
	secure := filepath.Join(filepath.Dir(path), "secure.yaml")
	secrets, err := r.readYAML(secure)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	clouds := map[string]cloudEntry{}
	for name, node := range entries {
		var raw cloudEntry
		if err := node.Decode(&raw); err != nil {
			raw.err = redactYAMLError(err)
		}
		// Decoding onto the same value overrides only the keys that are there.
		if more, ok := secrets[name]; ok {
			if err := more.Decode(&raw); err != nil && raw.err == nil {
				raw.err = fmt.Errorf("secure.yaml: %w", redactYAMLError(err))
			}
		}
		clouds[name] = raw
	}
	return clouds, nil
}

// readYAML returns the clouds of a file, and warns of keys that are not read.
func (r *reader) readYAML(path string) (map[string]yaml.Node, error) {
	data, err := r.readFile(path)
	if err != nil {
		return nil, err
	}
	var file struct {
		Clouds map[string]yaml.Node `yaml:"clouds"`
	}
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		return nil, fmt.Errorf("%s: %w", path, redactYAMLError(err))
	}
	if err := document.Decode(&file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, redactYAMLError(err))
	}
	ignored := ignoredKeys(&document, reflect.TypeFor[struct {
		Clouds any `yaml:"clouds"`
	}](), "")
	for name, node := range file.Clouds {
		ignored = append(ignored, ignoredKeys(&node, reflect.TypeFor[cloudEntry](), "clouds."+name+".")...)
	}
	r.addWarning(Warning{File: path, Keys: ignored})
	return file.Clouds, nil
}

// redactYAMLError replaces an error of the YAML parser, which can quote values, by one that has
// nothing of the file.
func redactYAMLError(err error) error {
	const constant = `(?:cannot unmarshal !!(?:str|int|float|bool|null|seq|map|timestamp|binary)\b|` +
		`(?:[a-z, -]|'[^\pL\pN']')+)`
	message := strings.TrimPrefix(err.Error(), "yaml: unmarshal errors:\n  ")
	found := regexp.MustCompile(`^(?:yaml: )?(?:line \d+: )?` + constant).FindString(message)
	if found = strings.TrimSpace(found); found == "" {
		found = "the file is not YAML"
	}
	return errors.New(found)
}

// cloud makes a Cloud of an entry.
func (raw *cloudEntry) cloud(r *reader, name, path string) (Cloud, error) {
	a := &raw.Auth
	c := a.newCloud(name, fmt.Sprintf("%s, cloud %q", path, name))
	c.ProjectID, c.ProjectName = cmp.Or(a.ProjectID, a.TenantID), cmp.Or(a.ProjectName, a.TenantName)
	c.Region, c.Interface = raw.Region, strings.TrimSuffix(cmp.Or(raw.EndpointType, raw.Interface, "public"), "URL")
	c.BlockStorageURL = cmp.Or(raw.BlockStorageURL, raw.VolumeV3URL, raw.VolumeURL)
	c.ComputeURL = raw.ComputeURL
	c.Insecure = raw.Insecure || raw.Verify != nil && !*raw.Verify
	c.UserDomainID, c.UserDomainName = firstDomain(
		a.UserDomainID, a.UserDomainName, a.DomainID, a.DomainName, a.DefaultDomain, "")
	c.ProjectDomainID, c.ProjectDomainName = firstDomain(
		a.ProjectDomainID, a.ProjectDomainName, a.DomainID, a.DomainName, a.DefaultDomain, "")
	if raw.err != nil {
		return c, raw.err
	}
	if err := raw.applyAuthType(&c); err != nil {
		return c, err
	}
	if err := raw.chooseRegion(&c); err != nil {
		return c, err
	}
	return c, r.readPEM(&c, raw.CA, raw.Cert, raw.Key)
}

// chooseRegion takes the region from the list regions if region_name is not set. It returns an
// error if the list has several: other clients use the first, which the user may not want.
func (raw *cloudEntry) chooseRegion(c *Cloud) error {
	if raw.Region != "" || len(raw.Regions) == 0 {
		return nil
	}
	if len(raw.Regions) > 1 {
		var names []string
		for _, r := range raw.Regions {
			names = append(names, r.Name)
		}
		return fmt.Errorf("region_name is missing, and regions has several: %s", QuoteList(names))
	}
	c.Region = raw.Regions[0].Name
	return nil
}

// applyAuthType clears the credentials that the entry's auth_type does not use, and refuses an
// auth_type that cannot be used.
func (raw *cloudEntry) applyAuthType(c *Cloud) error {
	switch raw.AuthType {
	case "":
	case "password", "v3password":
		c.Token, c.AppCredentialID, c.AppCredentialName = "", "", ""
	case "token", "v3token":
		c.Username, c.UserID, c.Password, c.AppCredentialID, c.AppCredentialName = "", "", "", "", ""
	case "v3applicationcredential", "application_credential":
		c.Token, c.Password = "", ""
	case "admin_token", "none":
		return fmt.Errorf("auth_type %s gives no access to block storage", raw.AuthType)
	default:
		return fmt.Errorf("auth_type %s is not supported: use password, token or v3applicationcredential", raw.AuthType)
	}
	return nil
}
