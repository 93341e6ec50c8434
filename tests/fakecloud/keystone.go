package fakecloud

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Password is the password of every user and the secret of the application credential.
const Password = "secret"

// user is a user of Keystone with a project of the same name. The user csi also has an application
// credential.
type user struct {
	id, name, project string
	roles             []string
	credential        string // ID of the application credential; empty: none
	credentialName    string
}

// token has the properties of a token of Keystone.
type token struct {
	user            user
	isScoped        bool
	method          string
	issued          time.Time
	expires         time.Time
	auditID         string
	isAppCredential bool
}

func (t *token) projectID() string {
	if !t.isScoped {
		return ""
	}
	return t.user.project
}

// hasRole reports whether the user has one of the roles.
func (t *token) hasRole(roles ...string) bool {
	return slices.ContainsFunc(roles, func(r string) bool { return slices.Contains(t.user.roles, r) })
}

// newUsers returns the users csi and admin, in this order.
func (c *Cloud) newUsers() []user {
	newHexID := func() string { return strings.ReplaceAll(c.newID(), "-", "") }
	roles := []string{"member", "reader"}
	if c.opts.ServiceRole {
		roles = append(roles, "service")
	}
	return []user{
		{id: newHexID(), name: "csi", project: newHexID(), roles: roles, credential: newHexID(), credentialName: "growvol"},
		{id: newHexID(), name: "admin", project: newHexID(), roles: []string{"admin", "member", "reader"}},
	}
}

// ApplicationCredential returns the ID and the secret of the application credential of the user
// csi. The name of the credential is "growvol".
func (c *Cloud) ApplicationCredential() (id, secret string) { return c.users[0].credential, Password }

// ProjectID returns the ID of the project csi.
func (c *Cloud) ProjectID() string { return c.users[0].project }

// RevokeTokens makes every token issued so far invalid.
func (c *Cloud) RevokeTokens() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.tokens)
}

// SetTokenLifetime sets the lifetime of the tokens that Keystone issues from now on.
func (c *Cloud) SetTokenLifetime(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opts.TokenLifetime = d
}

// validToken returns a token, or nil if the token is unknown, revoked or expired.
func (c *Cloud) validToken(id string) *token {
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
		discoveryRoute(identityPath, "/", false, http.StatusMultipleChoices, versions),
		discoveryRoute(identityPath, "/v3", false, http.StatusOK, func(c *Cloud) any {
			return object{"version": c.keystoneVersion()}
		}),
		r(http.MethodPost, "/v3/auth/tokens", CreateToken, (*Cloud).createToken),
		r(http.MethodGet, "/v3/auth/tokens", GetToken, (*Cloud).getToken),
		r(http.MethodDelete, "/v3/auth/tokens", RevokeToken, (*Cloud).revokeToken),
	}
}

