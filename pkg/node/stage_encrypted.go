package node

import (
	"context"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/node/internal/inspect"
	"github.com/growvol/growvol/pkg/volume"
)

// PassphraseKey is the key of the node stage secret that holds the LUKS passphrase of an encrypted
// volume. The node expand secret may have it too, for a mapping that another program has opened:
// LUKS2 needs the passphrase for a resize when the volume key is in the kernel's keyring.
const PassphraseKey = "passphrase"

// isEncryptedByNode reports whether a volume context requests encryption by the node. The error has
// kind Invalid.
func isEncryptedByNode(volumeContext map[string]string) (bool, error) {
	switch value := volumeContext[volume.EncryptedKey]; value {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	default:
		return false, volume.Errorf(volume.KindInvalid,
			"the volume context has %s: %q, which is neither \"true\" nor \"false\"", volume.EncryptedKey, value)
	}
}

// checkDiskUse returns an error when the disk is in use in another way than requested. Of an
// encrypted volume only the mapping may be in use. checkDiskUse sets wasMapped.
func (st *stageCall) checkDiskUse(ctx context.Context) error {
	disk := st.vol.Device
	if !st.isEncrypted {
		return st.inspector.CheckUse(ctx, st.id, disk, st.access.Block)
	}
	if err := st.inspector.CheckMounts(ctx, disk, nil); err != nil {
		return err
	}
	m, mapped, err := st.opts.Mappings.Find(ctx, st.id)
	if err != nil {
		return err
	}
	st.wasMapped = mapped && inspect.IsMappingOf(m, disk)
	if !st.wasMapped {
		return nil // Mappings.Open handles a mapping on another disk
	}
	if err := st.inspector.CheckUse(ctx, st.id, m.Device, st.access.Block); err != nil {
		return err
	}
	readOnly, err := st.vol.IsReadOnly()
	if err != nil || m.ReadOnly == readOnly {
		return err
	}
	mounts, err := st.inspector.MountsOf(ctx, m.Device)
	if err != nil || len(mounts) == 0 {
		return err
	}
	return volume.Errorf(volume.KindAlreadyExists,
		"already staged on the mapping %s with read-only=%t, but the request has read-only=%t", m, m.ReadOnly, readOnly).
		WithRemedy("delete the pods that use the volume on this node")
}

