package node

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
)

// isEncryptedByNode reports whether a volume context has the node encrypt the
// volume. The error is of kind Invalid.
func isEncryptedByNode(volumeContext map[string]string) (bool, error) {
	switch value := volumeContext[volume.EncryptedKey]; value {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	default:
		return false, invalidf("the volume context has %s: %q, which is neither \"true\" nor \"false\"",
			volume.EncryptedKey, value)
	}
}

// encryptionRequested reports whether the volume is encrypted on this node, and
// refuses a request for such a volume that has no passphrase.
func encryptionRequested(req *csi.NodeStageVolumeRequest) (encrypted bool, err error) {
	encrypted, err = isEncryptedByNode(req.GetVolumeContext())
	if err != nil || !encrypted || req.GetSecrets()[PassphraseKey] != "" {
		return encrypted, err
	}
	const remedy = "name a Secret with that key in the StorageClass (csi.storage.k8s.io/node-stage-secret-name " +
		"and -namespace); an existing PersistentVolume needs csi.nodeStageSecretRef"
	return true, volume.Errorf(volume.KindInvalid,
		"the volume is encrypted, but the node stage secret of the request has no key %q, or an empty one", PassphraseKey).
		WithRemedy(remedy)
}

// checkDiskUse refuses a disk that is in use in another way than asked for. Of
// an encrypted volume only the mapping may be in use, never the disk itself.
func (st *stageCall) checkDiskUse(ctx context.Context) error {
	if !st.encrypted {
		return st.checkNoOtherUse(ctx, st.id, st.vol.device, st.access.Block)
	}
	disk := st.vol.device
	if err := st.checkMounts(ctx, disk, nil); err != nil {
		return err
	}
	m, mapped, err := st.opts.Mappings.Find(ctx, st.id)
	if err != nil {
		return err
	}
	st.wasMapped = mapped && isMappingOf(m, disk)
	if !st.wasMapped {
		return nil // Open decides what becomes of one on another disk
	}
	if err := st.checkNoOtherUse(ctx, st.id, m.Device, st.access.Block); err != nil {
		return err
	}
	readOnly, err := st.vol.IsReadOnly()
	if err != nil || m.ReadOnly == readOnly {
		return err
	}
	mounts, err := st.mountsOf(ctx, m.Device)
	if err != nil || len(mounts) == 0 {
		return err
	}
	return volume.Errorf(volume.KindAlreadyExists, "already staged on the mapping %s with read-only=%t, asked for read-only=%t",
		m, m.ReadOnly, readOnly).
		WithRemedy("delete the pods that use the volume on this node first")
}

// isMappingOf reports whether a mapping rests on this very disk.
func isMappingOf(m luks.Mapping, disk blockdev.Device) bool {
	return !m.DiskGone && m.Disk.Number() == disk.Number()
}

// openMapping opens the LUKS2 mapping of an encrypted volume, whose disk is
// open as st.vol, and makes the mapping st.vol. A disk that is proved to be
// blank is formatted with LUKS2 first.
func (st *stageCall) openMapping(ctx context.Context, conn volume.Connection) error {
	disk := st.vol
	readOnly, err := disk.IsReadOnly() // as the disk was connected
	if err != nil {
		return err
	}
	if err := st.prepareHeader(ctx, conn, readOnly); err != nil {
		return err
	}
	req := luks.OpenRequest{ID: st.id, Device: disk.device, Passphrase: []byte(st.passphrase), ReadOnly: readOnly}
	st.mappingOpenedHere = !st.wasMapped
	var m luks.Mapping
	err = runStep(ctx, st.lease, "opening the encrypted volume", func(ctx context.Context) error {
		if err := st.verifyDisk(ctx, disk); err != nil {
			return err
		}
		opened, err := st.opts.Mappings.Open(ctx, req)
		if err == nil {
			m = opened
		}
		return err
	})
	if err != nil {
		return err
	}
	vol, err := st.openVerified(ctx, st.id, m.Device, st.lease)
	if err != nil {
		return err
	}
	st.vol = vol
	disk.release() // the mapping keeps it
	return nil
}

