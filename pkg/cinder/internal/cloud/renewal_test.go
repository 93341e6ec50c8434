package cloud

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakecloud"
)

// rewrite replaces text in a file by renaming a new file over it.
func rewrite(t *testing.T, path, old, with string) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	if !strings.Contains(string(data), old) {
		t.Fatalf("%s has no %q:\n%s", path, old, data)
	}
	must(t, os.WriteFile(path+".new", []byte(strings.ReplaceAll(string(data), old, with)), 0o600))
	must(t, os.Rename(path+".new", path))
}

func (r *rig) path() string { return filepath.Join(r.dir, "clouds.yaml") }

// checkFiles does what the next call does some seconds later.
func (r *rig) checkFiles() { r.clouds.watch.Current(true) }

func TestTokenIsRenewedOnce(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	v := r.volume(t, "pvc-1", 1)
	for name, f := range map[string]func() error{
		"get":    func() error { _, err := r.Volume(t.Context(), v.ID); return err },
		"create": func() error { _, err := r.CreateVolume(t.Context(), NewVolume{Name: "x", Size: 1}); return err },
	} {
		r.fake.RevokeTokens()
		r.fake.ClearRequests()
		if err := f(); err != nil || r.fake.Count(fakecloud.CreateToken) != 1 {
			t.Errorf("%s: %v after %d logins", name, err, r.fake.Count(fakecloud.CreateToken))
		}
	}
	if vs, err := r.VolumesNamed(t.Context(), "x"); err != nil || len(vs) != 1 {
		t.Errorf("a creation over a renewed token made %d volumes (%v)", len(vs), err)
	}
	r.fake.On(fakecloud.Match{Call: fakecloud.GetVolume}, fakecloud.TokenExpires()).Always()
	r.fake.ClearRequests()
	_, err := r.Volume(t.Context(), v.ID)
	volumetest.WantKind(t, err, volume.KindUnauthenticated, "401", "check the credentials")
	if n := r.fake.Count(fakecloud.GetVolume); n != 2 {
		t.Errorf("%d requests with tokens that are refused at once, want 2", n)
	}
}

// A service that refuses even new tokens does not cause a login per call; other credentials are
// tried at once.
func TestNewTokensThatAreRefusedMakeNoMoreLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		v := r.volume(t, "pvc-1", 1)
		rule := r.fake.On(fakecloud.Match{Call: fakecloud.GetVolume}, fakecloud.TokenExpires()).Always()
		r.fake.ClearRequests()
		for range 5 {
			_, err := r.Volume(t.Context(), v.ID)
			volumetest.WantKind(t, err, volume.KindUnauthenticated, "401")
		}
		if n := r.fake.Count(fakecloud.CreateToken); n != 1 {
			t.Errorf("%d logins for 5 calls whose tokens are refused, want 1", n)
		}
		rule.Remove()
		r.fake.RevokeTokens()
		id, secret := r.fake.ApplicationCredential()
		rewriteFile(t, r.path(),
			fmt.Sprintf(
				"clouds:\n  csi:\n    auth_type: v3applicationcredential\n    auth:\n      auth_url: %s/identity\n      "+
					"application_credential_id: %s\n      application_credential_secret: %s\n", r.fake.URL(), id, secret))
		if _, err := r.Volume(t.Context(), v.ID); err != nil {
			t.Errorf("after a change of the file: %v", err)
		}
		long := time.Now().Add(-refusedPause - time.Second)
		r.current().refusedAt.Store(&long)
		r.fake.RevokeTokens()
		if _, err := r.Volume(t.Context(), v.ID); err != nil {
			t.Errorf("a token that runs out later: %v", err)
		}
	})
}

func TestManyCallsShareOneLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		v := r.volume(t, "pvc-1", 1)
		r.fake.SetLatency(fakecloud.CreateToken, fakecloud.Latency{Answer: fakecloud.Fixed(50 * time.Millisecond)})
		r.fake.RevokeTokens()
		r.fake.ClearRequests()
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				if _, err := r.Volume(t.Context(), v.ID); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := r.fake.Count(fakecloud.CreateToken); n != 1 {
			t.Errorf("%d logins for one token that ran out", n)
		}
	})
}

// A token that ends soon is replaced before a service refuses it.
func TestTokenIsRenewedEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{TokenLifetime: 2 * time.Second})
		v := r.volume(t, "pvc-1", 1)
		r.fake.ClearRequests()
		for start := time.Now(); time.Since(start) < 2500*time.Millisecond; {
			_, err := r.Volume(t.Context(), v.ID)
			must(t, err)
			must(t, operation.Sleep(t.Context(), 20*time.Millisecond))
		}
		if r.fake.Count(fakecloud.CreateToken) == 0 {
			t.Error("the token was not renewed")
		}
		var refused []fakecloud.Request
		for _, q := range r.fake.Requests() {
			if q.Status == 401 {
				refused = append(refused, q)
			}
		}
		if len(refused) > 0 {
			t.Errorf("a token was used until it was refused: %+v", refused)
		}
	})
}

