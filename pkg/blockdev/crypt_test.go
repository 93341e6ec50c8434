package blockdev

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

const (
	luksHeader = 16 * volume.MiB
	inTable    = "aes-xts-plain64 0123456789abcdef 0 8:1 %d 1 allow_discards"
	inKeyring  = "aes-xts-plain64 :64:logon:cryptsetup:6d5c-d0 0 8:1 %d 2 allow_discards sector_size:4096"
)

// cryptRig has dm-0 over sda1 (1 GiB), with a mapping of the given length.
func cryptRig(t *testing.T, length *volume.Size, params string) *rig {
	t.Helper()
	r := newRig(t)
	everyKind(r)
	r.fake.table = func() (volume.Size, volume.Size, string) { return *length, luksHeader, params }
	r.fake.nodes[r.device("253:0").Path].size = func() volume.Size { return *length }
	return r
}

func TestCryptOverhead(t *testing.T) {
	length := 100 * volume.MiB
	r := cryptRig(t, &length, inTable)
	if got, err := r.CryptOverhead(r.device("253:0")); err != nil || got != luksHeader {
		t.Errorf("%s, %v", got, err)
	}
}

func TestResizeCryptLeavesAFullMappingAlone(t *testing.T) {
	length := volume.GiB - luksHeader
	r := cryptRig(t, &length, inKeyring) // no key, and none is needed: the rig fails any execution
	if got, err := r.ResizeCrypt(t.Context(), r.device("253:0"), nil); err != nil || got != length {
		t.Errorf("%s, %v", got, err)
	}
}

func TestResizeCrypt(t *testing.T) {
	for name, c := range map[string]struct {
		params, key string
		args        []string
	}{
		"key in the table":   {inTable, "", []string{"cryptsetup", "resize", "--batch-mode", "--", "luks"}},
		"key in the keyring": {inKeyring, "secret", []string{"cryptsetup", "resize", "--batch-mode", "--key-file", "-", "--", "luks"}},
	} {
		t.Run(name, func(t *testing.T) {
			length := 100 * volume.MiB
			r := cryptRig(t, &length, c.params)
			var ran []string
			r.run = func(_ context.Context, stdin []byte, name string, args ...string) (string, error) {
				ran = append([]string{name}, args...)
				if string(stdin) != c.key {
					t.Errorf("standard input %q", stdin)
				}
				length = volume.GiB - luksHeader
				return "", nil
			}
			got, err := r.ResizeCrypt(t.Context(), r.device("253:0"), []byte(c.key))
			if err != nil || got != volume.GiB-luksHeader {
				t.Errorf("%s, %v", got, err)
			}
			if !slices.Equal(ran, c.args) {
				t.Errorf("executed %q", ran)
			}
		})
	}
}

func TestResizeCryptNeedsTheKey(t *testing.T) {
	length := 100 * volume.MiB
	r := cryptRig(t, &length, inKeyring)
	_, err := r.ResizeCrypt(t.Context(), r.device("253:0"), nil)
	if volume.KindOf(err) != volume.Precondition || !strings.Contains(err.Error(), "node-expand-secret") {
		t.Errorf("got %v", err)
	}
}

// Exit code 0 without growth is a failure, a failure with growth a success.
func TestResizeCryptBelievesTheTableOnly(t *testing.T) {
	length := 100 * volume.MiB
	r := cryptRig(t, &length, inTable)
	r.run = func(context.Context, []byte, string, ...string) (string, error) { return "", nil }
	if got, err := r.ResizeCrypt(t.Context(), r.device("253:0"), nil); err == nil || got != length || !strings.Contains(err.Error(), "reported success") {
		t.Errorf("%s, %v", got, err)
	}
	r.run = func(context.Context, []byte, string, ...string) (string, error) {
		length = volume.GiB - luksHeader
		return "complaint", errors.New("exit status 1")
	}
	if got, err := r.ResizeCrypt(t.Context(), r.device("253:0"), nil); err != nil || got != volume.GiB-luksHeader {
		t.Errorf("%s, %v", got, err)
	}
}

func TestResizeCryptFailures(t *testing.T) {
	length := 100 * volume.MiB
	r := cryptRig(t, &length, inKeyring)
	d := r.device("253:0")
	secret := []byte("hush")

	r.run = func(ctx context.Context, _ []byte, _ string, _ ...string) (string, error) {
		_, err := execute(ctx, nil, "sh", "-c", "exit 2")
		return "No key available with this passphrase.", err
	}
	_, err := r.ResizeCrypt(t.Context(), d, secret)
	if volume.KindOf(err) != volume.Precondition || !strings.Contains(err.Error(), "No key available") || strings.Contains(err.Error(), "hush") {
		t.Errorf("wrong passphrase: %v", err)
	}

	r.run = execute
	r.cryptsetup = "no-such-program"
	if _, err = r.ResizeCrypt(t.Context(), d, secret); !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "node image") {
		t.Errorf("no cryptsetup: %v", err)
	}

	// Killed in the middle, with the mapping suspended.
	ctx, cancel := context.WithCancel(t.Context())
	r.run = func(context.Context, []byte, string, ...string) (string, error) {
		r.write("sys/devices/virtual/block/dm-0/dm/suspended", "1\n")
		cancel()
		return "", errors.New("signal: killed")
	}
	_, err = r.ResizeCrypt(ctx, d, secret)
	if volume.KindOf(err) != volume.Canceled || r.fake.resumed != 1 {
		t.Errorf("cut short: %v, resumed %d times", err, r.fake.resumed)
	}

	if _, err := r.ResizeCrypt(t.Context(), r.device("253:1"), nil); volume.KindOf(err) != volume.Precondition {
		t.Errorf("not a crypt mapping: %v", err)
	}
}

func TestParseCryptTarget(t *testing.T) {
	good := crypt(volume.GiB, "aes-xts-plain64 :64:logon:x 0 8:1 32768 1 sector_size:4096")
	table, err := parseCryptTarget(good)
	want := cryptTable{length: volume.GiB, offset: luksHeader, sector: 4096, keyring: true}
	if err != nil || table != want {
		t.Errorf("%+v, %v", table, err)
	}
	for _, bad := range [][]byte{
		nil, good[:20], good[:len(good)-1],
		crypt(volume.GiB, ""), crypt(volume.GiB, "aes secretkey 0 8:1"), crypt(volume.GiB, "aes secretkey 0 8:1 -4"),
		crypt(volume.GiB, "aes secretkey 0 8:1 99999999999999999999"), crypt(volume.GiB, "aes secretkey 0 8:1 4 1 sector_size:0"),
		slices.Concat(good[:24], []byte("linear"), good[30:]),
	} {
		if table, err := parseCryptTarget(bad); err == nil || strings.Contains(err.Error(), "secretkey") {
			t.Errorf("%q: %+v, %v", bad, table, err)
		}
	}
}

func FuzzParseCryptTarget(f *testing.F) {
	f.Add(crypt(volume.GiB, "aes-xts-plain64 :64:logon:x 0 8:1 32768 1 sector_size:4096"))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := parseCryptTarget(data)
		if err == nil && (table.length < 0 || table.offset < 0 || table.sector <= 0) {
			t.Fatalf("%q: %+v", data, table)
		}
	})
}

func TestExecuteObeysTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := execute(ctx, nil, "sleep", "60"); err == nil {
		t.Error("ran to its end")
	}
	stderr, err := execute(t.Context(), []byte("key"), "sh", "-c", "cat >&2; exit 3")
	if stderr != "key" || err == nil {
		t.Errorf("stderr %q, %v", stderr, err)
	}
}
