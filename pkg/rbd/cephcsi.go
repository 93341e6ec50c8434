package rbd

import (
	"fmt"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds how the volumes and snapshots of ceph-csi are found; cephcsi_delete.go deletes
// them. ceph-csi keeps a journal in omaps of the pool (ceph-csi, internal/journal/voljournal.go):
//
//	csi.volume.UUID      csi.volname, csi.imagename, csi.imageid, csi.volume.owner; of encrypted volumes
//	                     csi.volume.encryptKMS, csi.volume.encryptionType
//	csi.volumes.default  csi.volume.REQUEST = UUID
//	csi.snap.UUID        csi.snapname, csi.source (the image of the volume), and the others
//	csi.snaps.default    csi.snap.REQUEST = UUID
//
// With topology, the journal is in the pool of the parameter pool, and the image in another one:
// there csi.volume.UUID is empty. Its values, among them csi.journalpool, are in the journal's
// pool, and csi.volumes.default has POOL/UUID. ceph-csi itself does not find them by a handle,
// which names the pool of the image.
//
// A snapshot of ceph-csi is an image, a clone of the volume, with one snapshot of the same name.
// Between a clone of a volume and its source there is a temporary clone, CLONE-temp.
// The driver reads the journal, and removes entries after their images; it writes none.

// journal names the objects and keys of one kind of entry.
type journal struct {
	entry       string // prefix of the object of an entry; the UUID follows
	directory   string // object that has the UUID of each request name
	requestKey  string // prefix of the keys of directory
	nameKey     string // of an entry: the name of the request
	imagePrefix string // of the image of an entry without csi.imagename
}

func volumeJournal() journal {
	return journal{
		entry: "csi.volume.", directory: "csi.volumes.default", requestKey: "csi.volume.", nameKey: "csi.volname",
		imagePrefix: "csi-vol-",
	}
}

func snapshotJournal() journal {
	return journal{
		entry: "csi.snap.", directory: "csi.snaps.default", requestKey: "csi.snap.", nameKey: "csi.snapname",
		imagePrefix: "csi-snap-",
	}
}

// Keys of an entry.
const (
	cephCSIImage       = "csi.imagename"
	cephCSIJournalPool = "csi.journalpool" // id of the pool of directory, in hexadecimal; absent: the same pool
	cephCSISource      = "csi.source"
	cephCSIKMS         = "csi.volume.encryptKMS" // id of the key management; absent: not encrypted
)

// readCephCSI returns the image of an entry: that of the default name if the entry was lost.
func (s *session) readCephCSI(j journal, h rbdcsi.CephCSIHandle) (rbdcsi.VolumeHandle, error) {
	var out rbdcsi.VolumeHandle
	name, err := s.cluster.PoolName(h.PoolID)
	if isMissing(err) {
		return out, volume.Errorf(volume.KindUnavailable,
			"cluster %s has no pool with the id %d: %w", h.Cluster, h.PoolID, err).
			WithRemedy("check the pool with `ceph osd pool ls detail` and the monitors of the cluster in the configuration")
	}
	if err != nil {
		return out, fmt.Errorf("cannot read the name of pool %d of cluster %s: %w", h.PoolID, h.Cluster, err)
	}
	out.Location = rbdcsi.Location{Cluster: h.Cluster, Pool: name, Namespace: s.config.Namespace}
	pool, err := s.pool(out.Location)
	if err != nil {
		return out, err
	}
	values, err := pool.OmapValues(j.entry + h.UUID)
	if err != nil && !isMissing(err) {
		return out, fmt.Errorf("cannot read the entry %s%s of ceph-csi's journal: %w", j.entry, h.UUID, err)
	}
	if out.Image = values[cephCSIImage]; out.Image == "" {
		out.Image = j.imagePrefix + h.UUID
	}
	return out, nil
}

// resolveCephCSI returns the image that a handle of ceph-csi names.
func (s *session) resolveCephCSI(h rbdcsi.CephCSIHandle) (rbdcsi.VolumeHandle, error) {
	return s.readCephCSI(volumeJournal(), h)
}

// resolveCephCSISnapshot returns the snapshot that a handle of ceph-csi names.
func (s *session) resolveCephCSISnapshot(id string, h rbdcsi.CephCSIHandle) (snapshotTarget, error) {
	image, err := s.readCephCSI(snapshotJournal(), h)
	if err != nil {
		return snapshotTarget{}, err
	}
	pool, err := s.pool(image.Location)
	handle := rbdcsi.SnapshotHandle{Location: image.Location, Image: image.Image, Snapshot: image.Image}
	return snapshotTarget{id: id, handle: handle, pool: pool, cephCSI: h.UUID}, err
}

// cephCSISource returns the handle of the volume of a snapshot. The journal has the name of its
// image, which has the UUID of the handle at its end.
func (s *session) cephCSISource(t snapshotTarget) (string, error) {
	values, err := t.pool.OmapValues(snapshotJournal().entry+t.cephCSI, cephCSISource)
	if err != nil && !isMissing(err) {
		return "", fmt.Errorf("cannot read the source of snapshot %s: %w", t.id, err)
	}
	source := values[cephCSISource]
	uuid := lastUUID(source)
	if uuid == "" {
		return rbdcsi.VolumeHandle{Location: t.handle.Location, Image: source}.String(), nil
	}
	return fmt.Sprintf("0001-%04x-%s-%016x-%s", len(t.handle.Cluster), t.handle.Cluster, t.pool.ID(), uuid), nil
}

// lastUUID returns the UUID at the end of the name of an image; empty: there is none.
func lastUUID(image string) string {
	const length = 36
	if len(image) < length || !volume.IsUUID(image[len(image)-length:]) {
		return ""
	}
	return image[len(image)-length:]
}

// cephCSIEncryptionKeys are the metadata of images that ceph-csi encrypts, now and formerly
// (ceph-csi, internal/rbd/encryption.go), and the key of their entries.
func cephCSIEncryptionKeys() []string {
	return []string{"rbd.csi.ceph.com/encrypted", ".rbd.csi.ceph.com/encrypted", cephCSIKMS}
}

// checkNotEncrypted returns an error of kind Precondition if the metadata of an image, or its entry
// of the journal, say that ceph-csi has encrypted it: only ceph-csi can get its passphrase.
func checkNotEncrypted(all map[string]string, spec string) error {
	for _, key := range cephCSIEncryptionKeys() {
		if state := all[key]; state != "" {
			return volume.Errorf(volume.KindPrecondition, "ceph-csi has encrypted image %s (%s is %q) with a passphrase of its "+
				"key management, which this driver does not read", spec, key, state).
				WithRemedy("copy the data with a pod that ceph-csi's driver serves, into a volume of a StorageClass of this " +
					"driver with the parameter encrypted")
		}
	}
	return nil
}

// checkNotCephCSIEncrypted returns an error of kind Precondition if ceph-csi has encrypted the
// image of a handle of ceph-csi. Other handles cost no request.
func (t target) checkNotCephCSIEncrypted() error {
	h, ok := rbdcsi.ParseCephCSIHandle(t.id)
	if !ok {
		return nil
	}
	if err := checkEntryNotEncrypted(t.pool, volumeJournal(), h.UUID, t.spec()); err != nil {
		return err
	}
	id, err := t.imageID()
	if err != nil {
		return err
	}
	all, err := readMetadata(t.pool, id)
	if err != nil {
		return err
	}
	return checkNotEncrypted(all, t.spec())
}

// checkEntryNotEncrypted is checkNotEncrypted for the entry of the journal. Images whose files
// ceph-csi encrypts (encryptionType: file) are marked there only.
func checkEntryNotEncrypted(pool ceph.Pool, j journal, uuid, spec string) error {
	values, err := pool.OmapValues(j.entry+uuid, cephCSIKMS)
	if err != nil && !isMissing(err) {
		return fmt.Errorf("cannot read the entry %s%s of ceph-csi's journal: %w", j.entry, uuid, err)
	}
	return checkNotEncrypted(values, spec)
}
