package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// rawCloud is an entry of clouds.yaml as openstacksdk documents it.
type rawCloud struct {
	Auth struct {
		AuthURL             string `yaml:"auth_url"`
		Username            string `yaml:"username"`
		UserID              string `yaml:"user_id"`
		Password            string `yaml:"password"`
		ProjectName         string `yaml:"project_name"`
		ProjectID           string `yaml:"project_id"`
		TenantName          string `yaml:"tenant_name"`
		TenantID            string `yaml:"tenant_id"`
		UserDomainName      string `yaml:"user_domain_name"`
		UserDomainID        string `yaml:"user_domain_id"`
		ProjectDomainName   string `yaml:"project_domain_name"`
		ProjectDomainID     string `yaml:"project_domain_id"`
		DomainName          string `yaml:"domain_name"`
		DomainID            string `yaml:"domain_id"`
		DefaultDomain       string `yaml:"default_domain"`
		TrustID             string `yaml:"trust_id"`
		Token               string `yaml:"token"`
		AppCredentialID     string `yaml:"application_credential_id"`
		AppCredentialName   string `yaml:"application_credential_name"`
		AppCredentialSecret string `yaml:"application_credential_secret"`
	} `yaml:"auth"`
	AuthType        string `yaml:"auth_type"`
	Region          string `yaml:"region_name"`
	Interface       string `yaml:"interface"`
	EndpointType    string `yaml:"endpoint_type"`
	Verify          *bool  `yaml:"verify"`
	CA              string `yaml:"cacert"`
	Cert            string `yaml:"cert"`
	Key             string `yaml:"key"`
	BlockStorageURL string `yaml:"block_storage_endpoint_override"`
	VolumeURL       string `yaml:"volume_endpoint_override"`
	VolumeV3URL     string `yaml:"volumev3_endpoint_override"`
	ComputeURL      string `yaml:"compute_endpoint_override"`

	err error // why it could not be read
}

// cloudsYAML reads a clouds.yaml and the secure.yaml beside it.
func (r *reader) cloudsYAML(path string) (map[string]rawCloud, error) {
	entries, err := r.yamlFile(path)
	if err != nil {
		return nil, err
	}
	secure := filepath.Join(filepath.Dir(path), "secure.yaml")
	secrets, err := r.yamlFile(secure)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	clouds := map[string]rawCloud{}
	for name, node := range entries {
		var raw rawCloud
		if err := node.Decode(&raw); err != nil {
			raw.err = silent(err)
		}
		// Decoding onto the same value overrides just what is there.
		if more, ok := secrets[name]; ok {
			if err := more.Decode(&raw); err != nil && raw.err == nil {
				raw.err = fmt.Errorf("secure.yaml: %w", silent(err))
			}
		}
		clouds[name] = raw
	}
	return clouds, nil
}

func (r *reader) yamlFile(path string) (map[string]yaml.Node, error) {
	data, err := r.read(path)
	if err != nil {
		return nil, err
	}
	var file struct {
		Clouds map[string]yaml.Node `yaml:"clouds"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, silent(err))
	}
	return file.Clouds, nil
}

// silent takes the values out of an error of the YAML parser, which quotes
// them.
func silent(err error) error {
	quoted := regexp.MustCompile("`[^`]*`|\"[^\"]*\"|'[^']*'")
	return errors.New(quoted.ReplaceAllString(err.Error(), "(value)"))
}

// cloud makes a Cloud of a raw entry.
func (raw *rawCloud) cloud(r *reader, name, path string) (Cloud, error) {
	a := &raw.Auth
	c := Cloud{
		Name: name, Origin: fmt.Sprintf("%s, cloud %q", path, name),
		AuthURL: a.AuthURL, Username: a.Username, UserID: a.UserID, Password: a.Password,
		ProjectName: cmp.Or(a.ProjectName, a.TenantName), ProjectID: cmp.Or(a.ProjectID, a.TenantID), TrustID: a.TrustID, Token: a.Token,
		AppCredentialID: a.AppCredentialID, AppCredentialName: a.AppCredentialName, AppCredentialSecret: a.AppCredentialSecret,
		Region: raw.Region, Interface: strings.TrimSuffix(cmp.Or(raw.EndpointType, raw.Interface, "public"), "URL"),
		BlockStorageURL: cmp.Or(raw.BlockStorageURL, raw.VolumeV3URL, raw.VolumeURL), ComputeURL: raw.ComputeURL,
		Insecure: raw.Verify != nil && !*raw.Verify,
	}
	c.UserDomainID, c.UserDomainName = domain(a.UserDomainID, a.UserDomainName, a.DomainID, a.DomainName, a.DefaultDomain, "")
	c.ProjectDomainID, c.ProjectDomainName = domain(a.ProjectDomainID, a.ProjectDomainName, a.DomainID, a.DomainName, a.DefaultDomain, "")
	if raw.err != nil {
		return c, raw.err
	}
	if err := raw.authType(&c); err != nil {
		return c, err
	}
	return c, r.pem(&c, raw.CA, raw.Cert, raw.Key)
}

// authType drops the credentials that the entry's auth_type does not use.
func (raw *rawCloud) authType(c *Cloud) error {
	switch raw.AuthType {
	case "":
	case "password", "v3password":
		c.Token, c.AppCredentialID, c.AppCredentialName = "", "", ""
	case "token", "v3token":
		c.Username, c.UserID, c.Password, c.AppCredentialID, c.AppCredentialName = "", "", "", "", ""
	case "v3applicationcredential", "application_credential":
		c.Token, c.Password = "", ""
	default:
		if !slices.Contains([]string{"admin_token", "none"}, raw.AuthType) {
			return fmt.Errorf("auth_type %s is not known here: password, token and v3applicationcredential are", raw.AuthType)
		}
		return fmt.Errorf("auth_type %s gives no access to block storage", raw.AuthType)
	}
	return nil
}

// domain picks the first given pair of id and name.
func domain(pairs ...string) (id, name string) {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i] != "" {
			return pairs[i], ""
		}
		if pairs[i+1] != "" {
			return "", pairs[i+1]
		}
	}
	return "", ""
}
