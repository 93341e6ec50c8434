package fakecloud

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// page is what a list request asks for: which, in which order, how many.
type page struct {
	limit  int
	marker string
	offset int
	order  []sortKey
	filter url.Values // what is left of the query
}

type sortKey struct {
	name      string
	ascending bool
}

func newPage(x *exchange, most int) (*page, *reply) {
	q := x.http.URL.Query()
	p := &page{limit: most, marker: q.Get("marker"), filter: q}
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, fault(http.StatusBadRequest, "limit param must be an integer")
		}
		if n < 0 {
			return nil, fault(http.StatusBadRequest, "limit param must be positive")
		}
		p.limit = min(n, most)
	}
	if s := q.Get("offset"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return nil, faultf(http.StatusBadRequest, "offset must be an integer")
		}
		p.offset = n
	}
	if bad := p.sorting(q); bad != nil {
		return nil, bad
	}
	for _, k := range []string{"limit", "marker", "offset", "sort", "sort_key", "sort_dir"} {
		q.Del(k)
	}
	return p, nil
}

func (p *page) sorting(q url.Values) *reply {
	if q.Has("sort") && (q.Has("sort_key") || q.Has("sort_dir")) {
		return fault(http.StatusBadRequest, "The 'sort_key' and 'sort_dir' parameters are deprecated and cannot be used with the 'sort' parameter.")
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
			return fault(http.StatusBadRequest, "Invalid input received: Unknown sort direction, must be 'desc' or 'asc'.")
		}
		p.order = append(p.order, sortKey{name, dir == "asc"})
	}
	return nil
}

// restrict leaves the filters that users may use. Others are refused since 3.31;
// before, they are ignored. Only those by metadata can be taken from users here.
func (p *page) restrict(version microversion, filters []string) *reply {
	if version.since(31) {
		return p.reject(filters...)
	}
	if !slices.Contains(filters, "metadata") {
		p.filter.Del("metadata")
	}
	return nil
}

// reject refuses filters that are not known, as Cinder does since 3.31.
func (p *page) reject(known ...string) *reply {
	var bad []string
	for k := range p.filter {
		if !slices.Contains(known, k) && k != "all_tenants" && k != "with_count" {
			bad = append(bad, k)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	slices.Sort(bad)
	return faultf(http.StatusBadRequest, "Invalid filters %s are found in query options.", strings.Join(bad, ","))
}

// keeps tells whether a thing passes the filters; field gives its value for a
// filter, or false for a filter that is ignored.
func (p *page) keeps(field func(key string) (string, bool)) bool {
	for k := range p.filter {
		if have, known := field(k); known && have != p.filter.Get(k) {
			return false
		}
	}
	return true
}

// paged cuts the page out of the sorted list. more is the marker of the next
// page; it is given whenever the page is full, as Cinder does.
func paged[T any](p *page, sorted []T, id func(T) string, missing string) (cutOut []T, more string, bad *reply) {
	if p.marker != "" {
		i := slices.IndexFunc(sorted, func(t T) bool { return id(t) == p.marker })
		if i < 0 {
			return nil, "", faultf(http.StatusNotFound, missing, p.marker)
		}
		sorted = sorted[i+1:]
	}
	sorted = sorted[min(p.offset, len(sorted)):]
	if len(sorted) >= p.limit {
		sorted = sorted[:p.limit]
	}
	if len(sorted) > 0 && len(sorted) == p.limit {
		more = id(sorted[len(sorted)-1])
	}
	return sorted, more, nil
}

// metadataFilter reads {'key': 'value'} as a client writes it in a query, in
// Python's or JSON's notation. ok is false for anything else.
func metadataFilter(s string) (want map[string]string, ok bool) {
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
