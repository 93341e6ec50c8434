package cinder

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// checkFeasible returns an error if no volume can meet the request. It runs before the creation,
// because a copy may outlast the call, and a wrong copy would be left behind. A copy gets the zone
// of its source, and also the type if the class names none.
func (k *creation) checkFeasible(ctx context.Context, from source) error {
	isShared := isForSeveralNodes(k.req.Accesses)
	isZoneConstrained := k.zones.allowed != nil && k.want.Zone == ""
	if !isShared && !isZoneConstrained {
		return nil
	}
	var origin *cloud.Volume
	if from.originID != "" {
		v, err := k.cloud.Volume(ctx, from.originID)
		if err != nil {
			return err
		}
		origin = &v
	}
	if origin != nil && isZoneConstrained && !k.zones.allows(origin.AvailabilityZone) {
		return volume.Errorf(volume.KindExhausted,
			"a copy must be in the zone of its source, %s, but the request allows only %s",
			origin.AvailabilityZone, message.JoinAtMost(k.zones.allowed)).
			WithRemedy("schedule the pod to the zone " + origin.AvailabilityZone)
	}
	if isShared {
		return k.checkMultiattach(ctx, origin)
	}
	return nil
}

const remedyMultiattach = "set a volume type in the StorageClass whose extra spec multiattach is \"<is> True\""

// novaTimeout bounds the wait for Nova's versions in a creation, which works without them.
const novaTimeout = 2 * time.Second

// checkMultiattach returns an error if the new volume could not be attached to several servers. It
// ignores every error about Nova's support except Unsupported: Attach checks that again. origin is
// the source of a copy, or nil.
func (k *creation) checkMultiattach(ctx context.Context, origin *cloud.Volume) error {
	limited, cancel := context.WithTimeout(ctx, novaTimeout)
	defer cancel()
	if err := k.cloud.CheckFeature(limited, cloud.FeatureMultiattach); volume.IsKind(err, volume.KindUnsupported) {
		return volume.Errorf(volume.KindInvalid, "the claim needs several nodes: %w", err)
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
			"the claim needs several nodes, but volume type %q does not allow multiattach", t.Name).
			WithRemedy(remedyMultiattach)
	}
	return nil
}

// useExisting returns an existing volume of the requested name when it is usable. Kind
// AlreadyExists: the volume differs from the request.
func (k *creation) useExisting(ctx context.Context, v cloud.Volume) (cloud.Volume, error) {
	difference := ""
	switch {
	case cloud.SizeOf(v) < k.req.Range.Required:
		difference = fmt.Sprintf("has %s, below the required %s", cloud.SizeOf(v), k.req.Range.Required)
	case k.req.Range.Limit > 0 && cloud.SizeOf(v) > k.req.Range.Limit:
		difference = fmt.Sprintf("has %s, above the limit %s", cloud.SizeOf(v), k.req.Range.Limit)
	case sourceOf(v) != k.req.Source:
		difference = "has another source"
	case isEncrypted(v) != k.req.Encrypted && !hasForeignMetadata(v):
		difference = fmt.Sprintf("has %s=%t, but the request has %t", volume.EncryptedKey, isEncrypted(v), k.req.Encrypted)
	case k.want.Type != "":
		same, err := k.catalog.HasType(ctx, k.cloud, v, k.want.Type)
		if err != nil {
			return v, volume.Errorf(volume.KindOf(err),
				"cannot check whether volume %s (type %q) has the type %q that the StorageClass requests: %w",
				v.ID, v.VolumeType, k.want.Type, err)
		}
		if !same {
			difference = fmt.Sprintf("has the type %s, but the request has %s", v.VolumeType, k.want.Type)
		}
	}
	if difference != "" {
		return v, volume.Errorf(volume.KindAlreadyExists, "volume %s of this name exists, but %s", v.ID, difference).
			WithRemedy(existingRemedy(v))
	}
	if state.IsSettled(v) && k.isAsRequested(v) {
		return v, k.restoreMetadata(ctx, v)
	}
	return k.finish(ctx, v)
}

// existingRemedy returns the next step for a volume that has the requested name but differs from
// the request.
func existingRemedy(v cloud.Volume) string {
	return "if nothing uses volume " + v.ID + ", delete it; otherwise recreate the claim to get a new name"
}

// resolveIDs returns the ids of volumes that a class parameter names by id or name. Kind Invalid:
// there is no volume of a name.
func (k *creation) resolveIDs(ctx context.Context, parameter string, volumes []string) ([]string, error) {
	ids := make([]string, 0, len(volumes))
	for _, v := range volumes {
		if isUUID(v) {
			ids = append(ids, v)
			continue
		}
		m, err := k.findByName(ctx, k.cloud, v)
		if err != nil {
			return nil, err
		}
		if !m.found {
			return nil, volume.Errorf(volume.KindInvalid, "parameter %s: there is no volume %q", parameter, v).
				WithRemedy("correct the parameter in the StorageClass: it names existing volumes by id or name")
		}
		ids = append(ids, m.volume.ID)
	}
	return ids, nil
}

// isUUID reports whether text has the form of Cinder's ids. (Validate accepts other forms too,
// which have other lengths.)
func isUUID(text string) bool {
	return len(text) == len(uuid.Nil.String()) && uuid.Validate(text) == nil
}
