package cinder

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// checkPossible returns an error if the new volume could not be as demanded. It judges before the
// creation, because a copy can take longer than a call, and nobody may come back to remove it. A
// copy has the zone of its source, and also the type if the class names none.
func (k *creation) checkPossible(ctx context.Context, from content) error {
	isShared, hasPlace := isForSeveralNodes(k.req.Accesses), k.place.allowed != nil && k.want.Zone == ""
	if !isShared && !hasPlace {
		return nil
	}
	var origin *cloud.Volume // of a copy
	if from.originID != "" {
		v, err := k.cloud.Volume(ctx, from.originID)
		if err != nil {
			return err
		}
		origin = &v
	}
	if origin != nil && hasPlace && !k.place.allows(origin.AvailabilityZone) {
		return volume.Errorf(volume.KindExhausted,
			"the source is in the zone %s, where the volume would be, but the volume must be reachable from %s",
			origin.AvailabilityZone, message.JoinAtMost(k.place.allowed)).
			WithRemedy("schedule the pod to the zone of the source")
	}
	if isShared {
		return k.checkMultiattach(ctx, origin)
	}
	return nil
}

const remedyMultiattach = "use a volume type with the extra spec multiattach=\"<is> True\" in the class"

// novaTimeout bounds how long a creation waits for Nova, which has no part in it but tells early
// whether it attaches volumes to several servers.
const novaTimeout = 2 * time.Second

// checkMultiattach returns an error if the new volume could not be attached to several servers. If
// Nova does not answer, the volume is created: Attach asks again. origin is the source of a copy,
// or nil.
func (k *creation) checkMultiattach(ctx context.Context, origin *cloud.Volume) error {
	limited, cancel := context.WithTimeout(ctx, novaTimeout)
	defer cancel()
	if err := k.cloud.CheckFeature(limited, cloud.FeatureMultiattach); volume.IsKind(err, volume.KindUnsupported) {
		return volume.Errorf(volume.KindInvalid, "the volume is to be used on several nodes: %w", err)
	}
	var t cloud.VolumeType
	if k.want.Type == "" && origin != nil {
		t = cloud.VolumeType{Name: origin.VolumeType, Multiattach: origin.Multiattach}
	} else {
		var err error
		if t, err = k.catalog.Type(ctx, k.cloud, k.want.Type); err != nil {
			return err
		}
	}
	if !t.Multiattach {
		return volume.Errorf(volume.KindInvalid,
			"the volume is to be used on several nodes, but volumes of the type %q may not be", t.Name).
			WithRemedy(remedyMultiattach)
	}
	return nil
}

// useExisting returns the volume of the name when it is usable, or an error of kind AlreadyExists
// if it is not what the request asks for.
func (k *creation) useExisting(ctx context.Context, v cloud.Volume) (cloud.Volume, error) {
	difference := ""
	switch {
	case cloud.SizeOf(v) < k.req.Range.Required:
		difference = fmt.Sprintf("has %s, below the %s required", cloud.SizeOf(v), k.req.Range.Required)
	case k.req.Range.Limit > 0 && cloud.SizeOf(v) > k.req.Range.Limit:
		difference = fmt.Sprintf("has %s, above the limit %s", cloud.SizeOf(v), k.req.Range.Limit)
	case sourceOf(v) != k.req.Source:
		difference = "was made from another source"
	case isEncrypted(v) != k.req.Encrypted && !hasForeignMetadata(v):
		difference = fmt.Sprintf("was made with %s=%t, not %t", volume.EncryptedKey, isEncrypted(v), k.req.Encrypted)
	case k.want.Type != "":
		same, err := k.catalog.HasType(ctx, k.cloud, v, k.want.Type)
		if err != nil {
			return v, volume.Errorf(volume.KindOf(err),
				"it is not known whether the volume %s of the type %s has the type of the class: %w", v.ID, v.VolumeType, err)
		}
		if !same {
			difference = fmt.Sprintf("has the type %s, not %s", v.VolumeType, k.want.Type)
		}
	}
	if difference != "" {
		return v, volume.Errorf(volume.KindAlreadyExists, "the volume %s of this name exists, but %s", v.ID, difference).
			WithRemedy("use another name, or delete the volume")
	}
	if state.IsSettled(v) && k.isAsDemanded(v) {
		return v, k.restoreMetadata(ctx, v) // the lookup has just read it
	}
	return k.finish(ctx, v)
}

// resolveIDs turns ids or names of volumes into ids. Kind Invalid: there is no volume of a name.
func (k *creation) resolveIDs(ctx context.Context, items []string) ([]string, error) {
	ids := make([]string, 0, len(items))
	for _, item := range items {
		if isID(item) {
			ids = append(ids, item)
			continue
		}
		n, err := k.findByName(ctx, k.cloud, item)
		if err != nil {
			return nil, err
		}
		if !n.found {
			return nil, volume.Errorf(volume.KindInvalid, "the parameters %s and %s name the volume %q, which does not exist",
				class.ParamAffinity, class.ParamAntiAffinity, item).
				WithRemedy("name existing volumes, by id or name")
		}
		ids = append(ids, n.best.ID)
	}
	return ids, nil
}

// isID reports whether text has the form of Cinder's ids, which are UUIDs.
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