func (c *Cloud) keystoneVersion() object {
	return object{
		"id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
		"links": []any{link("self", c.url+identityPath+"/v3/")},
		"media-types": []any{
			object{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"},
		},
	}
}

func (c *Cloud) createToken(x *exchange) *reply {
	auth := objectReader{x.object("auth")}
	identity, _ := auth.object["identity"].(object)
	methods, _ := identity["methods"].([]any)
	if len(methods) != 1 {
		return keystoneError(http.StatusBadRequest, "Bad Request", "'identity' is a required property")
	}
	method, _ := methods[0].(string)
	section, _ := identity[method].(object)
	u := c.identify(method, section)
	if u == nil {
		return unauthorizedError(c.url + identityPath)
	}
	_, scoped := auth.object["scope"].(object)
	t := &token{user: *u, method: method, isScoped: scoped, auditID: c.newID()[:22], issued: time.Now()}
	if method == "application_credential" {
		t.isScoped, t.isAppCredential = true, true
	}
	if scoped && !isOwnScope(auth.object["scope"], u) {
		return unauthorizedError(c.url + identityPath)
	}
	t.expires = t.issued.Add(c.opts.TokenLifetime)
	id := "gAAAAA" + strings.ReplaceAll(c.newID()+c.newID(), "-", "")
	if method == "token" {
		if old := c.validToken(objectReader{section}.text("id")); old != nil {
			t.expires = old.expires
		}
	}
	c.tokens[id] = t
	out := newReply(http.StatusCreated, object{"token": c.tokenView(t)})
	out.header = map[string]string{"X-Subject-Token": id}
	return out
}

// identify returns the owner of the credentials, or nil if the credentials are wrong.
func (c *Cloud) identify(method string, section object) *user {
	read := objectReader{section}
	switch method {
	case "password":
		o, _ := section["user"].(object)
		given := objectReader{o}
		if given.text("password") != Password {
			return nil
		}
		return c.findUser(func(u user) bool { return u.id == given.text("id") || u.name == given.text("name") })
	case "token":
		if t := c.validToken(read.text("id")); t != nil {
			return &t.user
		}
	case "application_credential":
		if read.text("secret") != Password {
			return nil
		}
		return c.findUser(func(u user) bool {
			return u.credential != "" && (u.credential == read.text("id") || u.credentialName == read.text("name"))
		})
	}
	return nil
}

func (c *Cloud) findUser(matches func(user) bool) *user {
	if i := slices.IndexFunc(c.users, matches); i >= 0 {
		return &c.users[i]
	}
	return nil
}

// isOwnScope reports whether the scope of a request is the project of the user.
func isOwnScope(scope any, u *user) bool {
	s, _ := scope.(object)
	p, _ := s["project"].(object)
	o := objectReader{p}
	return o.text("id") == u.project || o.text("name") == u.name
}

func (c *Cloud) getToken(x *exchange) *reply {
	if c.validToken(x.http.Header.Get("X-Auth-Token")) == nil {
		return unauthorizedError(c.url + identityPath)
	}
	t := c.validToken(x.http.Header.Get("X-Subject-Token"))
	if t == nil {
		return keystoneError(http.StatusNotFound, "Not Found", "Could not recognize Fernet token")
	}
	out := newReply(http.StatusOK, object{"token": c.tokenView(t)})
	out.header = map[string]string{"X-Subject-Token": x.http.Header.Get("X-Subject-Token")}
	return out
}

func (c *Cloud) revokeToken(x *exchange) *reply {
	if c.validToken(x.http.Header.Get("X-Auth-Token")) == nil {
		return unauthorizedError(c.url + identityPath)
	}
	delete(c.tokens, x.http.Header.Get("X-Subject-Token"))
	return newReply(http.StatusNoContent, nil)
}

// keystoneError returns an error in the format of Keystone.
func keystoneError(status int, title, message string) *reply {
	return newReply(status, object{"error": object{"code": status, "title": title, "message": message}})
}

func (c *Cloud) tokenView(t *token) object {
	const tokenLayout = "2006-01-02T15:04:05.000000Z"
	domain := object{"id": "default", "name": "Default"}
	view := object{
		"methods": []string{t.method}, "audit_ids": []string{t.auditID},
		"issued_at": t.issued.UTC().Format(tokenLayout), "expires_at": t.expires.UTC().Format(tokenLayout),
		"user": object{"id": t.user.id, "name": t.user.name, "domain": domain, "password_expires_at": nil},
	}
	if !t.isScoped {
		return view
	}
	roles := make([]object, len(t.user.roles))
	for i, r := range t.user.roles {
		roles[i] = object{"id": strings.Repeat(strconv.Itoa(len(r)%10), 32), "name": r}
	}
	view["roles"] = roles
	view["is_domain"] = false
	view["project"] = object{"id": t.user.project, "name": t.user.name, "domain": domain}
	view["catalog"] = c.catalog(t.user.project)
	if t.isAppCredential {
		view["application_credential"] = object{"id": t.user.credential, "name": t.user.credentialName, "restricted": true}
	}
	return view
}

// catalog returns the catalog of a token for the project.
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