// prepareHeader makes the LUKS2 header of a blank disk. Of a header that is
// there it learns whether it was made here and the volume not used since.
func (st *stageCall) prepareHeader(ctx context.Context, conn volume.Connection, readOnly bool) error {
	disk := st.vol
	h, err := st.opts.Mappings.Header(ctx, disk.device)
	if err != nil {
		return err
	}
	switch h.State {
	case luks.HeaderAbsent:
		if err := st.checkNoPlainFilesystem(ctx, disk); err != nil {
			return err
		}
	case luks.HeaderLUKS1, luks.HeaderUnsupported:
		return nil // Open refuses it, with the remedy
	case luks.HeaderSound, luks.HeaderUnfinished, luks.HeaderDamaged:
	}
	if readOnly || st.readOnly() {
		if h.State == luks.HeaderAbsent {
			return volume.Errorf(volume.KindPrecondition,
				"the volume is to be encrypted, but it holds no LUKS2 header and is asked for read-only, so none can be made").
				WithRemedy("stage the volume for writing once, on a disk that can be written to")
		}
		return nil // Open refuses what is not sound
	}
	if st.access.Mode.IsMultiNode() && (h.State == luks.HeaderAbsent || h.State == luks.HeaderUnfinished) {
		return sharedHeaderError(h)
	}
	if h.State != luks.HeaderSound {
		// The header is for good: never on a disk that is not yet what the backend
		// says it is.
		if err := st.awaitFullSize(ctx, conn); err != nil {
			return err
		}
	}
	req := luks.FormatRequest{
		Device: disk.device, Passphrase: []byte(st.passphrase),
		Marker: st.encryptionMarker(st.id), Content: st.contentReader(disk, conn),
	}
	var fresh bool
	err = runStep(ctx, st.lease, "making the LUKS2 header", func(ctx context.Context) error {
		// The wait for the disk may have been long.
		if err := st.verifyDisk(ctx, disk); err != nil {
			return err
		}
		_, made, err := st.opts.Mappings.Format(ctx, req)
		if err == nil {
			fresh = made
		}
		return err
	})
	if err == nil {
		st.headerMadeHere = fresh
	}
	return err
}

// sharedHeaderError is the error for a volume without a finished LUKS2 header that
// several nodes may use: another node may be making one at this moment, and the
// second header would make unreadable what was written under the first.
func sharedHeaderError(h luks.Header) error {
	return volume.Errorf(volume.KindPrecondition,
		"the volume is to be encrypted and holds %s, but several nodes may use it at once, so none of them makes the LUKS2 header", h).
		WithRemedy("use the volume once, on one node, with an access mode for one node (ReadWriteOnce), or use a StorageClass without " +
			volume.EncryptedKey)
}

// checkNoPlainFilesystem refuses a disk with a filesystem that is not encrypted.
func (st *stageCall) checkNoPlainFilesystem(ctx context.Context, disk *openVolume) error {
	sig, err := st.opts.Filesystems.Probe(ctx, disk)
	if err != nil || sig.State != filesystem.StateFormatted {
		return err
	}
	return volume.Errorf(volume.KindPrecondition,
		"the volume is to be encrypted (%s: \"true\"), but it holds %s without encryption; it is left untouched", volume.EncryptedKey, sig).
		WithRemedy("use the volume, or its copy, with a StorageClass without " + volume.EncryptedKey +
			"; or copy its data into a new encrypted volume")
}

// contentReader returns the reading by which luksFormat decides whether a disk
// is blank. Where the hypervisor encrypts too, a blank disk reads as noise.
func (st *stageCall) contentReader(disk *openVolume, conn volume.Connection) func(context.Context) (luks.Content, error) {
	return func(ctx context.Context) (luks.Content, error) {
		sig, err := st.opts.Filesystems.Probe(ctx, disk)
		return luks.Content{
			Blank:      sig.State == filesystem.StateBlank || conn.Encrypted && sig.IsRandom,
			Recognized: sig.IsRecognized || sig.State == filesystem.StateFormatted, Name: sig.String(),
		}, err
	}
}

// explainFormatRefusal completes the refusal to make a filesystem in a mapping that
// holds something unknown: commands for its device are of no use, because the
// mapping is closed again by the time somebody reads them.
func (st *stageCall) explainFormatRefusal(sig filesystem.Signature, err error) error {
	if !st.encrypted || !volume.IsKind(err, volume.KindPrecondition) || sig.State != filesystem.StateForeign || sig.Type != "" {
		return err
	}
	const remedy = "if the volume was used as a raw device, use it with volumeMode: Block; " +
		"if nothing on it is needed, delete the claim and create it again"
	if !sig.IsRandom {
		return volume.Errorf(volume.KindPrecondition, "the encrypted volume holds %s instead of a filesystem; it is left untouched", sig).
			WithRemedy(remedy)
	}
	return volume.Errorf(volume.KindPrecondition, "the encrypted volume has its LUKS2 header, but holds no filesystem: "+
		"it reads as %s, as one does that was encrypted and never used. "+
		"It may have been encrypted on another node, which was lost before it made the filesystem, or more than a day ago; "+
		"but it may also have been used as a raw device, so it is left untouched", sig).
		WithRemedy(remedy)
}