// openMapping opens the LUKS2 mapping of an encrypted volume and makes it st.vol, which is the disk
// before. It makes the LUKS2 header of a provably blank disk first.
func (st *stageCall) openMapping(ctx context.Context, conn volume.Connection) error {
	disk := st.vol
	readOnly, err := disk.IsReadOnly() // as Connect has made it
	if err != nil {
		return err
	}
	if err := st.prepareHeader(ctx, conn, readOnly); err != nil {
		return err
	}
	req := luks.OpenRequest{
		ID: st.id, Device: disk.Device, Passphrase: []byte(st.passphrase), ReadOnly: readOnly,
	}
	st.mappingOpenedHere = !st.wasMapped
	var m luks.Mapping
	err = st.runVerified(ctx, "opening the encrypted volume", func(ctx context.Context) (err error) {
		m, err = st.opts.Mappings.Open(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	vol, err := st.inspector.Open(ctx, st.id, m.Device, st.lease)
	if err != nil {
		return err
	}
	st.vol = vol
	disk.Release() // the mapping keeps the disk open
	return nil
}

// prepareHeader makes the LUKS2 header of a blank disk. It sets headerMadeHere, also for a header
// that exists.
func (st *stageCall) prepareHeader(ctx context.Context, conn volume.Connection, readOnly bool) error {
	disk := st.vol
	h, err := st.opts.Mappings.Header(ctx, disk.Device)
	if err != nil {
		return err
	}
	switch h.State {
	case luks.HeaderAbsent:
		if err := st.checkNoPlainFilesystem(ctx, disk); err != nil {
			return err
		}
	case luks.HeaderLUKS1, luks.HeaderUnsupported:
		return nil // Mappings.Open refuses it, with the remedy
	case luks.HeaderSound, luks.HeaderUnfinished, luks.HeaderDamaged:
	}
	if readOnly || st.isReadOnly() {
		if h.State == luks.HeaderAbsent {
			return volume.Errorf(volume.KindPrecondition,
				"the volume must be encrypted, but it holds no LUKS2 header, and none can be made because it is staged read-only").
				WithRemedy("start a pod that uses the claim for writing once, with a disk that is writable")
		}
		return nil // Mappings.Open refuses a header that is not sound
	}
	if st.access.Mode.IsMultiNode() && (h.State == luks.HeaderAbsent || h.State == luks.HeaderUnfinished) {
		return sharedHeaderError(h)
	}
	if h.State != luks.HeaderSound {
		// A header cannot be undone: the disk must have the size that the backend reports.
		if err := st.awaitFullSize(ctx, conn); err != nil {
			return err
		}
	}
	req := luks.FormatRequest{
		Device: disk.Device, Passphrase: []byte(st.passphrase),
		Marker: st.encryptionMarker(st.id), Content: st.contentReader(disk, conn),
	}
	var fresh bool
	err = st.runVerified(ctx, "making the LUKS2 header", func(ctx context.Context) (err error) {
		_, fresh, err = st.opts.Mappings.Format(ctx, req)
		return err
	})
	if err == nil {
		st.headerMadeHere = fresh
	}
	return err
}

// sharedHeaderError is the error for a volume that several nodes may use and that has no finished
// LUKS2 header: another node may be making one, and a second header makes unreadable what was
// written under the first.
func sharedHeaderError(h luks.Header) error {
	return volume.Errorf(volume.KindPrecondition, "the volume must be encrypted and holds %s, "+
		"but several nodes may use it at the same time, so none of them makes the LUKS2 header", h).
		WithRemedy("use the volume once, on one node, with an access mode for one node (ReadWriteOnce), " +
			"or use a StorageClass without " + volume.EncryptedKey)
}

// checkNoPlainFilesystem returns an error when the disk holds a filesystem that is not encrypted.
func (st *stageCall) checkNoPlainFilesystem(ctx context.Context, disk *inspect.Volume) error {
	sig, err := st.opts.Filesystems.Probe(ctx, disk)
	if err != nil || sig.State != filesystem.StateFormatted {
		return err
	}
	return volume.Errorf(volume.KindPrecondition,
		"the volume must be encrypted (%s: \"true\"), but it holds %s without encryption; it is left untouched",
		volume.EncryptedKey, sig).
		WithRemedy("use the volume, or its copy, with a StorageClass without " + volume.EncryptedKey +
			"; or copy its data into a new encrypted volume")
}

// contentReader returns the reading by which Mappings.Format decides whether a disk is blank. A
// blank disk reads as noise where the hypervisor encrypts it too.
func (st *stageCall) contentReader(
	disk *inspect.Volume, conn volume.Connection,
) func(context.Context) (luks.Content, error) {
	return func(ctx context.Context) (luks.Content, error) {
		sig, err := st.opts.Filesystems.Probe(ctx, disk)
		return luks.Content{
			Blank:      sig.State == filesystem.StateBlank || conn.Encrypted && sig.IsRandom,
			Recognized: sig.IsRecognized || sig.State == filesystem.StateFormatted, Name: sig.String(),
		}, err
	}
}

// explainFormatRefusal replaces the error of Filesystems.Format for an encrypted volume with
// unknown content: its remedy names commands for the mapping, which is closed before a person can
// run them.
func (st *stageCall) explainFormatRefusal(sig filesystem.Signature, err error) error {
	if !st.isEncrypted || !volume.IsKind(err, volume.KindPrecondition) ||
		sig.State != filesystem.StateForeign || sig.Type != "" {
		return err
	}
	const remedy = "if the volume was used as a raw device, use it with volumeMode: Block; " +
		"if nothing on it is needed, delete the claim and create it again"
	if !sig.IsRandom {
		return volume.Errorf(volume.KindPrecondition,
			"the encrypted volume holds %s instead of a filesystem; it is left untouched", sig).
			WithRemedy(remedy)
	}
	return volume.Errorf(volume.KindPrecondition, "the encrypted volume has its LUKS2 header, but holds no filesystem: "+
		"it reads as %s, as a volume does that was encrypted and never used. "+
		"It may have been encrypted on another node, which was lost before it made the filesystem, or more than a day ago; "+
		"but it may also have been used as a raw device, so it is left untouched", sig).
		WithRemedy(remedy)
}

// checkNotEncrypted returns an error for an encrypted volume that is staged as a plain one: no
// message may call its content unknown and name the command that clears it.
func (st *stageCall) checkNotEncrypted(ctx context.Context, sig filesystem.Signature) error {
	if st.isEncrypted || sig.State != filesystem.StateForeign || !sig.IsRecognized {
		return nil
	}
	h, err := st.opts.Mappings.Header(ctx, st.vol.Device)
	if err != nil || h.State == luks.HeaderAbsent {
		return err
	}
	return volume.Errorf(volume.KindPrecondition,
		"the volume holds %s, so it is encrypted, but its volume context has no %s: \"true\"; it is left untouched",
		h, volume.EncryptedKey).
		WithRemedy("use the volume with a StorageClass whose parameter " + volume.EncryptedKey +
			" is \"true\" and that names the Secret with its passphrase")
}

// useForeignMapping makes st.vol the mapping that another program has opened on the disk, if the
// filesystem of that mapping is mounted at the staging path.
func (st *stageCall) useForeignMapping(ctx context.Context) error {
	if st.isEncrypted || st.access.Block {
		return nil
	}
	m, mounted, err := st.inspector.FindMount(ctx, st.lease, st.path)
	if err != nil || !mounted || m.IsDeviceNode() {
		return err
	}
	dev, isOnDisk, err := st.inspector.DeviceOnDisk(m, st.vol.Disk().Path)
	if err != nil || !isOnDisk || dev.Kind != blockdev.KindCrypt {
		return err
	}
	vol, err := st.inspector.Open(ctx, st.id, dev, st.lease)
	if err == nil {
		st.vol = vol
	}
	return err
}
