package fakecloud

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
)

// volumeFilters are those that Cinder's resource_filters.json allows.
func volumeFilters() []string {
	return []string{"name", "status", "metadata", "bootable", "migration_status", "availability_zone", "group_id", "size", "created_at", "updated_at", "consumes_quota"}
}

func (c *Cloud) listVolumes(x *exchange) *reply {
	p, bad := newPage(x, c.opts.ListLimit)
	if bad != nil {
		return bad
	}
	count := p.filter.Get("with_count")
	if x.version.since(31) && !x.token.has("admin") {
		if bad := p.reject(volumeFilters()...); bad != nil {
			return bad
		}
	}
	all := x.token.has("admin") && trueText(p.filter.Get("all_tenants"))
	var found []*volume
	for _, v := range c.volumes {
		if (all || v.projectID == x.token.projectID()) && v.passes(p) {
			found = append(found, v)
		}
	}
	total := len(found)
	if bad := sortVolumes(found, p.order); bad != nil {
		return bad
	}
	cutOut, more, bad := paged(p, found, func(v *volume) string { return v.ID }, "Volume %s could not be found.")
	if bad != nil {
		return bad
	}
	detail := x.route.call == ListVolumeDetail
	list := []object{}
	for _, v := range cutOut {
		if detail {
			list = append(list, c.volumeView(x, v))
			continue
		}
		list = append(list, object{"id": v.ID, "name": textOrNull(v.Name), "links": c.links(x, "volumes", v.ID)})
	}
	out := object{"volumes": list}
	if more != "" {
		out["volumes_links"] = []any{link("next", c.next(x, more))}
	}
	if x.version.since(45) && trueText(count) {
		out["count"] = total
	}
	return answer(http.StatusOK, out)
}

// passes tells whether the volume has what the filters want.
func (v *volume) passes(p *page) bool {
	if s := p.filter.Get("metadata"); s != "" {
		want, ok := metadataFilter(s)
		if !ok {
			return false
		}
		for k, value := range want {
			if have, ok := v.Metadata[k]; !ok || have != value {
				return false
			}
		}
	}
	return p.keeps(func(key string) (string, bool) {
		switch key {
		case "name":
			return v.Name, true
		case "status":
			return v.Status, true
		case "availability_zone":
			return v.Zone, true
		case "size":
			return itoa(v.Size), true
		case "bootable":
			return "false", true
		}
		return "", false
	})
}

// sortVolumes orders by the keys and then, so that pages are stable, by time
// and ID.
func sortVolumes(list []*volume, order []sortKey) *reply {
	compare := map[string]func(a, b *volume) int{
		"id":                func(a, b *volume) int { return strings.Compare(a.ID, b.ID) },
		"name":              func(a, b *volume) int { return strings.Compare(a.Name, b.Name) },
		"size":              func(a, b *volume) int { return cmp.Compare(a.Size, b.Size) },
		"status":            func(a, b *volume) int { return strings.Compare(a.Status, b.Status) },
		"created_at":        func(a, b *volume) int { return a.created.Compare(b.created) },
		"updated_at":        func(a, b *volume) int { return a.updated.Compare(b.updated) },
		"availability_zone": func(a, b *volume) int { return strings.Compare(a.Zone, b.Zone) },
	}
	for _, k := range order {
		if compare[k.name] == nil {
			return fault(http.StatusBadRequest, "Invalid input received: Sort key supplied was not valid.")
		}
	}
	last := order[len(order)-1].ascending
	order = append(slices.Clone(order), sortKey{"created_at", last}, sortKey{"id", last})
	slices.SortFunc(list, func(a, b *volume) int {
		for _, k := range order {
			n := compare[k.name](a, b)
			if n == 0 {
				continue
			}
			if k.ascending {
				return n
			}
			return -n
		}
		return 0
	})
	return nil
}
