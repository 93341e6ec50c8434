package cloud

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// VolumeType is a kind of volume that the cloud offers.
type VolumeType struct {
	ID, Name       string
	Multiattach    bool // its volumes may be attached to several servers
	MinGiB, MaxGiB int  // bounds of the volumes' size; 0: none, or hidden (only administrators see them)
}

type wireType struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	ExtraSpecs map[string]string `json:"extra_specs"`
}

func (w wireType) volumeType() VolumeType {
	bound := func(key string) int {
		n, err := strconv.Atoi(strings.TrimSpace(w.ExtraSpecs[key]))
		if err != nil || n < 0 {
			return 0
		}
		return n
	}
	return VolumeType{
		ID: w.ID, Name: w.Name,
		Multiattach: strings.EqualFold(strings.TrimSpace(strings.TrimPrefix(w.ExtraSpecs["multiattach"], "<is>")), "true"),
		MinGiB:      bound("provisioning:min_vol_size"), MaxGiB: bound("provisioning:max_vol_size"),
	}
}

// VolumeTypes lists the types that the project may use.
func (c *Cloud) VolumeTypes(ctx context.Context) ([]VolumeType, error) {
	var types []VolumeType
	for marker := ""; ; {
		var answer struct {
			Types []wireType `json:"volume_types"`
			Links []link     `json:"volume_type_links"`
		}
		err := c.do(ctx, call{
			service: blockStorage, name: "type_list", what: "listing the volume types",
			method: "GET", path: query("types", url.Values{"marker": {marker}}), into: &answer, key: "volume_types",
		})
		if err != nil {
			return nil, err
		}
		for _, t := range answer.Types {
			types = append(types, t.volumeType())
		}
		if !more(answer.Links) || len(answer.Types) == 0 {
			return types, nil
		}
		marker = answer.Types[len(answer.Types)-1].ID
	}
}

// DefaultVolumeType is the type of volumes that are asked for without one. Kind
// NotFound: the cloud has none.
func (c *Cloud) DefaultVolumeType(ctx context.Context) (VolumeType, error) {
	var answer struct {
		Type wireType `json:"volume_type"`
	}
	err := c.do(ctx, call{
		service: blockStorage, name: "type_default", what: "reading the default volume type",
		method: "GET", path: "types/default", into: &answer, key: "volume_type",
		objects: []string{"default"}, // "Default volume type can not be found."
	})
	return answer.Type.volumeType(), err
}

// Message is why an operation that Cinder had accepted came to nothing.
type Message struct {
	Event   string // what failed, as a code of Cinder's
	Detail  string // why, as a code of Cinder's ("003": no backend fits); empty: not told
	Text    string // the same for people
	Created time.Time
}

// Messages reads the messages about a volume, newest first.
func (c *Cloud) Messages(ctx context.Context, volumeID string) ([]Message, error) {
	if !known(volumeID) {
		return nil, unknown("volume", volumeID)
	}
	var answer struct {
		Messages []struct {
			Event    string `json:"event_id"`
			Text     string `json:"user_message"`
			Created  stamp  `json:"created_at"`
			Resource string `json:"resource_uuid"`
		} `json:"messages"`
	}
	k := call{
		service: blockStorage, name: "message_list", what: "reading the messages about volume " + volumeID,
		method: "GET", path: "messages", into: &answer, key: "messages", needs: FeatureMessages.need(),
	}
	// Only later versions can select; 3.3 lists those of the whole project.
	if k.version = c.best(ctx, microversion{3, 5}); !k.version.isZero() {
		k.path = query(k.path, url.Values{"resource_uuid": {volumeID}, "sort": {"created_at:desc"}})
	}
	err := c.do(ctx, k)
	if err != nil {
		return nil, err
	}
	var ms []Message
	for _, m := range answer.Messages {
		if strings.EqualFold(m.Resource, volumeID) {
			ms = append(ms, Message{
				Event: m.Event, Detail: detail(m.Event), Text: m.Text, Created: time.Time(m.Created),
			})
		}
	}
	slices.SortStableFunc(ms, func(a, b Message) int { return b.Created.Compare(a.Created) })
	return ms, nil
}

// detail takes the last part of an event id: VOLUME_VOLUME_007_003 is the
// action 007 (extend) and the detail 003.
func detail(event string) string {
	parts := strings.Split(event, "_")
	return parts[len(parts)-1]
}

// Limits is what the project may have and has. -1: without limit, or not told.
type Limits struct {
	MaxVolumes, Volumes int
	MaxGiB, GiB         int
	MaxVolumeGiB        int // of one volume
}

// Limits reads the quota of the project and its use. The limit of one volume's
// size is in the quota set, which a policy may hide; it is -1 then.
func (c *Cloud) Limits(ctx context.Context) (Limits, error) {
	var answer struct {
		Limits struct {
			Absolute struct {
				MaxVolumes *int `json:"maxTotalVolumes"`
				Volumes    *int `json:"totalVolumesUsed"`
				MaxGiB     *int `json:"maxTotalVolumeGigabytes"`
				GiB        *int `json:"totalGigabytesUsed"`
			} `json:"absolute"`
		} `json:"limits"`
	}
	err := c.do(ctx, call{
		service: blockStorage, name: "limits_get", what: "reading the limits of the project", method: "GET", path: "limits",
		into: &answer, key: "limits",
	})
	if err != nil {
		return Limits{}, err
	}
	told := func(n *int) int {
		if n == nil {
			return -1
		}
		return *n
	}
	a := answer.Limits.Absolute
	l := Limits{
		MaxVolumes: told(a.MaxVolumes), Volumes: told(a.Volumes), MaxGiB: told(a.MaxGiB), GiB: told(a.GiB),
	}
	l.MaxVolumeGiB, err = c.maxVolumeGiB(ctx)
	return l, err
}

func (c *Cloud) maxVolumeGiB(ctx context.Context) (int, error) {
	conn, err := c.connection(ctx)
	if err != nil {
		return -1, err
	}
	if !known(conn.project) {
		return -1, nil
	}
	var answer struct {
		Quota struct {
			PerVolume int `json:"per_volume_gigabytes"`
		} `json:"quota_set"`
	}
	answer.Quota.PerVolume = -1
	err = c.do(ctx, call{
		service: blockStorage, name: "quota_get", what: "reading the largest size of a volume",
		method: "GET", path: "os-quota-sets/" + conn.project, into: &answer, key: "quota_set",
	})
	if volume.IsKind(err, volume.KindDenied) || isNoRoute(err) {
		return -1, nil
	}
	return answer.Quota.PerVolume, err
}

// Zones lists the availability zones of the block storage that are in service.
func (c *Cloud) Zones(ctx context.Context) ([]string, error) {
	var answer struct {
		Zones []struct {
			Name  string `json:"zoneName"`
			State struct {
				Available bool `json:"available"`
			} `json:"zoneState"`
		} `json:"availabilityZoneInfo"`
	}
	err := c.do(ctx, call{
		service: blockStorage, name: "zone_list", what: "listing the availability zones",
		method: "GET", path: "os-availability-zone", into: &answer, key: "availabilityZoneInfo",
	})
	if err != nil {
		return nil, err
	}
	var zones []string
	for _, z := range answer.Zones {
		if z.State.Available {
			zones = append(zones, z.Name)
		}
	}
	slices.Sort(zones)
	return zones, nil
}

// sortedKeys returns the keys of a map in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
