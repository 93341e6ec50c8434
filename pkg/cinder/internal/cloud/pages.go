package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/pagination"

	"github.com/growvol/growvol/pkg/volume"
)

// page is one page of a listing. As a SinglePageBase it makes gophercloud's pager stop after the
// page instead of following the link to the next page: the link could lead to another address, and
// the token would be sent there. The next page is requested with the id of the last item instead.
type page struct{ pagination.SinglePageBase }

// listPage reads one page of a listing, which is in the field key of the answer. next is the marker
// of the next page, or "" if there is none.
func listPage[T any](
	ctx context.Context, c *Cloud, call call, key string, list func(*serviceClient) pagination.Pager,
) (items []T, next string, err error) {
	call.key = key
	err = c.run(ctx, call, func(client *serviceClient) error {
		pager := list(client).WithPageCreator(func(r pagination.PageResult) pagination.Page {
			return page{pagination.SinglePageBase(r)}
		})
		onlyPage, err := pager.AllPages(ctx)
		if err != nil {
			return err
		}
		var body map[string]json.RawMessage
		items, next = nil, ""
		err = gophercloud.Result{Body: onlyPage.GetBody()}.ExtractInto(&body)
		err = errors.Join(err, json.Unmarshal(body[key], &items))
		if err != nil || len(items) == 0 || !hasNextPage(body) {
			return err
		}
		var ids []struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(body[key], &ids); err != nil {
			return err
		}
		next = ids[len(ids)-1].ID
		return nil
	})
	return items, next, err
}

// hasNextPage reports whether the links of a page lead to another one.
func hasNextPage(body map[string]json.RawMessage) bool {
	for name, raw := range body {
		var links []gophercloud.Link
		if !strings.HasSuffix(name, "_links") || json.Unmarshal(raw, &links) != nil {
			continue
		}
		if address, _ := gophercloud.ExtractNextURL(links); address != "" {
			return true
		}
	}
	return false
}

// listAll reads all pages of a listing; read reads the page after a marker.
func listAll[T any](read func(marker string) ([]T, string, error)) ([]T, error) {
	var all []T
	for marker := ""; ; {
		items, next, err := read(marker)
		if err != nil {
			return nil, err
		}
		all = append(all, items...)
		if next == "" || next == marker {
			return all, nil
		}
		marker = next
	}
}

// markerError changes err into kind Stale if it is the refusal of the marker.
func markerError(err error, marker string) error {
	isRefused := volume.IsKind(err, volume.KindNotFound) ||
		StatusCode(err) == http.StatusBadRequest && strings.Contains(strings.ToLower(err.Error()), "marker")
	if marker == "" || !isRefused {
		return err
	}
	return volume.Errorf(volume.KindStale, "cannot continue the listing after %s, which no longer exists: %w", marker, err)
}
