package rbd

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds how the volumes and snapshots of ceph-csi are found and deleted. ceph-csi keeps a
// journal in omaps of the pool (ceph-csi, internal/journal/voljournal.go):
//
//	csi.volume.UUID      csi.imagename, csi.volname, csi.volume.encryptKMS, csi.journalpool
//	csi.volumes.default  csi.volume.REQUEST = UUID
//	csi.snap.UUID        csi.imagename, csi.snapname, csi.source (the image of the volume)
//	csi.snaps.default    csi.snap.REQUEST = UUID
//
// A snapshot of ceph-csi is an image, a clone of the volume, with one snapshot of the same name. The
// driver reads the journal, and removes entries after their images; it writes none.

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
	cephCSIKMS         = "csi.volume.encryptKMS"
)

// cephCSIEntry is an entry of the journal; empty: it was lost, or removed.
type cephCSIEntry map[string]string

// readCephCSI reads an entry. The image has the default name if the entry was lost.
func (s *session) readCephCSI(j journal, h rbdcsi.CephCSIHandle) (rbdcsi.VolumeHandle, cephCSIEntry, error) {
	var out rbdcsi.VolumeHandle
	name, err := s.cluster.PoolName(h.PoolID)
	if isMissing(err) {
		return out, nil, volume.Errorf(volume.KindUnavailable, "cluster %s has no pool with the id %d: %w", h.Cluster, h.PoolID, err).
			WithRemedy("check the pool with `ceph osd pool ls detail` and the monitors of the cluster in the configuration")
	}
	if err != nil {
		return out, nil, fmt.Errorf("cannot read the name of pool %d of cluster %s: %w", h.PoolID, h.Cluster, err)
	}
	out.Location = rbdcsi.Location{Cluster: h.Cluster, Pool: name, Namespace: s.config.Namespace}
	pool, err := s.pool(out.Location)
	if err != nil {
		return out, nil, err
	}
	values, err := pool.OmapValues(j.entry + h.UUID)
	if err != nil && !isMissing(err) {
		return out, nil, fmt.Errorf("cannot read the entry %s%s of ceph-csi's journal: %w", j.entry, h.UUID, err)
	}
	if out.Image = values[cephCSIImage]; out.Image == "" {
		out.Image = j.imagePrefix + h.UUID
	}
	return out, values, nil
}

// resolveCephCSI returns the image that a handle of ceph-csi names.
func (s *session) resolveCephCSI(h rbdcsi.CephCSIHandle) (rbdcsi.VolumeHandle, error) {
	image, _, err := s.readCephCSI(volumeJournal(), h)
	return image, err
}

// resolveCephCSISnapshot returns the snapshot that a handle of ceph-csi names.
func (s *session) resolveCephCSISnapshot(id string, h rbdcsi.CephCSIHandle) (snapshotTarget, error) {
	image, _, err := s.readCephCSI(snapshotJournal(), h)
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
	const uuidLength = 36
	if len(source) < uuidLength || !volume.IsUUID(source[len(source)-uuidLength:]) {
		return rbdcsi.VolumeHandle{Location: t.handle.Location, Image: source}.String(), nil
	}
	return fmt.Sprintf("0001-%04x-%s-%016x-%s",
		len(t.handle.Cluster), t.handle.Cluster, t.pool.ID(), source[len(source)-uuidLength:]), nil
}

// forgetCephCSI removes the journal's entry of a volume of ceph-csi whose image is gone.
func (s *session) forgetCephCSI(t target) error {
	h, ok := rbdcsi.ParseCephCSIHandle(t.id)
	if !ok {
		return nil
	}
	return s.removeCephCSIEntry(volumeJournal(), t.pool, t.handle.Location, h.UUID)
}

// removeCephCSIEntry removes an entry: first its name from the directory, because the entry has the
// name when that is repeated.
func (s *session) removeCephCSIEntry(j journal, pool ceph.Pool, at rbdcsi.Location, uuid string) error {
	object := j.entry + uuid
	values, err := pool.OmapValues(object)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the entry %s of ceph-csi's journal: %w", object, err)
	}
	if name := values[j.nameKey]; name != "" {
		if err := s.removeCephCSIName(j, pool, at, name, uuid, values[cephCSIJournalPool]); err != nil {
			return err
		}
	}
	if err := pool.RemoveObject(object); err != nil && !isMissing(err) {
		return fmt.Errorf("cannot remove the entry %s of ceph-csi's journal: %w", object, err)
	}
	return nil
}

// removeCephCSIName removes the name of a request from the directory if it belongs to the UUID.
func (s *session) removeCephCSIName(
	j journal, pool ceph.Pool, at rbdcsi.Location, name, uuid, journalPool string,
) error {
	if journalPool != "" {
		id, err := hex.DecodeString(journalPool)
		if err != nil || len(id) != 8 {
			return volume.Errorf(volume.KindInternal, "the entry %s%s of ceph-csi's journal has the invalid pool %q",
				j.entry, uuid, journalPool)
		}
		if at.Pool, err = s.cluster.PoolName(int64(binary.BigEndian.Uint64(id))); isMissing(err) {
			return nil
		} else if err != nil {
			return fmt.Errorf("cannot read the name of pool %s: %w", journalPool, err)
		}
		if pool, err = s.pool(at); err != nil {
			return err
		}
	}
	key := j.requestKey + name
	values, err := pool.OmapValues(j.directory, key)
	if err == nil && isUUIDOf(values[key], uuid) {
		err = pool.RemoveOmapKeys(j.directory, key)
	}
	if err != nil && !isMissing(err) {
		return fmt.Errorf("cannot remove %s from %s of ceph-csi's journal: %w", key, j.directory, err)
	}
	return nil
}

// isUUIDOf reports whether the value of the directory, UUID or POOL/UUID, names the UUID.
func isUUIDOf(value, uuid string) bool {
	return value == uuid || len(value) > len(uuid) && value[len(value)-len(uuid)-1:] == "/"+uuid
}

// deleteCephCSISnapshot removes a snapshot of ceph-csi: the snapshot, its image and its entry.
func (s *session) deleteCephCSISnapshot(ctx context.Context, t snapshotTarget) error {
	h := rbdcsi.VolumeHandle{Location: t.handle.Location, Image: t.handle.Image}
	image := target{id: t.id, handle: h, pool: t.pool}
	imageID, err := t.pool.ImageID(t.handle.Image)
	if err == nil {
		err = s.removeSnapshotByName(ctx, t.pool, imageID, t.handle.Snapshot)
	}
	if err != nil && !isMissing(err) {
		return err
	}
	for range maxDeleteRounds {
		isDone, err := s.deleteImage(ctx, image)
		if err != nil {
			return err
		}
		if isDone {
			return s.removeCephCSIEntry(snapshotJournal(), t.pool, t.handle.Location, t.cephCSI)
		}
	}
	return volume.Errorf(volume.KindUnavailable, "image %s is being changed by other programs", image.spec()).
		WithRemedy(retryRemedy)
}

// Metadata of images that ceph-csi encrypts (ceph-csi, internal/rbd/encryption.go), now and formerly.
func cephCSIEncryptionKeys() []string {
	return []string{"rbd.csi.ceph.com/encrypted", ".rbd.csi.ceph.com/encrypted"}
}

// checkNotEncrypted returns an error of kind Precondition if the metadata of an image say that
// ceph-csi has encrypted it: only ceph-csi can get its passphrase, and copies would be unreadable.
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
