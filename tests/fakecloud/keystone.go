package fakecloud

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Password is the password of every user of the cloud.
const Password = "secret"

func itoa(n int) string { return strconv.Itoa(n) }

// user is a user with a project of the same name and, for csi, an application
// credential.
type user struct {
	id, name, project string
	roles             []string
	credential        string // ID of the application credential
	credentialName    string
}

// token is what Keystone knows of a token.
type token struct {
	user      user
	scoped    bool
	method    string
	issued    time.Time
	expires   time.Time
	auditID   string
	byAppCred bool
}

func (t *token) projectID() string {
	if !t.scoped {
		return ""
	}
	return t.user.project
}

func (t *token) has(roles ...string) bool {
	return slices.ContainsFunc(roles, func(r string) bool { return slices.Contains(t.user.roles, r) })
}

func (c *Cloud) newUsers() []user {
	plain := func() string { return strings.ReplaceAll(c.newID(), "-", "") }
	roles := []string{"member", "reader"}
	if c.opts.ServiceRole {
		roles = append(roles, "service")
	}
	return []user{
		{id: plain(), name: "csi", project: plain(), roles: roles, credential: plain(), credentialName: "growvol"},
		{id: plain(), name: "admin", project: plain(), roles: []string{"admin", "member", "reader"}},
	}
}

// ApplicationCredential returns the ID and the secret of the application
// credential of user csi; its name is "growvol".
func (c *Cloud) ApplicationCredential() (id, secret string) { return c.users[0].credential, Password }

// ProjectID returns the ID of the project csi.
func (c *Cloud) ProjectID() string { return c.users[0].project }

// RevokeTokens makes every token issued so far invalid.
func (c *Cloud) RevokeTokens() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.tokens)
}

// SetTokenLife sets how long the tokens issued from now on are valid.
func (c *Cloud) SetTokenLife(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opts.TokenLife = d
}

// valid returns a token, or nil when it is unknown, revoked or expired.
func (c *Cloud) valid(id string) *token {
	if t := c.tokens[id]; t != nil && time.Now().Before(t.expires) {
		return t
	}
	return nil
}

func keystoneRoutes() []route {
	r := func(method, path string, call Call, h handler) route {
		return route{service: identityPath, method: method, path: path, call: call, handle: h}
	}
	versions := func(c *Cloud) any {
		return object{"versions": object{"values": []any{c.keystoneVersion()}}}
	}
	return []route{
		discovery(identityPath, "/", false, http.StatusMultipleChoices, versions),
		discovery(identityPath, "/v3", false, http.StatusOK, func(c *Cloud) any { return object{"version": c.keystoneVersion()} }),
		r(http.MethodPost, "/v3/auth/tokens", CreateToken, (*Cloud).createToken),
		r(http.MethodGet, "/v3/auth/tokens", GetToken, (*Cloud).getToken),
		r(http.MethodDelete, "/v3/auth/tokens", RevokeToken, (*Cloud).revokeToken),
	}
}

func (c *Cloud) keystoneVersion() object {
	return object{
		"id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
		"links":       []any{link("self", c.url+identityPath+"/v3/")},
		"media-types": []any{object{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}},
	}
}

func (c *Cloud) createToken(x *exchange) *reply {
	auth := objectReader{x.part("auth")}
	identity, _ := auth.object["identity"].(object)
	methods, _ := identity["methods"].([]any)
	if len(methods) != 1 {
		return keystoneError(http.StatusBadRequest, "Bad Request", "'identity' is a required property")
	}
	method, _ := methods[0].(string)
	section, _ := identity[method].(object)
	u := c.identify(method, section)
	if u == nil {
		return unauthorized(c.url + identityPath)
	}
	_, scoped := auth.object["scope"].(object)
	t := &token{user: *u, method: method, scoped: scoped, auditID: c.newID()[:22], issued: time.Now()}
	if method == "application_credential" {
		t.scoped, t.byAppCred = true, true
	}
	if scoped && !scopeFits(auth.object["scope"], u) {
		return unauthorized(c.url + identityPath)
	}
	t.expires = t.issued.Add(c.opts.TokenLife)
	id := "gAAAAA" + strings.ReplaceAll(c.newID()+c.newID(), "-", "")
	if method == "token" {
		if of := c.valid(objectReader{section}.text("id")); of != nil {
			t.expires = of.expires
		}
	}
	c.tokens[id] = t
	out := answer(http.StatusCreated, object{"token": c.tokenView(t)})
	out.header = map[string]string{"X-Subject-Token": id}
	return out
}