// checkNotEncrypted refuses an encrypted volume that is staged as a plain one.
// Nothing may call its content unknown, and name the command that clears it.
func (st *stageCall) checkNotEncrypted(ctx context.Context, sig filesystem.Signature) error {
	if st.encrypted || sig.State != filesystem.StateForeign || !sig.IsRecognized {
		return nil
	}
	h, err := st.opts.Mappings.Header(ctx, st.vol.device)
	if err != nil || h.State == luks.HeaderAbsent {
		return err
	}
	return volume.Errorf(volume.KindPrecondition,
		"the volume holds %s, so it is encrypted, but its volume context has no %s: \"true\"; it is left untouched", h, volume.EncryptedKey).
		WithRemedy("use the volume with a StorageClass whose parameter " + volume.EncryptedKey +
			" is \"true\" and that names the Secret with its passphrase")
}

// useForeignMapping makes a mapping that somebody else has made on the disk st.vol,
// if its filesystem is what is mounted at the staging path.
func (st *stageCall) useForeignMapping(ctx context.Context) error {
	if st.encrypted || st.access.Block {
		return nil
	}
	m, mounted, err := st.findMount(ctx, st.lease, st.path)
	if err != nil || !mounted || m.IsDeviceNode() {
		return err
	}
	dev, ours, err := st.deviceOnDisk(m, st.vol.disk().Path)
	if err != nil || !ours || dev.Kind != blockdev.KindCrypt {
		return err
	}
	vol, err := st.openVerified(ctx, st.id, dev, st.lease)
	if err == nil {
		st.vol = vol
	}
	return err
}

// encryptionMarker is the file that proves that the LUKS2 header of this
// volume was made here, and the volume not used since.
func (s *Server) encryptionMarker(id string) string {
	return filepath.Join(s.opts.StateDir, "encrypting-"+fileName(id))
}

// findMapping returns the mapping of a volume if it rests on this disk. A
// device of that name that this driver has not made is none. Device mapper is
// asked only if something rests on the disk: a node without encrypted volumes
// needs none.
func (s *Server) findMapping(ctx context.Context, id string, disk blockdev.Device) (luks.Mapping, bool, error) {
	holders, err := s.opts.Devices.Holders(disk)
	if err != nil || len(holders) == 0 {
		return luks.Mapping{}, false, err
	}
	m, mapped, err := s.opts.Mappings.Find(ctx, id)
	if volume.IsKind(err, volume.KindPrecondition) {
		return luks.Mapping{}, false, nil
	}
	return m, err == nil && mapped && isMappingOf(m, disk), err
}

// closeMapping closes the mapping of a volume, if there is one, and returns
// once it is gone. One that is in use is refused. A mapping on a disk that is
// proved to be another volume's is left alone: it is not in the way. diskPath is
// the volume's disk, empty when it is not connected.
func (s *Server) closeMapping(ctx context.Context, id, diskPath string, l *operation.Lease) error {
	m, mapped, err := s.opts.Mappings.Find(ctx, id)
	if volume.IsKind(err, volume.KindPrecondition) {
		s.log.WarnContext(ctx, "a device-mapper device has the name of this volume's mapping, and was left alone",
			"volume", id, "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	if mapped {
		if ours, err := s.ownsMapping(ctx, id, m); err != nil || !ours {
			return err
		}
	}
	// Also without a mapping: a crash may have left half of one.
	return runStep(ctx, l, "closing the mapping of the encrypted volume", func(ctx context.Context) error {
		if diskPath == "" {
			return s.opts.Mappings.Close(ctx, id)
		}
		disk, err := s.opts.Devices.ByPath(diskPath)
		if err != nil {
			return err
		}
		return s.opts.Mappings.CloseOn(ctx, id, disk)
	})
}

// ownsMapping reports whether a mapping of this volume's name is the volume's:
// the disk below it is, or what that disk held is provably gone.
func (s *Server) ownsMapping(ctx context.Context, id string, m luks.Mapping) (bool, error) {
	if m.DiskGone {
		return true, nil
	}
	err := s.opts.Connector.Verify(ctx, id, m.Disk.Path)
	switch {
	case err == nil, errors.Is(err, volume.ErrGone):
		return true, nil
	case volume.IsKind(err, volume.KindPrecondition), volume.IsKind(err, volume.KindNotFound):
		if located, locateErr := s.isLocated(ctx, id, m.Disk); locateErr != nil || located {
			return false, errors.Join(locateErr, err) // the disk would be taken from under the mapping
		}
		s.log.WarnContext(ctx, "a mapping with the name of this volume's rests on another disk, and was left alone",
			"volume", id, "mapping", m.String(), "error", err)
		return false, nil
	}
	return false, err
}

// isLocated reports whether a disk is the one that the connector has for a
// volume.
func (s *Server) isLocated(ctx context.Context, id string, disk blockdev.Device) (bool, error) {
	conn, connected, err := s.opts.Connector.Locate(ctx, id)
	if volume.IsKind(err, volume.KindNotFound) {
		return false, nil
	}
	if err != nil || !connected {
		return false, err
	}
	located, err := s.opts.Devices.ByPath(conn.Path)
	return err == nil && located.Number() == disk.Number(), err
}
