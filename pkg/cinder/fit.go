package cinder

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

const remedyMultiattach = "use a volume type with the extra spec multiattach=\"<is> True\" in the class"

// shared tells whether a volume is to be used on several nodes at once.
func shared(accesses []volume.Access) bool {
	return slices.ContainsFunc(accesses, func(a volume.Access) bool { return a.Mode.IsMultiNode() })
}

// possible refuses what the new volume could not be, before it is made: a copy
// can take longer than a call, and nobody might come back to remove it. A copy
// has the zone of its source, and the type if the class names none.
func (k *creation) possible(ctx context.Context, from cloud.NewVolume) error {
	several, placed := shared(k.req.Accesses), k.place.allowed != nil && k.want.zone == ""
	if !several && !placed {
		return nil
	}
	origin, copied, err := k.origin(ctx, from)
	switch {
	case err != nil:
		return err
	case copied && placed && !k.place.fits(origin.AvailabilityZone):
		return volume.Errorf(volume.KindExhausted, "the source is in the zone %s, as the volume would be, which has to be reachable from %s", origin.AvailabilityZone, few(k.place.allowed)).
			WithRemedy("schedule the pod to the zone of the source")
	case several:
		return k.shareable(ctx, origin, copied)
	}
	return nil
}

// origin is the volume that a copy comes from, if it is one.
func (k *creation) origin(ctx context.Context, from cloud.NewVolume) (v cloud.Volume, copied bool, err error) {
	id := from.SourceVolID
	if from.SnapshotID != "" {
		s, err := k.cloud.Snapshot(ctx, from.SnapshotID)
		if err != nil {
			return v, false, err
		}
		id = s.VolumeID
	}
	if id == "" {
		return v, false, nil
	}
	v, err = k.cloud.Volume(ctx, id)
	return v, true, err
}

// novaTimeout bounds how long a creation waits for Nova, which has no part in it
// but tells early that the volume could not be shared.
const novaTimeout = 2 * time.Second

// shareable refuses what cannot be attached to several servers. While Nova does
// not tell whether it can, the volume is made: Attach asks again.
func (k *creation) shareable(ctx context.Context, origin cloud.Volume, copied bool) error {
	limited, cancel := context.WithTimeout(ctx, novaTimeout)
	defer cancel()
	if err := k.cloud.CheckFeature(limited, cloud.FeatureMultiattach); volume.IsKind(err, volume.KindUnsupported) {
		return volume.Errorf(volume.KindInvalid, "the volume is to be used on several nodes: %w", err)
	}
	name, can := origin.VolumeType, origin.Multiattach
	if k.want.volType != "" || !copied {
		t, err := k.typeNamed(ctx, k.cloud, k.want.volType)
		if err != nil {
			return err
		}
		name, can = t.Name, t.Multiattach
	}
	if !can {
		return volume.Errorf(volume.KindInvalid, "the volume is to be used on several nodes, and volumes of the type %q may not be", name).WithRemedy(remedyMultiattach)
	}
	return nil
}

// existing answers a repeated creation: the volume of the name is the one that
// was asked for, or another.
func (k *creation) existing(ctx context.Context, v cloud.Volume) (cloud.Volume, error) {
	why := ""
	switch {
	case cloud.SizeOf(v) < k.req.Range.Required:
		why = fmt.Sprintf("has %s, below the %s required", cloud.SizeOf(v), k.req.Range.Required)
	case k.req.Range.Limit > 0 && cloud.SizeOf(v) > k.req.Range.Limit:
		why = fmt.Sprintf("has %s, above the limit %s", cloud.SizeOf(v), k.req.Range.Limit)
	case source(v) != k.req.Source:
		why = "was made from another source"
	case encrypted(v) != k.req.Encrypted && !overwritten(v):
		why = fmt.Sprintf("was made with %s=%t, not %t", volume.EncryptedKey, encrypted(v), k.req.Encrypted)
	case k.want.volType != "":
		same, err := k.sameType(ctx, k.cloud, v, k.want.volType)
		if err != nil {
			return v, volume.Errorf(volume.KindOf(err), "whether the volume %s, of the type %s, has the type asked for cannot be told: %w", v.ID, v.VolumeType, err)
		}
		if !same {
			why = fmt.Sprintf("has the type %s, not %s", v.VolumeType, k.want.volType)
		}
	}
	if why != "" {
		return v, volume.Errorf(volume.KindAlreadyExists, "the volume %s of this name exists and %s", v.ID, why).
			WithRemedy("use another name, or delete the volume")
	}
	if settled(v) && k.place.fits(v.AvailabilityZone) && (v.Multiattach || !shared(k.req.Accesses)) {
		return v, k.mark(ctx, v) // as read just now
	}
	return k.finish(ctx, v)
}

// resolve turns ids or names of volumes into ids.
func (k *creation) resolve(ctx context.Context, items []string) ([]string, error) {
	ids := make([]string, 0, len(items))
	for _, item := range items {
		if isID(item) {
			ids = append(ids, item)
			continue
		}
		n, err := k.named(ctx, k.cloud, item)
		if err != nil {
			return nil, err
		}
		if !n.found {
			return nil, volume.Errorf(volume.KindInvalid, "the parameters %s and %s name the volume %q, which does not exist", paramNear, paramFar, item).
				WithRemedy("name existing volumes, by id or name")
		}
		ids = append(ids, n.best.ID)
	}
	return ids, nil
}

// isID tells whether a text has the form of Cinder's ids, UUIDs.
func isID(text string) bool {
	const form = "00000000-0000-0000-0000-000000000000"
	if len(text) != len(form) {
		return false
	}
	for i, r := range text {
		if (form[i] == '-') != (r == '-') || r != '-' && !strings.ContainsRune("0123456789abcdefABCDEF", r) {
			return false
		}
	}
	return true
}
