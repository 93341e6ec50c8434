package filesystem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// mkfs runs mkfs on a device that Probe found blank, after blkid has found nothing on it
// either. The error wraps EBUSY when mkfs found the device in use.
func (s *System) mkfs(ctx context.Context, req FormatRequest, options []string) error {
	device := req.Device.Path()
	s.log.InfoContext(ctx, "formatting", "device", device, "type", req.Type, "options", strings.Join(options, " "))
	err := s.checkBlkid(ctx, req)
	if err == nil {
		err = req.Device.CheckPath()
	}
	if err == nil {
		err = s.runMkfs(ctx, req, options)
	}
	if ctx.Err() != nil {
		return &volume.Error{
			Kind: volume.KindOf(ctx.Err()), Cause: ctx.Err(),
			Msg: "mkfs of " + string(req.Type) + " on " + device + " was stopped before it finished",
			Remedy: "Kubernetes retries this automatically and starts mkfs again; " +
				"if mkfs of a very large ext3 never finishes, set the filesystem type of the StorageClass to ext4 or xfs",
		}
	}
	return err
}

// checkBlkid returns an error of kind Precondition if blkid recognizes data on the device.
func (s *System) checkBlkid(ctx context.Context, req FormatRequest) error {
	const nothingFound = 2 // exit status, blkid(8)
	device := req.Device.Path()
	output, code, err := s.run(ctx, "blkid", "-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", device)
	switch {
	case err != nil:
		return formatError(req, err)
	case code == nothingFound, code == 0 && output == "":
		// blkid succeeds without a TYPE or PTTYPE on a blank partition, whose entry it has found.
		return nil
	case code != 0:
		return formatError(req, fmt.Errorf("blkid: exit status %d: %s", code, output))
	}
	// blkid may have seen the work of a mkfs that a crashed plugin has left running. While
	// that runs, the device cannot be opened exclusively.
	w, err := req.Device.OpenWriter()
	if err != nil {
		return err
	}
	closeQuietly(w)
	if err := RemoveMarker(req.Marker); err != nil { // this call has not run mkfs
		return err
	}
	return volume.Errorf(volume.KindPrecondition,
		"cannot format %s: blkid recognizes data on it that this driver does not know: %s", device, output).
		WithRemedy("check it with: blkid -p " + device + "; if nothing on it is needed, run: " + clearCommand(device))
}

// clearCommand returns the command that makes a device blank.
func clearCommand(device string) string {
	return "wipefs -a " + device + " && blkdiscard -z " + device
}

// runMkfs runs mkfs with the options, and with those that make it ask no questions.
func (s *System) runMkfs(ctx context.Context, req FormatRequest, options []string) error {
	args := slices.Clone(options)
	switch {
	case req.Type.IsExt():
		args = append(args, "-F")
		if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "-m") }) {
			args = append(args, "-m0")
		}
	case req.Type == TypeXFS:
		args = append(args, "-f")
	}
	output, code, err := s.run(ctx, "mkfs."+string(req.Type), append(args, req.Device.Path())...)
	switch {
	case err != nil:
		return formatError(req, err)
	case code != 0 && isInUse(output):
		return volume.Errorf(volume.KindDeadline, "mkfs of %s changed nothing on %s, which is in use (%w): %s",
			req.Type, req.Device.Path(), unix.EBUSY, output).
			WithRemedy(blockdev.InUseRemedy(req.Device.Path()))
	case code != 0:
		return formatError(req, fmt.Errorf("exit status %d: %s", code, output))
	}
	return nil
}

// formatError is the error for a program that failed or could not run.
func formatError(req FormatRequest, err error) error {
	remedy := "check the size of the volume, the mkfs options of the StorageClass and the kernel log of this node"
	var e *volume.Error
	if errors.As(err, &e) && e.Remedy != "" {
		remedy, err = e.Remedy, e.WithRemedy("")
	}
	return volume.Errorf(volume.KindInternal, "cannot format %s as %s: %w", req.Device.Path(), req.Type, err).
		WithRemedy(remedy)
}
