package fakecloud

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// page is the query of a list request: which objects, in which order, how many.
type page struct {
	maxItems int
	marker   string
	offset   int
	order    []sortKey
	filter   url.Values // filters: the query without the fields above
}

// sortKey is one field of the order.
type sortKey struct {
	name      string
	ascending bool
}

// parsePage reads the query of a list request. maxItems bounds the items of one page
// (osapi_max_limit of Cinder and Nova). parsePage refuses malformed limits, offsets and orders.
func parsePage(x *exchange, maxItems int) (*page, *reply) {
	q := x.http.URL.Query()
	p := &page{maxItems: maxItems, marker: q.Get("marker"), filter: q}
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, apiError(http.StatusBadRequest, "limit param must be an integer")
		}
		if n < 0 {
			return nil, apiError(http.StatusBadRequest, "limit param must be positive")
		}
		p.maxItems = min(n, maxItems)
	}
	if s := q.Get("offset"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return nil, apiErrorf(http.StatusBadRequest, "offset must be an integer")
		}
		p.offset = n
	}
	if refusal := p.parseSorting(q); refusal != nil {
		return nil, refusal
	}
	for _, k := range []string{"limit", "marker", "offset", "sort", "sort_key", "sort_dir"} {
		q.Del(k)
	}
	return p, nil
}

// parseSorting reads the order: sort=key:direction,… or the deprecated sort_key and sort_dir.
// Without either the newest objects come first.
func (p *page) parseSorting(q url.Values) *reply {
	if q.Has("sort") && (q.Has("sort_key") || q.Has("sort_dir")) {
		return apiError(http.StatusBadRequest,
			"The 'sort_key' and 'sort_dir' parameters are deprecated and cannot be used with the 'sort' parameter.")
	}
	spec := q.Get("sort")
	if spec == "" {
		spec = "created_at"
		if q.Has("sort_key") {
			spec = q.Get("sort_key")
		}
		if q.Has("sort_dir") {
			spec += ":" + q.Get("sort_dir")
		}
	}
	for part := range strings.SplitSeq(spec, ",") {
		name, dir, _ := strings.Cut(strings.TrimSpace(part), ":")
		if dir != "" && dir != "asc" && dir != "desc" {
			return apiError(http.StatusBadRequest, "Invalid input received: Unknown sort direction, must be 'desc' or 'asc'.")
		}
		p.order = append(p.order, sortKey{name, dir == "asc"})
	}
	return nil
}

// checkUserFilters checks the filters of a user who is not an administrator. Since 3.31 Cinder
// refuses filters that resource_filters.json does not list; before, Cinder ignores them. Of the
// ignored filters only metadata would have an effect here.
func (p *page) checkUserFilters(version microversion, filters []string) *reply {
	if version.isAtLeast(31) {
		return p.checkFilters(filters...)
	}
	if !slices.Contains(filters, "metadata") {
		p.filter.Del("metadata")
	}
	return nil
}

// checkFilters refuses filters that are not known, as Cinder does since 3.31.
func (p *page) checkFilters(known ...string) *reply {
	var unknown []string
	for k := range p.filter {
		if !slices.Contains(known, k) && k != "all_tenants" && k != "with_count" {
			unknown = append(unknown, k)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	return apiErrorf(http.StatusBadRequest, "Invalid filters %s are found in query options.", strings.Join(unknown, ","))
}

// matches reports whether an object with these fields passes the filters. Filters by other fields
// are ignored.
func (p *page) matches(fields map[string]string) bool {
	for k := range p.filter {
		if value, ok := fields[k]; ok && value != p.filter.Get(k) {
			return false
		}
	}
	return true
}

// cutPage returns the page of the sorted list, and the marker of the next page if the page is full:
// like Cinder, cutPage does not check whether objects follow. notFound is the text of the error for
// a marker that is not in the list.
func cutPage[T any](
	p *page, sorted []T, id func(T) string, notFound string,
) (shown []T, nextMarker string, refusal *reply) {
	if p.marker != "" {
		i := slices.IndexFunc(sorted, func(t T) bool { return id(t) == p.marker })
		if i < 0 {
			return nil, "", apiErrorf(http.StatusNotFound, notFound, p.marker)
		}
		sorted = sorted[i+1:]
	}
	sorted = sorted[min(p.offset, len(sorted)):]
	if len(sorted) >= p.maxItems {
		sorted = sorted[:p.maxItems]
	}
	if len(sorted) > 0 && len(sorted) == p.maxItems {
		nextMarker = id(sorted[len(sorted)-1])
	}
	return sorted, nextMarker, nil
}

// nextPageURL returns the URL of the page after the one that ends with marker.
func (c *Cloud) nextPageURL(x *exchange, marker string) string {
	q := x.http.URL.Query()
	q.Set("marker", marker)
	return c.url + strings.TrimSuffix(x.http.URL.Path, "/") + "?" + q.Encode()
}

// newListBody returns the body of the answer to a list request: the objects of the page and, if
// there is a next page, its URL.
func (c *Cloud) newListBody(x *exchange, name, linksName string, list []object, nextMarker string) object {
	body := object{name: list}
	if nextMarker != "" {
		body[linksName] = []any{link("next", c.nextPageURL(x, nextMarker))}
	}
	return body
}

// parseMetadataFilter reads the filter {'key': 'value'} in the notation of Python or JSON. ok is
// false if s is anything else.
func parseMetadataFilter(s string) (want map[string]string, ok bool) {
	s = strings.TrimSpace(s)
	if !strings.HasPrefix(s, "{") || !strings.HasSuffix(s, "}") {
		return nil, false
	}
	var words []string
	for rest := s[1 : len(s)-1]; ; {
		i := strings.IndexAny(rest, `'"`)
		if i < 0 {
			break
		}
		end := strings.IndexByte(rest[i+1:], rest[i])
		if end < 0 {
			return nil, false
		}
		words = append(words, rest[i+1:i+1+end])
		rest = rest[i+end+2:]
	}
	if len(words)%2 != 0 {
		return nil, false
	}
	want = map[string]string{}
	for i := 0; i < len(words); i += 2 {
		want[words[i]] = words[i+1]
	}
	return want, true
}
