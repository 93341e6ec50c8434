package config

// credentials are the keys that say where Keystone is and who logs in there. They have the same
// names in cloud.conf and in clouds.yaml.
type credentials struct {
	AuthURL             string `gcfg:"auth-url" yaml:"auth_url"`
	Username            string `gcfg:"username" yaml:"username"`
	UserID              string `gcfg:"user-id" yaml:"user_id"`
	Password            string `gcfg:"password" yaml:"password"`
	TenantID            string `gcfg:"tenant-id" yaml:"tenant_id"`
	TenantName          string `gcfg:"tenant-name" yaml:"tenant_name"`
	ProjectID           string `gcfg:"project-id" yaml:"project_id"`
	ProjectName         string `gcfg:"project-name" yaml:"project_name"`
	DomainID            string `gcfg:"domain-id" yaml:"domain_id"`
	DomainName          string `gcfg:"domain-name" yaml:"domain_name"`
	UserDomainID        string `gcfg:"user-domain-id" yaml:"user_domain_id"`
	UserDomainName      string `gcfg:"user-domain-name" yaml:"user_domain_name"`
	ProjectDomainID     string `gcfg:"project-domain-id" yaml:"project_domain_id"`
	ProjectDomainName   string `gcfg:"project-domain-name" yaml:"project_domain_name"`
	TrustID             string `gcfg:"trust-id" yaml:"trust_id"`
	Token               string `gcfg:"token" yaml:"token"`
	AppCredentialID     string `gcfg:"application-credential-id" yaml:"application_credential_id"`
	AppCredentialName   string `gcfg:"application-credential-name" yaml:"application_credential_name"`
	AppCredentialSecret string `gcfg:"application-credential-secret" yaml:"application_credential_secret"`
}

// newCloud makes a Cloud, without project and domains: which keys of those come first depends on
// the file.
func (a credentials) newCloud(name, origin string) Cloud {
	return Cloud{
		Name: name, Origin: origin,
		AuthURL: a.AuthURL, Username: a.Username, UserID: a.UserID, Password: a.Password,
		TrustID: a.TrustID, Token: a.Token, AppCredentialID: a.AppCredentialID,
		AppCredentialName: a.AppCredentialName, AppCredentialSecret: a.AppCredentialSecret,
	}
}

// firstDomain returns the first of the pairs of id and name that has one of the two.
func firstDomain(pairs ...string) (id, name string) {
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
