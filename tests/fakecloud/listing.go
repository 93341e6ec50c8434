package fakecloud

import (
	"cmp"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// entry is what lists filter and sort by.
type entry struct {
	id, project      string
	created, updated time.Time
	metadata         map[string]string
	fields           map[string]string // the other fields
}

// collection is a kind of thing that can be listed.
type collection[T any] struct {
	name    string // key of the list in the body
	all     iter.Seq[T]
	missing string   // text for a marker that does not exist
	filters []string // those that users may use since 3.31; others are ignored before and refused after
	view    func(T) object
	entry   func(T) entry
}

// listing answers a list request the way all of Cinder's collections do.
func listing[T any](c *Cloud, x *exchange, of collection[T]) *reply {
	p, bad := newPage(x, c.opts.ListLimit)
	if bad != nil {
		return bad
	}
	count := trueText(p.filter.Get("with_count"))
	admin := x.token.has("admin")
	if !admin {
		if bad := p.restrict(x.version, of.filters); bad != nil {
			return bad
		}
	}
	everybody := admin && trueText(p.filter.Get("all_tenants"))
	type found struct {
		entry
		thing T
	}
	var all []found
	for t := range of.all {
		if e := of.entry(t); (everybody || e.project == x.token.projectID()) && e.passes(p) {
			all = append(all, found{e, t})
		}
	}
	if bad := checkOrder(p.order); bad != nil {
		return bad
	}
	slices.SortFunc(all, func(a, b found) int { return a.compare(b.entry, p.order) })
	cutOut, more, bad := paged(p, all, func(f found) string { return f.id }, of.missing)
	if bad != nil {
		return bad
	}
	list := []object{}
	for _, f := range cutOut {
		list = append(list, of.view(f.thing))
	}
	out := object{of.name: list}
	if more != "" {
		out[of.name+"_links"] = []any{link("next", c.next(x, more))}
	}
	if x.version.since(45) && count {
		out["count"] = len(all)
	}
	return answer(http.StatusOK, out)
}

// passes tells whether the entry has what the filters want.
func (e entry) passes(p *page) bool {
	if s := p.filter.Get("metadata"); s != "" {
		want, ok := metadataFilter(s)
		if !ok {
			return false
		}
		for k, value := range want {
			if have, ok := e.metadata[k]; !ok || have != value {
				return false
			}
		}
	}
	return p.keeps(func(key string) (string, bool) { v, ok := e.fields[key]; return v, ok })
}

func checkOrder(order []sortKey) *reply {
	for _, k := range order {
		if !slices.Contains([]string{"id", "created_at", "updated_at", "name", "size", "status", "availability_zone", "volume_id"}, k.name) {
			return fault(http.StatusBadRequest, "Invalid input received: Invalid sort key")
		}
	}
	return nil
}

// compare orders by the keys and then, so that pages are stable, by time and
// ID in the last key's direction, as Cinder's database does.
func (e entry) compare(o entry, order []sortKey) int {
	last := order[len(order)-1].ascending
	for _, k := range append(order[:len(order):len(order)], sortKey{"created_at", last}, sortKey{"id", last}) {
		n := e.compareBy(o, k.name)
		switch {
		case n == 0:
		case k.ascending:
			return n
		default:
			return -n
		}
	}
	return 0
}

func (e entry) compareBy(o entry, key string) int {
	switch key {
	case "id":
		return strings.Compare(e.id, o.id)
	case "created_at":
		return e.created.Compare(o.created)
	case "updated_at":
		return e.updated.Compare(o.updated)
	case "size":
		a, _ := strconv.Atoi(e.fields[key])
		b, _ := strconv.Atoi(o.fields[key])
		return cmp.Compare(a, b)
	}
	return strings.Compare(e.fields[key], o.fields[key])
}

func (c *Cloud) listVolumes(x *exchange) *reply {
	full := x.route.call == ListVolumeDetail
	filters := []string{"name", "status", "bootable", "migration_status", "availability_zone", "group_id", "size", "created_at", "updated_at", "consumes_quota"}
	if !c.opts.NoMetadataFilter {
		filters = append(filters, "metadata")
	}
	return listing(c, x, collection[*volume]{
		name: "volumes", all: maps.Values(c.volumes), missing: "Volume %s could not be found.",
		filters: filters,
		view: func(v *volume) object {
			if full {
				return c.volumeView(x, v)
			}
			return object{"id": v.ID, "name": textOrNull(v.Name), "links": c.links(x, "volumes", v.ID)}
		},
		entry: func(v *volume) entry {
			return entry{
				id: v.ID, project: v.projectID, created: v.created, updated: v.updated, metadata: v.Metadata,
				fields: map[string]string{"name": v.Name, "status": v.Status, "availability_zone": v.Zone, "size": itoa(v.Size), "bootable": "false"},
			}
		},
	})
}
