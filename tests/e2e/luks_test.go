package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// passphrase is that of every encrypted volume of these tests.
const passphrase = "correct horse battery staple"

// A volume with a LUKS2 mapping that an administrator made grows layer by layer:
// device, mapping, filesystem.
func TestExpandGrowsThroughLUKS(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			v := must.Value(d.Create(ctx, volumeName(t), gib, csiclient.MountCapability(fstype), nil))(t)
			must.Succeed(t, d.Attach(ctx, v))
			block := *v
			block.Capability = csiclient.BlockCapability() // only to connect the device
			must.Succeed(t, d.Stage(ctx, &block))
			dev, mapping := loopDeviceOf(t, v), "e2e-"+fstype
			must.Succeed(t, cryptsetup(t, "luksFormat", "--batch-mode", "--type=luks2",
				"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-file=-", dev.Path))
			must.Succeed(t, cryptsetup(t, "open", "--key-file=-", dev.Path, mapping))
			must.Succeed(t, runCommand(t, "mkfs."+fstype, "-q", "/dev/mapper/"+mapping))
			must.Succeed(t, os.MkdirAll(v.Staging, 0o700))
			must.Succeed(t, runCommand(t, "mount", "/dev/mapper/"+mapping, v.Staging))
			must.Succeed(t, d.Publish(ctx, v))
			must.Succeed(t, d.Stage(ctx, v)) // as after a restart of kubelet
			w := csiclient.StartWriter(ctx, v.Target, 50<<20, time.Millisecond)

			must.Succeed(t, d.ExpandController(ctx, v, 3*gib))
			_, err := d.ExpandNode(ctx, v, 3*gib)
			must.FailWith(t, err, codes.FailedPrecondition, "passphrase", "next step")
			if strings.Contains(err.Error(), passphrase) {
				t.Error("the passphrase is in the message")
			}
			v.Secrets = map[string]string{"passphrase": "wrong"}
			_, err = d.ExpandNode(ctx, v, 3*gib)
			must.FailWith(t, err, codes.FailedPrecondition, "passphrase")
			v.Secrets = map[string]string{"passphrase": passphrase}
			must.Value(d.ExpandNode(ctx, v, 3*gib))(t)

			device, fs := readSizes(t, v)
			header := 3*gib - device
			if header <= 0 || header > 64<<20 || fs < device-int64(volume.MiB) {
				t.Errorf("got a mapping of %s and a filesystem of %s on a volume of 3 GiB", formatSize(device), formatSize(fs))
			}
			must.Value(d.ExpandNode(ctx, v, 3*gib))(t) // a repeated call succeeds

			must.Succeed(t, w.Stop())
			must.Succeed(t, d.Unpublish(ctx, v))
			unmount(t, v.Staging)
			must.Succeed(t, runCommand(t, "mount", "/dev/mapper/"+mapping, v.Staging))
			n := must.Value(w.Verify(v.Staging))(t)
			unmount(t, v.Staging)
			fsck(t, fstype, "/dev/mapper/"+mapping)
			must.Succeed(t, runCommand(t, "cryptsetup", "close", mapping))
			must.Succeed(t, d.Unstage(ctx, v))
			must.Succeed(t, d.Detach(ctx, v))
			must.Succeed(t, d.Delete(ctx, v))
			t.Logf("%s on LUKS2: 1 → 3 GiB; header %s; %s verified", fstype, formatSize(header), formatSize(n))
		})
	}
}

// cryptsetup runs it with the passphrase on standard input.
func cryptsetup(t *testing.T, args ...string) error {
	t.Helper()
	return runWithInput(t.Context(), t, passphrase, "cryptsetup", args...)
}
