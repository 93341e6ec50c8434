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

// image returns the id of the image that Nova boots, registering it if it is
// new. Its name tells of all that is in it; an earlier one for a server of the
// name is deleted, so that they do not pile up.
func (r *Rig) image(ctx context.Context, o Options) (string, error) {
	disk, err := key(o.Disk)
	if err != nil {
		return "", fmt.Errorf("root disk: %w", err)
	}
	name := "growvol-" + o.Name
	content := fmt.Sprintf("%s-%s-%s", o.Image.Key, disk, o.Bus)
	// One at a time: registering deletes images.
	r.registering.Lock()
	defer r.registering.Unlock()
	if id, err := r.User.image(ctx, name+"/"+content); err != nil || id != "" {
		return id, err
	}
	id, err := output(ctx, filepath.Join(r.programs, "image"), name, content, o.Image.Kernel, o.Image.Initrd, string(o.Bus), o.Disk)
	return strings.TrimSpace(id), err
}

// key is a hash of a disk's content.
func key(disk string) (string, error) {
	if disk == "" {
		return "blank", nil
	}
	f, err := os.Open(disk)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read from
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:8]), nil
}

// image returns the id of the image of a name; empty if there is none.
func (c *Cloud) image(ctx context.Context, name string) (string, error) {
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
