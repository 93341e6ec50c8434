package cinder

import (
	"context"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// staticPart is the part of a token for the volumes that were not made by this
// driver; no cloud can have this name, for tokens begin with the last volume.
const staticPart = "*"

// ListVolumes implements volume.Lister: the volumes of this cluster in all
// clouds, one cloud after the other, and then those that were made by hand and
// are attached through this driver. Attachments are as Cinder knows them.
//
// A token is "volume@cloud": go on after this volume of that cloud.
func (b *Backend) ListVolumes(ctx context.Context, page volume.Page) ([]volume.Volume, string, error) {
	read, err := b.list(ctx, page)
	if err != nil {
		return nil, "", volume.Wrap(err, "list volumes", "")
	}
	b.duplicates.addPage(ctx, page.Token, read, read.next)
	out := make([]volume.Volume, 0, len(read.volumes))
	for _, v := range read.volumes {
		out = append(out, b.volume(v))
	}
	return out, read.next, nil
}

// listPage is a page of a listing as Cinder shows its volumes.
type listPage struct {
	volumes []cloud.Volume
	part    string // what tokens within this page end with: the cloud's name, or staticPart
	next    string // token of the next page
}

func (b *Backend) list(ctx context.Context, page volume.Page) (listPage, error) {
	places, err := b.places(ctx)
	if err != nil {
		return listPage{}, err // a listing without a cloud would say that its volumes are attached nowhere
	}
	marker, name, ok := strings.Cut(page.Token, "@")
	if page.Token == "" {
		name, ok = places[0].Name(), true
	}
	if name == staticPart {
		return b.listStatics(ctx, marker, page.Max)
	}
	at := slices.IndexFunc(places, func(c *cloud.Cloud) bool { return c.Name() == name })
	if !ok || at < 0 {
		return listPage{}, volume.Errorf(volume.KindStale, "the starting token %q is of no listing of volumes", page.Token).
			WithRemedy("list again from the start")
	}
	c := places[at]
	ask := cloud.VolumePage{Marker: marker, Limit: page.Max}
	if b.opts.ClusterID != "" {
		ask.Metadata = map[string]string{metaCluster: b.opts.ClusterID}
	}
	vs, next, err := c.Volumes(ctx, ask)
	if err != nil {
		return listPage{}, err
	}
	out := listPage{part: name}
	for _, v := range vs {
		// A cloud that ignores the filter must not show other clusters' volumes.
		if b.opts.ClusterID == "" || v.Metadata[metaCluster] == b.opts.ClusterID {
			out.volumes = append(out.volumes, v)
		}
	}
	switch {
	case next != "":
		out.next = next + "@" + name
	case at+1 < len(places):
		out.next = "@" + places[at+1].Name()
	case b.opts.ClusterID != "" && b.anyStatic():
		out.next = "@" + staticPart
	}
	return out, nil
}
