package openstack

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
)

// ensureImage returns the ID of the image from which Nova boots a server. If there is no image with
// this content yet, ensureImage registers one, and deletes earlier images of a server with the same
// name.
func (r *Rig) ensureImage(ctx context.Context, o Options) (string, error) {
	disk, err := diskKey(o.Disk)
	if err != nil {
		return "", fmt.Errorf("root disk: %w", err)
	}
	name := "growvol-" + o.Name
	content := fmt.Sprintf("%s-%s-%s", o.Image.Key, disk, o.Bus)
	// Concurrent registrations would delete images of each other.
	r.registering.Lock()
	defer r.registering.Unlock()
	if id, err := r.User.findImage(ctx, name+"/"+content); err != nil || id != "" {
		return id, err
	}
	id, err := runProgram(ctx, filepath.Join(r.programs, "image"),
		name, content, o.Image.Kernel, o.Image.Initrd, string(o.Bus), o.Disk)
	return strings.TrimSpace(id), err
}

// diskKey returns a hash of the content of a disk image.
func diskKey(disk string) (string, error) {
	if disk == "" {
		return "blank", nil
	}
	f, err := os.Open(disk)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // the file is only read
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:8]), nil
}

// findImage returns the ID of the active image with this name, or "" if there is none.
func (c *Cloud) findImage(ctx context.Context, name string) (string, error) {
	pages, err := images.List(c.Images, images.ListOpts{Name: name, Status: images.ImageStatusActive}).AllPages(ctx)
	if err != nil {
		return "", err
	}
	found, err := images.ExtractImages(pages)
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0].ID, nil
}
