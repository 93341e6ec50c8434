package luks

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// Grow makes a dm-crypt mapping as large as the device below it allows and returns the size
// as read back. It does not change a mapping that fills its device. It also grows mappings
// that this driver did not make (LUKS1, plain).
//
// Grow needs the passphrase only for a LUKS2 mapping whose volume key is in the kernel's
// keyring; Open makes no such mapping. Kinds: Precondition (the passphrase is missing or
// wrong, the device is no dm-crypt mapping, or the mapping has several segments), Deadline,
// Canceled, Internal.
func (s *System) Grow(ctx context.Context, d blockdev.Device, passphrase []byte) (volume.Size, error) {
	if d.Kind != blockdev.KindCrypt {
		return 0, volume.Errorf(volume.KindPrecondition, "%s is not a dm-crypt mapping", d)
	}
	st, ok, err := s.mapper.statusOf(d.Major, d.Minor)
	if err == nil && !ok {
		err = errors.New("there is no such mapping")
	}
	if err != nil {
		return 0, mapperError("cannot find the mapping", d.String(), err)
	}
	if err := s.resume(ctx, st); err != nil {
		return 0, err
	}
	layers, err := s.devices.Stack(d)
	if err != nil {
		return 0, err
	}
	g := growth{System: s, mapping: d, disk: layers[1], name: st.name}
	table, want, err := g.state()
	if err != nil {
		return 0, err
	}
	if table.length >= want {
		return s.devices.Size(d)
	}
	if table.keyring && len(passphrase) == 0 {
		return 0, volume.Errorf(volume.KindPrecondition,
			"the dm-crypt mapping %s has %s and could have %s, but its volume key is in the kernel's keyring: "+
				"resizing it needs the passphrase", d, table.length, want).
			WithRemedy("pass the passphrase as the node expansion secret of the StorageClass " +
				"(csi.storage.k8s.io/node-expand-secret-name), or stage the volume again")
	}
	return g.resize(ctx, want, passphrase)
}

// growth is one call of Grow, after the mapping and its disk were found.
type growth struct {
	*System
	mapping, disk blockdev.Device
	name          string
}

// state reads the mapping's table and the size that the mapping should have: the size of the
// disk less the offset, in whole encryption sectors.
func (g growth) state() (table cryptTable, want volume.Size, err error) {
	table, err = g.mapper.table(g.name)
	if errors.Is(err, errNotOneCrypt) {
		return table, 0, volume.Errorf(volume.KindPrecondition, "cannot grow %s: %w", g.mapping, err).
			WithRemedy("grow the mapping by hand, or copy the data into a new volume")
	}
	if err != nil {
		return table, 0, mapperError("cannot read the table of", g.mapping.String(), err)
	}
	size, err := g.devices.Size(g.disk)
	return table, (size - table.offset).RoundDown(table.sector), err
}

// resize runs "cryptsetup resize" and reads the size back. A cryptsetup that was killed can
// have left the mapping suspended, which blocks every write to it: resize resumes it.
func (g growth) resize(ctx context.Context, want volume.Size, passphrase []byte) (volume.Size, error) {
	f, err := g.lockDisk(ctx, g.disk)
	if err != nil {
		return 0, err
	}
	defer closeQuietly(f)
	// Without a size cryptsetup refuses a disk that does not end with a whole
	// encryption sector.
	args := []string{"resize", "--batch-mode", "--size", strconv.FormatInt(want.Bytes()/sectorSize, 10)}
	if len(passphrase) > 0 {
		args = append(args, "--key-file", "-")
	}
	stderr, runErr := g.cryptsetup(ctx, g.disk, cryptsetupCommand{
		Args: append(args, "--", g.name), Passphrase: passphrase,
		Disk: f,
	})
	st, ok, err := g.mapper.status(g.name)
	if err == nil && ok {
		err = g.resume(ctx, st)
	}
	if err != nil {
		return 0, volume.Join(err, runErr)
	}
	// The table decides about success; the exit status only chooses the message.
	table, _, err := g.state()
	if err != nil {
		return 0, volume.Join(err, runErr)
	}
	if table.length < want {
		what := fmt.Sprintf("cannot grow the dm-crypt mapping %s: afterwards it has %s instead of %s; the data are intact",
			g.mapping, table.length, want)
		return table.length, commandError(ctx, what, g.disk, stderr, runErr)
	}
	size, err := g.devices.Size(g.mapping)
	if err == nil && size < table.length {
		err = volume.Errorf(volume.KindInternal, "the mapping %s has %s, but its table has %s", g.mapping, size, table.length)
	}
	if err == nil {
		g.log.InfoContext(ctx, "grew a dm-crypt mapping", "mapping", g.name, "device", g.mapping.Path, "size", size)
	}
	return size, err
}
