package cinder

import (
	"context"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/duplicates"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/volume"
)

// ListVolumes implements volume.Lister: it lists the volumes of this cluster, one cloud after the
// other, and then the static volumes (statics.go). Nodes of a volume are those that Cinder shows.
//
// A token is "volume@section": continue after this volume of that section. A section is the name of
// a cloud, or staticSection.
func (b *Backend) ListVolumes(ctx context.Context, page volume.Page) ([]volume.Volume, string, error) {
	read, err := b.list(ctx, page)
	if err != nil {
		return nil, "", volume.Wrap(err, "list volumes", "")
	}
	b.countDuplicates(ctx, page.Token, read, read.next)
	out := make([]volume.Volume, 0, len(read.volumes))
	for _, v := range read.volumes {
		out = append(out, b.toVolume(v))
	}
	return out, read.next, nil
}

// staticSection is the section of the static volumes. It takes precedence over a cloud of this
// name.
const staticSection = "*"

// listPage is a page of a listing, which lies in one section.
type listPage struct {
	volumes []cloud.Volume
	section string
	next    string // token of the next page; empty: this is the last page
}

// token returns the token that continues after a volume of the page.
func (page listPage) token(id string) string { return id + "@" + page.section }

func (b *Backend) list(ctx context.Context, page volume.Page) (listPage, error) {
	clouds, err := b.locator.All(ctx)
	if err != nil {
		return listPage{}, err // callers take a volume that is not listed as detached
	}
	marker, section, ok := strings.Cut(page.Token, "@")
	if page.Token == "" {
		section, ok = clouds[0].Name(), true
	}
	if section == staticSection {
		return b.listStatics(ctx, marker, page.Max)
	}
	at := slices.IndexFunc(clouds, func(c *cloud.Cloud) bool { return c.Name() == section })
	if !ok || at < 0 {
		return listPage{}, volume.Errorf(volume.KindStale,
			"the starting token %q belongs to no listing of volumes", page.Token).
			WithRemedy("list again from the start")
	}
	request := cloud.VolumePage{Marker: marker, Limit: page.Max}
	if b.opts.ClusterID != "" {
		request.Metadata = map[string]string{metadata.Cluster: b.opts.ClusterID}
	}
	all, next, err := clouds[at].Volumes(ctx, request)
	if err != nil {
		return listPage{}, err
	}
	out := listPage{section: section}
	for _, v := range all {
		if b.isListed(v) { // some clouds ignore the filter
			out.volumes = append(out.volumes, v)
		}
	}
	switch {
	case next != "":
		out.next = out.token(next)
	case at+1 < len(clouds):
		out.next = "@" + clouds[at+1].Name()
	case b.opts.ClusterID != "" && len(b.statics.all()) > 0:
		out.next = "@" + staticSection
	}
	return out, nil
}

// isListed reports whether the listings of the clouds contain a volume: it belongs to this cluster,
// or there is no cluster id.
func (b *Backend) isListed(v cloud.Volume) bool {
	return b.opts.ClusterID == "" || v.Metadata[metadata.Cluster] == b.opts.ClusterID
}

// countDuplicates adds a page to the count of duplicates. token is the token that the page was read
// with, and next the token of the page that the caller reads next.
func (b *Backend) countDuplicates(ctx context.Context, token string, read listPage, next string) {
	page := duplicates.Page{Cloud: read.section, Volumes: read.volumes, Token: token, Next: next}
	if read.section == staticSection {
		page.Cloud = ""
	}
	b.duplicates.AddPage(ctx, page)
}