func TestNewCredentialsReplaceTheOld(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	v := r.volume(t, "pvc-1", 1)
	// The csi user's application credential instead of its password.
	id, secret := r.fake.ApplicationCredential()
	rewriteFile(t, r.path(),
		fmt.Sprintf(
			"clouds:\n  csi:\n    auth_type: v3applicationcredential\n    auth:\n      auth_url: %s/identity\n      "+
				"application_credential_id: %s\n      application_credential_secret: %s\n", r.fake.URL(), id, secret))
	r.fake.ClearRequests()
	r.checkFiles()
	_, err := r.Volume(t.Context(), v.ID)
	must(t, err)
	if n := r.fake.Count(fakecloud.CreateToken); n != 1 {
		t.Errorf("%d logins after a change of the credentials, want 1", n)
	}
	r.log.wantLine(t, "INFO", "has changed and was read again")
}

func rewriteFile(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path+".new", []byte(text), 0o600))
	must(t, os.Rename(path+".new", path))
}

func TestBrokenFileKeepsTheOldCredentials(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	v := r.volume(t, "pvc-1", 1)
	good, err := os.ReadFile(r.path())
	must(t, err)
	rewriteFile(t, r.path(), "clouds: [ "+fakecloud.Password)
	r.checkFiles()
	r.fake.RevokeTokens()
	_, err = r.Volume(t.Context(), v.ID)
	must(t, err)
	r.log.wantLine(t, "ERROR", "has errors; the previous configuration stays in use", r.path())
	rewriteFile(t, r.path(), string(good))
	r.checkFiles()
	_, err = r.Volume(t.Context(), v.ID)
	must(t, err)
}

// A wrong password in the file does no harm while the token lasts, is tried once, and is replaced
// as soon as the right one is there.
func TestWrongNewPasswordIsTriedOnce(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	v := r.volume(t, "pvc-1", 1)
	rewrite(t, r.path(), "password: "+fakecloud.Password, "password: wrong")
	r.fake.ClearRequests()
	r.checkFiles()
	for range 5 {
		_, err := r.Volume(t.Context(), v.ID)
		must(t, err)
	}
	if n := r.fake.Count(fakecloud.CreateToken); n != 1 {
		t.Errorf("a refused password was tried %d times, want once", n)
	}
	r.log.wantLine(t, "ERROR", "logging in failed", "401")
	r.fake.RevokeTokens()
	_, err := r.Volume(t.Context(), v.ID)
	volumetest.WantKind(t, err, volume.KindUnauthenticated, "the token was refused and could not be renewed",
		"logging in to cloud \"csi\"", r.path(), "correct the credentials")
	rewrite(t, r.path(), "password: wrong", "password: "+fakecloud.Password)
	_, err = r.Volume(t.Context(), v.ID) // at once: before it gives up on a 401, the call checks the file
	must(t, err)
}

// Kubernetes replaces a mounted secret by swapping a link to its directory.
func TestSwappedSecretIsRead(t *testing.T) {
	fake := fakecloud.Start(t, fakecloud.Options{})
	dir := t.TempDir()
	version := func(name, password string) {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		path, err := fake.WriteCloudsYAML(filepath.Join(dir, name))
		must(t, err)
		rewrite(t, path, "password: "+fakecloud.Password, "password: "+password)
		must(t, os.Symlink(name, filepath.Join(dir, "..tmp")))
		must(t, os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")))
	}
	version("..v1", "wrong")
	link := filepath.Join(dir, "clouds.yaml")
	must(t, os.Symlink("..data/clouds.yaml", link))
	_, err := open(t.Context(), Options{CloudsYAML: link, Default: "csi", Log: discardLog()}, fastTuning())
	volumetest.WantKind(t, err, volume.KindUnauthenticated, "logging in to cloud \"csi\"", link)

	version("..v2", fakecloud.Password)
	clouds, err := open(t.Context(), Options{CloudsYAML: link, Default: "csi", Log: discardLog()}, fastTuning())
	must(t, err)
	defer clouds.Close()
	c, err := clouds.Cloud(t.Context(), "")
	must(t, err)
	version("..v3", "wrong")
	fake.RevokeTokens()
	_, err = c.Zones(t.Context())
	volumetest.WantKind(t, err, volume.KindUnauthenticated)
	version("..v4", fakecloud.Password)
	if _, err := c.Zones(t.Context()); err != nil {
		t.Errorf("the renewed secret is not used: %v", err)
	}
}

func TestRemovedCloudIsRefused(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	admin, err := r.clouds.Cloud(t.Context(), "admin")
	must(t, err)
	rewrite(t, r.path(), "  admin:", "  boss:")
	r.checkFiles()
	_, err = admin.Zones(t.Context())
	volumetest.WantKind(t, err, volume.KindInvalid, "listing the availability zones",
		`cloud "admin" is not configured; configured are "appcred", "boss", "csi"`)
	_, err = r.clouds.Cloud(t.Context(), "admin")
	volumetest.WantKind(t, err, volume.KindInvalid, `"boss"`)
	boss, err := r.clouds.Cloud(t.Context(), "boss")
	must(t, err)
	if boss.Name() != "boss" || r.clouds.Names()[0] != "csi" {
		t.Errorf("names %v", r.clouds.Names())
	}
}

// A Keystone that hangs while the old token is still good delays no call.
func TestRefreshDelaysNoCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		login := r.fake.On(fakecloud.Match{Call: fakecloud.CreateToken}, fakecloud.Hangs()).Always()
		end := r.conn.expiresAt
		r.conn.renewAt, r.conn.expiresAt = time.Now().Add(-time.Second), time.Now().Add(-time.Second)
		ctx := contextFor(t, time.Second)
		if err := r.clouds.Ready(ctx); err != nil || ctx.Err() != nil {
			t.Errorf("a probe has waited for a login: %v", err)
		}
		r.conn.expiresAt = end
		for range 2 {
			_, err := r.Zones(contextFor(t, 3*time.Second))
			must(t, err)
			if renewed := r.current().renewAt.After(time.Now()); renewed {
				t.Error("a call has waited for the login")
			}
		}
		for login.Hits() == 0 {
			must(t, operation.Sleep(t.Context(), time.Millisecond))
		}
		r.fake.On(fakecloud.Match{Call: fakecloud.CreateToken}, fakecloud.Status(503, "")).Always()
		login.Remove() // the request that hangs is answered well
		r.forgetFailure(t)
		if r.current().renewAt.Before(time.Now()) {
			t.Error("the login that no call waited for was lost")
		}
		r.current().renewAt = time.Now().Add(-time.Second)
		_, err := r.Zones(t.Context())
		must(t, err)
		synctest.Wait()    // until the login has begun
		r.forgetFailure(t) // earlier than the pause ends
		r.fake.ClearRequests()
		for range 3 {
			_, err := r.Zones(t.Context())
			must(t, err)
		}
		synctest.Wait()
		r.forgetFailure(t) // waits for a login, if there is one
		if n := r.fake.Count(fakecloud.CreateToken); n != 0 {
			t.Errorf("a login that failed was tried again at once (%d requests)", n)
		}
	})
}