// identify returns who the credentials belong to, or nil.
func (c *Cloud) identify(method string, section object) *user {
	read := objectReader{section}
	switch method {
	case "password":
		o, _ := section["user"].(object)
		who := objectReader{o}
		if who.text("password") != Password {
			return nil
		}
		return c.user(func(u user) bool { return u.id == who.text("id") || u.name == who.text("name") })
	case "token":
		if t := c.valid(read.text("id")); t != nil {
			return &t.user
		}
	case "application_credential":
		if read.text("secret") != Password {
			return nil
		}
		return c.user(func(u user) bool {
			return u.credential != "" && (u.credential == read.text("id") || u.credentialName == read.text("name"))
		})
	}
	return nil
}

func (c *Cloud) user(is func(user) bool) *user {
	if i := slices.IndexFunc(c.users, is); i >= 0 {
		return &c.users[i]
	}
	return nil
}

func scopeFits(scope any, u *user) bool {
	s, _ := scope.(object)
	p, _ := s["project"].(object)
	o := objectReader{p}
	return o.text("id") == u.project || o.text("name") == u.name
}

func (c *Cloud) getToken(x *exchange) *reply {
	if c.valid(x.http.Header.Get("X-Auth-Token")) == nil {
		return unauthorized(c.url + identityPath)
	}
	t := c.valid(x.http.Header.Get("X-Subject-Token"))
	if t == nil {
		return keystoneError(http.StatusNotFound, "Not Found", "Could not recognize Fernet token")
	}
	out := answer(http.StatusOK, object{"token": c.tokenView(t)})
	out.header = map[string]string{"X-Subject-Token": x.http.Header.Get("X-Subject-Token")}
	return out
}

func (c *Cloud) revokeToken(x *exchange) *reply {
	if c.valid(x.http.Header.Get("X-Auth-Token")) == nil {
		return unauthorized(c.url + identityPath)
	}
	delete(c.tokens, x.http.Header.Get("X-Subject-Token"))
	return answer(http.StatusNoContent, nil)
}

func keystoneError(status int, title, message string) *reply {
	return answer(status, object{"error": object{"code": status, "title": title, "message": message}})
}

func (c *Cloud) tokenView(t *token) object {
	const zulu = "2006-01-02T15:04:05.000000Z"
	domain := object{"id": "default", "name": "Default"}
	view := object{
		"methods": []string{t.method}, "audit_ids": []string{t.auditID},
		"issued_at": t.issued.UTC().Format(zulu), "expires_at": t.expires.UTC().Format(zulu),
		"user": object{"id": t.user.id, "name": t.user.name, "domain": domain, "password_expires_at": nil},
	}
	if !t.scoped {
		return view
	}
	roles := make([]object, len(t.user.roles))
	for i, r := range t.user.roles {
		roles[i] = object{"id": strings.Repeat(itoa(len(r)%10), 32), "name": r}
	}
	view["roles"] = roles
	view["is_domain"] = false
	view["project"] = object{"id": t.user.project, "name": t.user.name, "domain": domain}
	view["catalog"] = c.catalog(t.user.project)
	if t.byAppCred {
		view["application_credential"] = object{"id": t.user.credential, "name": t.user.credentialName, "restricted": true}
	}
	return view
}

func (c *Cloud) catalog(project string) []object {
	service := func(kind, name, url string) object {
		var endpoints []object
		for _, i := range []string{"public", "internal", "admin"} {
			endpoints = append(endpoints, object{
				"id": kind + "-" + i, "interface": i, "region": "RegionOne", "region_id": "RegionOne", "url": url,
			})
		}
		return object{"id": kind, "type": kind, "name": name, "endpoints": endpoints}
	}
	cinder := c.url + volumePath + "/v3/" + project
	return []object{
		service("identity", "keystone", c.url+identityPath+"/v3"),
		service("volumev3", "cinderv3", cinder),
		service("block-storage", "cinder", cinder),
		service("compute", "nova", c.url+computePath+"/v2.1"),
	}
}
