package class

import (
	"maps"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// This file tests StorageClasses that were made for ceph-csi. Package controller has removed the
// parameter encrypted.

// cephCSIClass is a class with all that ceph-csi's example has, except for what is refused.
func cephCSIClass() map[string]string {
	return map[string]string{
		"clusterID": "b9127830-b0cc-4e34-aa47-9d1a2e9949a8", "pool": "rbd", "dataPool": "ec", "imageFeatures": "layering",
		"mkfsOptions": "-m0 -Ediscard -i1024", "tryOtherMounters": "true",
		"mapOptions":   "krbd:lock_on_read,queue_depth=1024;nbd:try-netlink",
		"unmapOptions": "krbd:force;nbd:force", "mounter": "rbd", "cephLogDir": "/var/log/ceph",
		"cephLogStrategy": "remove", "volumeNamePrefix": "foo-bar-", "encryptionKMSID": "vault", "encryptionType": "block",
		"encryptionCipher": "aes-xts-plain64", "encryptionKeySize": "256", "encryptionSectorSize": "4096",
		"integrityMode": "hmac-sha512", "stripeUnit": "8192", "stripeCount": "4", "objectSize": "131072",
		"csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "default",
		"csi.storage.k8s.io/pv/name": "pvc-1",
	}
}

func TestClassOfCephCSI(t *testing.T) {
	t.Parallel()
	s, err := ParseStorage(cephCSIClass())
	if err != nil {
		t.Fatal(err)
	}
	if s.Pools[0].DataPool != "ec" || s.NamePrefix != "foo-bar-" || s.Options.StripeCount != 4 ||
		s.Context["mapOptions"] == "" || len(s.Context) != 2 {
		t.Errorf("got %+v", s)
	}
	if err := s.CheckEncryption(false); err != nil {
		t.Error(err)
	}
	volumetest.WantKind(t, s.CheckEncryption(true), volume.KindInvalid, "ceph-csi's encryption", "Secret")
}

func TestClassOfCephCSIThatIsRefused(t *testing.T) {
	t.Parallel()
	for key, c := range map[string]struct{ value, reason string }{
		"mounter":          {"rbd-nbd", "with the kernel's client only"},
		"imageFeatures":    {"layering,exclusive-lock,journaling", "the kernel maps no image with journaling"},
		"mapOptions":       {"krbd:exclusive", "online expansion"},
		"tryOtherMounters": {"maybe", "true or false"},
		"thickProvision":   {"true", "unknown parameter"},
		"maxReadIops":      {"100", "unknown parameter"},
		"clusterIDs":       {"a,b", "unknown parameter"},
	} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			parameters := maps.Clone(cephCSIClass())
			parameters[key] = c.value
			_, err := ParseStorage(parameters)
			volumetest.WantKind(t, err, volume.KindInvalid, key, c.reason)
		})
	}
}
