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

// entry has the fields of an object by which lists filter and sort.
type entry struct {
	id, project      string
	created, updated time.Time
	metadata         map[string]string
	fields           map[string]string // all other fields
}

// collection is a kind of object that Cinder lists.
type collection[T any] struct {
	name     string // key of the list in the body
	all      iter.Seq[T]
	notFound string   // format of the error for a marker that is not in the list
	filters  []string // allowed to users: see checkUserFilters
	view     func(T) object
	entry    func(T) entry
}

// answerList answers a list request of volumes, snapshots or backups as Cinder does.
func answerList[T any](c *Cloud, x *exchange, of collection[T]) *reply {
	p, refusal := parsePage(x, c.opts.ListLimit)
	if refusal != nil {
		return refusal
	}
	count := isTrue(p.filter.Get("with_count"))
	admin := x.token.hasRole("admin")
	if !admin {
		if refusal := p.checkUserFilters(x.version, of.filters); refusal != nil {
			return refusal
		}
	}
	allProjects := admin && isTrue(p.filter.Get("all_tenants"))
	type item struct {
		entry
		object T
	}
	var all []item
	for t := range of.all {
		if e := of.entry(t); (allProjects || e.project == x.token.projectID()) && e.matches(p) {
			all = append(all, item{e, t})
		}
	}
	if refusal := checkSortKeys(p.order); refusal != nil {
		return refusal
	}
	slices.SortFunc(all, func(a, b item) int { return a.compare(b.entry, p.order) })
	shown, nextMarker, refusal := cutPage(p, all, func(i item) string { return i.id }, of.notFound)
	if refusal != nil {
		return refusal
	}
	list := []object{}
	for _, i := range shown {
		list = append(list, of.view(i.object))
	}
	body := c.newListBody(x, of.name, of.name+"_links", list, nextMarker)
	if x.version.isAtLeast(45) && count {
		body["count"] = len(all)
	}
	return newReply(http.StatusOK, body)
}

// matches reports whether the entry passes the filters of the page.
func (e entry) matches(p *page) bool {
	if s := p.filter.Get("metadata"); s != "" {
		want, ok := parseMetadataFilter(s)
		if !ok {
			return false
		}
		for k, value := range want {
			if have, ok := e.metadata[k]; !ok || have != value {
				return false
			}
		}
	}
	return p.matches(e.fields)
}

// checkSortKeys refuses keys by which Cinder cannot sort.
func checkSortKeys(order []sortKey) *reply {
	for _, k := range order {
		known := []string{
			"id", "created_at", "updated_at", "name", "size", "status", "availability_zone", "volume_id",
		}
		if !slices.Contains(known, k.name) {
			return apiError(http.StatusBadRequest, "Invalid input received: Invalid sort key")
		}
	}
	return nil
}

// compare orders by the keys. Equal entries are ordered by time and ID in the direction of the last
// key, as in Cinder's database, so that pages are stable.
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
	filters := []string{
		"name", "status", "bootable", "migration_status", "availability_zone", "group_id", "size", "created_at",
		"updated_at", "consumes_quota",
	}
	if !c.opts.NoMetadataFilter {
		filters = append(filters, "metadata")
	}
	return answerList(c, x, collection[*volume]{
		name: "volumes", all: maps.Values(c.volumes), notFound: "Volume %s could not be found.",
		filters: filters,
		view: func(v *volume) object {
			if full {
				return c.volumeView(x, v)
			}
			return object{"id": v.ID, "name": textOrNull(v.Name), "links": c.resourceLinks(x, "volumes", v.ID)}
		},
		entry: func(v *volume) entry {
			return entry{
				id: v.ID, project: v.projectID, created: v.created, updated: v.updated, metadata: v.Metadata,
				fields: map[string]string{
					"name": v.Name, "status": v.Status, "availability_zone": v.Zone, "size": strconv.Itoa(v.Size),
					"bootable": "false",
				},
			}
		},
	})
}