func TestCallsAfterCloseFail(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	r.clouds.Close()
	_, err := r.Zones(t.Context())
	volumetest.WantKind(t, err, volume.KindUnavailable, "closed")
	volumetest.WantKind(t, r.CheckFeature(t.Context(), FeatureOnlineExtend), volume.KindUnavailable, "closed")
}

func TestLoginFailureIsShared(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	r.fake.RevokeTokens()
	r.fake.On(fakecloud.Match{Call: fakecloud.CreateToken}, fakecloud.Status(503, "")).Always()
	r.fake.ClearRequests()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := r.Zones(t.Context()); !volume.IsKind(err, volume.KindUnavailable) {
				t.Errorf("Keystone is down: %v", err)
			}
		})
	}
	wg.Wait()
	if n := r.fake.Count(fakecloud.CreateToken); n > 12 { // one login of six attempts, perhaps a second
		t.Errorf("%d requests to a Keystone that is down", n)
	}
}

// A token that has ended by our clock is replaced before the call, each time.
func TestEndedTokenIsReplacedBeforeTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.fake.SetLatency(fakecloud.CreateToken, fakecloud.Latency{Answer: fakecloud.Fixed(50 * time.Millisecond)})
		for range 2 {
			old := r.current()
			old.renewAt, old.expiresAt = time.Now().Add(-time.Second), time.Now().Add(-time.Second)
			_, err := r.Zones(t.Context())
			must(t, err)
			if r.current() == old {
				t.Error("the call was made with the token that has ended")
			}
		}
	})
}

// A login that began before the connection was refused may end with that connection.
func TestRenewalReturnsAnotherConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		old := r.current()
		hasBegun, mayEnd := make(chan bool), make(chan bool)
		go func() {
			_, _ = r.login.do(t.Context(), r.clouds, time.Minute, func(context.Context) (*connection, error) {
				close(hasBegun)
				<-mayEnd
				return old, nil
			})
		}()
		<-hasBegun
		time.AfterFunc(50*time.Millisecond, func() { close(mayEnd) })
		next, err := r.renew(t.Context(), old)
		must(t, err)
		if next == old {
			t.Error("the renewal returned the connection that was refused")
		}
	})
}

// Connections that were made to a cloud that was trusted in another way are not used again.
func TestPoolIsKeptWhileTheCloudIsTrustedInTheSameWay(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	old := r.current()
	for isInsecure, want := range map[bool]bool{old.config.Insecure: true, !old.config.Insecure: false} {
		config := old.config
		config.Insecure = isInsecure
		next, err := r.connect(t.Context(), config, old)
		must(t, err)
		if (next.pool == old.pool) != want {
			t.Errorf("insecure %t after %t: the pool is kept: %t, want %t", isInsecure, old.config.Insecure, !want, want)
		}
		if next.pool != old.pool {
			next.pool.CloseIdleConnections()
		}
	}
}
