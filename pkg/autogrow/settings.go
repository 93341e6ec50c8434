package autogrow

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/growvol/growvol/pkg/volume"
)

// The annotations of a claim or of its StorageClass, of which that of the claim has priority. Those
// of pvc-autoresizer have its meaning. This file reads them.
const (
	AnnotationEnabled         = "resize.topolvm.io/enabled"
	AnnotationLimit           = "resize.topolvm.io/storage_limit"
	AnnotationThreshold       = "resize.topolvm.io/threshold"
	AnnotationInodesThreshold = "resize.topolvm.io/inodes-threshold"
	AnnotationIncrease        = "resize.topolvm.io/increase"
	AnnotationCooldown        = "growvol.io/cooldown"
	AnnotationMinStep         = "growvol.io/min-step"
)

// defaultShare is the threshold, and the increase, of claims that name none: 10 %.
const defaultShare = 10

// amount is a share of a size, or a size.
type amount struct {
	percent float64 // 0 to 100
	size    volume.Size
}

// of returns the amount for a whole of that size.
func (a amount) of(whole volume.Size) volume.Size {
	if a.size > 0 {
		return a.size
	}
	return volume.Size(float64(whole) * a.percent / 100)
}

func (a amount) String() string {
	if a.size > 0 {
		return a.size.String()
	}
	return strconv.FormatFloat(a.percent, 'f', -1, 64) + " %"
}

// settings are the values of a claim that has opted in.
type settings struct {
	limit           volume.Size // 0: none, so that the claim does not grow
	threshold       amount      // of free space
	inodesThreshold amount      // of free inodes, always a share
	increase        amount      // of the claim's capacity
	minStep         volume.Size
	cooldown        time.Duration
	// isOwn reports that the claim itself has opted in, not only its class.
	isOwn bool
}

// annotations are those of a claim, and of its class.
type annotations struct{ claim, class map[string]string }

func annotationsOf(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) annotations {
	a := annotations{claim: c.Annotations}
	if class != nil {
		a.class = class.Annotations
	}
	return a
}

// value returns the value and names its object. An empty value counts as none, as pvc-autoresizer
// reads it.
func (a annotations) value(key string) (value, object string) {
	if v := a.claim[key]; v != "" {
		return v, "claim"
	}
	return a.class[key], "StorageClass"
}

// isEnabled reports whether growth is turned on. The error says that the value is neither true nor
// false.
func (a annotations) isEnabled() (bool, error) {
	switch value, object := a.value(AnnotationEnabled); value {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	default:
		return false, fmt.Errorf("annotation %s: %q of the %s is neither \"true\" nor \"false\"",
			AnnotationEnabled, value, object)
	}
}

// settings returns the settings. The error has all annotations that cannot be read: then nothing is
// known of what the user wants, and nothing may grow.
func (a annotations) settings(defaultCooldown time.Duration) (settings, error) {
	share := amount{percent: defaultShare}
	s := settings{
		threshold: share, inodesThreshold: share, increase: share, cooldown: defaultCooldown,
		isOwn: a.claim[AnnotationEnabled] == "true",
	}
	isSize := func(parse func(string) (volume.Size, error), to *volume.Size) func(string) error {
		return func(text string) (err error) { *to, err = parse(text); return err }
	}
	isAmount := func(parse func(string) (amount, error), to *amount) func(string) error {
		return func(text string) (err error) { *to, err = parse(text); return err }
	}
	var errs []error
	for _, field := range []struct {
		key  string
		read func(string) error
	}{
		{AnnotationLimit, isSize(parseSize, &s.limit)},
		{AnnotationThreshold, isAmount(parseAmount, &s.threshold)},
		{AnnotationInodesThreshold, isAmount(parsePercent, &s.inodesThreshold)},
		{AnnotationIncrease, isAmount(parsePositiveAmount, &s.increase)},
		{AnnotationMinStep, isSize(parseSize, &s.minStep)},
		{AnnotationCooldown, func(text string) (err error) { s.cooldown, err = parseCooldown(text); return err }},
	} {
		text, object := a.value(field.key)
		if text == "" {
			continue
		}
		if err := field.read(text); err != nil {
			errs = append(errs, fmt.Errorf("annotation %s: %q of the %s %w", field.key, text, object, err))
		}
	}
	return s, errors.Join(errs...)
}

func parseSize(text string) (volume.Size, error) {
	quantity, err := resource.ParseQuantity(text)
	if err != nil {
		return 0, errors.New("is no size, such as 100Gi")
	}
	if quantity.Sign() < 0 {
		return 0, errors.New("is negative")
	}
	return volume.Size(quantity.Value()), nil
}

func parsePercent(text string) (amount, error) {
	number, found := strings.CutSuffix(text, "%")
	percent, err := strconv.ParseFloat(number, 64)
	if !found || err != nil {
		return amount{}, errors.New("is no percentage, such as 10%")
	}
	if isShare := percent >= 0 && percent <= 100; !isShare { // also NaN is none
		return amount{}, errors.New("is not between 0% and 100%")
	}
	return amount{percent: percent}, nil
}

// parseAmount reads a percentage or a size above zero.
func parseAmount(text string) (amount, error) {
	if strings.HasSuffix(text, "%") {
		return parsePercent(text)
	}
	size, err := parseSize(text)
	if err != nil {
		return amount{}, errors.New("is neither a percentage, such as 10%, nor a size, such as 5Gi")
	}
	if size == 0 {
		return amount{}, errors.New("is zero")
	}
	return amount{size: size}, nil
}

// parsePositiveAmount reads a percentage or a size, both above zero.
func parsePositiveAmount(text string) (amount, error) {
	a, err := parseAmount(text)
	if err == nil && a == (amount{}) {
		return amount{}, errors.New("is zero")
	}
	return a, err
}

func parseCooldown(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, errors.New("is no duration, such as 30m")
	}
	if d < 0 {
		return 0, errors.New("is negative")
	}
	return d, nil
}
