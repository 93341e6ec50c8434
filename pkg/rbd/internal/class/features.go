package class

import (
	"slices"
	"strconv"
	"strings"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
)

// This file holds the layout of new images: features, object size and striping.

// Features of images, as `rbd info` names them.
const (
	FeatureLayering      = "layering"
	FeatureExclusiveLock = "exclusive-lock"
	FeatureObjectMap     = "object-map"
	FeatureFastDiff      = "fast-diff"
	FeatureDeepFlatten   = "deep-flatten"
)

// defaultFeatures are the features of a class without imageFeatures. With exclusive-lock the kernel
// itself fences a dead node before another node writes to the image. object-map is not among them:
// a resize that is interrupted leaves the map invalid, until a person rebuilds it.
func defaultFeatures() []string { return []string{FeatureLayering, FeatureExclusiveLock} }

// requiredFeatures returns the features that nodes can map (krbd of Linux 5.3 and later), each with
// the features that it needs (`rbd feature enable`).
func requiredFeatures() map[string][]string {
	return map[string][]string{
		FeatureLayering:      nil,
		FeatureExclusiveLock: nil,
		FeatureObjectMap:     {FeatureExclusiveLock},
		FeatureFastDiff:      {FeatureExclusiveLock, FeatureObjectMap},
		FeatureDeepFlatten:   nil,
	}
}

func parseFeatures(text string) ([]string, error) {
	if strings.TrimSpace(text) == "" {
		return defaultFeatures(), nil
	}
	var features []string
	for feature := range strings.SplitSeq(text, ",") {
		feature = strings.TrimSpace(feature)
		if _, ok := requiredFeatures()[feature]; !ok {
			return nil, valueError(ParamFeatures, text, "a list of "+
				"layering, exclusive-lock, object-map, fast-diff, deep-flatten: the kernel maps no image with "+feature)
		}
		features = append(features, feature)
	}
	for _, feature := range features {
		for _, needed := range requiredFeatures()[feature] {
			if !slices.Contains(features, needed) {
				return nil, valueError(ParamFeatures, text, "a list with "+needed+", which "+feature+" needs")
			}
		}
	}
	slices.Sort(features)
	return slices.Compact(features), nil
}

// Limits of the size of objects in bytes (librbd, RBD_MIN_OBJ_ORDER and RBD_MAX_OBJ_ORDER), and the
// default.
const (
	minObjectSize     = 4 << 10
	maxObjectSize     = 32 << 20
	defaultObjectSize = 4 << 20
)

// parseLayout sets one of the properties of the layout.
func parseLayout(o *ceph.ImageOptions, key, value string) error {
	number, err := strconv.ParseUint(strings.TrimSpace(value), 10, 63)
	if err != nil || number == 0 {
		return valueError(key, value, "a positive number")
	}
	switch key {
	case ParamObjectSize:
		o.ObjectSize = number
		if number < minObjectSize || number > maxObjectSize || number&(number-1) != 0 {
			return valueError(key, value, "a power of two from 4096 to 33554432 (bytes)")
		}
	case ParamStripeUnit:
		o.StripeUnit = number
	case ParamStripeCount:
		o.StripeCount = number
	}
	return nil
}

// checkLayout checks the properties of the layout against each other.
func checkLayout(o ceph.ImageOptions) error {
	objectSize := o.ObjectSize
	if objectSize == 0 {
		objectSize = defaultObjectSize
	}
	switch {
	case o.StripeUnit == 0 && o.StripeCount == 0:
		return nil
	case o.StripeUnit == 0:
		return missingError(ParamStripeUnit, "the class has "+ParamStripeCount+", and each needs the other")
	case o.StripeCount == 0:
		return missingError(ParamStripeCount, "the class has "+ParamStripeUnit+", and each needs the other")
	case objectSize%o.StripeUnit != 0:
		return valueError(ParamStripeUnit, strconv.FormatUint(o.StripeUnit, 10),
			"a divisor of the object size of "+strconv.FormatUint(objectSize, 10)+" bytes")
	}
	return nil
}
