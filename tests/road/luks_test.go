package road

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/co"
)

const passphrase = "correct horse battery staple"

// A volume with a LUKS2 mapping on it grows layer by layer: device, mapping,
// filesystem. Its mapping is made by hand, as an administrator would.
func TestGrowthThroughLUKS(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := get(d.Create(ctx, name(t), gib, co.Mount(fstype), nil))(t)
			must(t, d.Attach(ctx, v))
			block := *v
			block.Capability = co.Block() // only to connect the device
			must(t, d.Stage(ctx, &block))
			dev, mapping := connected(t, v), "road-"+fstype
			must(t, cryptsetup(t, "luksFormat", "--batch-mode", "--type=luks2", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-file=-", dev.Path))
			must(t, cryptsetup(t, "open", "--key-file=-", dev.Path, mapping))
			must(t, command(t, "mkfs."+fstype, "-q", "/dev/mapper/"+mapping))
			must(t, os.MkdirAll(v.Staging, 0o700))
			must(t, command(t, "mount", "/dev/mapper/"+mapping, v.Staging))
			must(t, d.Publish(ctx, v))
			must(t, d.Stage(ctx, v)) // kubelet has restarted
			w := co.StartWriter(ctx, v.Target, 50<<20, time.Millisecond)

			must(t, d.ExpandController(ctx, v, 3*gib))
			_, err := d.ExpandNode(ctx, v, 3*gib)
			wantCode(t, err, codes.FailedPrecondition, "passphrase", "next step")
			if strings.Contains(err.Error(), passphrase) {
				t.Error("the passphrase is in the message")
			}
			v.Secrets = map[string]string{"passphrase": "wrong"}
			_, err = d.ExpandNode(ctx, v, 3*gib)
			wantCode(t, err, codes.FailedPrecondition, "passphrase")
			v.Secrets = map[string]string{"passphrase": passphrase}
			get(d.ExpandNode(ctx, v, 3*gib))(t)

			device, fs := sizes(t, v)
			header := 3*gib - device
			if header <= 0 || header > 64<<20 || fs < device-int64(volume.MiB) {
				t.Errorf("mapping %s, filesystem %s on a volume of 3 GiB", short(device), short(fs))
			}
			get(d.ExpandNode(ctx, v, 3*gib))(t) // and again: nothing to do, no error

			must(t, w.Stop())
			must(t, d.Unpublish(ctx, v))
			unmount(t, v.Staging)
			must(t, command(t, "mount", "/dev/mapper/"+mapping, v.Staging))
			n := get(w.Verify(v.Staging))(t)
			unmount(t, v.Staging)
			fsck(t, fstype, "/dev/mapper/"+mapping)
			must(t, command(t, "cryptsetup", "close", mapping))
			must(t, d.Unstage(ctx, v))
			must(t, d.Detach(ctx, v))
			must(t, d.Delete(ctx, v))
			t.Logf("%s on LUKS2: 1 → 3 GiB; header %s; %s verified", fstype, short(header), short(n))
		})
	}
}

func cryptsetup(t *testing.T, args ...string) error {
	t.Helper()
	return run(t.Context(), t, []byte(passphrase), "cryptsetup", args...)
}

func command(t *testing.T, program string, args ...string) error {
	t.Helper()
	return run(t.Context(), t, nil, program, args...)
}

func run(ctx context.Context, t *testing.T, input []byte, program string, args ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = bytes.NewReader(input)
	cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w\n%s", program, args, err, out)
	}
	return nil
}
