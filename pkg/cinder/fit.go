package cinder

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

const remedyMultiattach = "use a volume type with the extra spec multiattach=\"<is> True\" in the class"

// shared tells whether a volume is to be used on several nodes at once.
func shared(accesses []volume.Access) bool {
	return slices.ContainsFunc(accesses, func(a volume.Access) bool { return a.Mode.MultiNode() })
}

// shareable refuses what cannot be attached to several servers: volumes are what
// their type says, which is that of the source if the class names none.
func (k creation) shareable(ctx context.Context, from cloud.NewVolume) error {
	if err := k.cloud.Supports(cloud.Multiattach); err != nil {
		return volume.Errorf(volume.Invalid, "the volume is to be used on several nodes: %w", err)
	}
	origin := from.SourceVolumeID
	if from.SnapshotID != "" {
		s, err := k.cloud.Snapshot(ctx, from.SnapshotID)
		if err != nil {
			return err
		}
		origin = s.VolumeID
	}
	if k.want.volType == "" && origin != "" {
		v, err := k.cloud.Volume(ctx, origin)
		if err == nil && !v.Multiattach {
			err = volume.Errorf(volume.Invalid, "the volume is to be used on several nodes, and its source has the type %q, whose volumes may not be", v.Type).
				WithRemedy(remedyMultiattach)
		}
		return err
	}
	t, err := k.typeNamed(ctx, k.cloud, k.want.volType)
	if err != nil {
		return err
	}
	if !t.Multiattach {
		return volume.Errorf(volume.Invalid, "the volume is to be used on several nodes, and volumes of the type %q may not be", t.Name).
			WithRemedy(remedyMultiattach)
	}
	return nil
}

// existing answers a repeated creation: the volume of the name is the one that
// was asked for, or another.
func (k creation) existing(ctx context.Context, v cloud.Volume) (cloud.Volume, error) {
	why := ""
	switch {
	case v.Size() < k.req.Range.Required:
		why = fmt.Sprintf("has %s, below the %s required", v.Size(), k.req.Range.Required)
	case k.req.Range.Limit > 0 && v.Size() > k.req.Range.Limit:
		why = fmt.Sprintf("has %s, above the limit %s", v.Size(), k.req.Range.Limit)
	case source(v) != k.req.Source:
		why = "was made from another source"
	case k.want.volType != "":
		same, err := k.sameType(ctx, k.cloud, v, k.want.volType)
		if err != nil {
			return v, err
		}
		if !same {
			why = fmt.Sprintf("has the type %s, not %s", v.Type, k.want.volType)
		}
	}
	if why != "" {
		return v, volume.Errorf(volume.AlreadyExists, "the volume %s of this name exists and %s", v.ID, why).
			WithRemedy("use another name, or delete the volume")
	}
	if settled(v) && k.place.fits(v.Zone) && (v.Multiattach || !shared(k.req.Accesses)) {
		return v, k.mark(ctx, v) // as read just now
	}
	return k.finish(ctx, v, false)
}

// resolve turns ids or names of volumes into ids.
func (k creation) resolve(ctx context.Context, items []string) ([]string, error) {
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
			return nil, volume.Errorf(volume.Invalid, "the parameters %s and %s name the volume %q, which does not exist", paramNear, paramFar, item).
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
