package catalog

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// countingCloud is an API that counts its requests.
type countingCloud struct {
	API
	limits, types int
}

func (*countingCloud) Name() string { return "east" }

func (c *countingCloud) Limits(context.Context) (cloud.Limits, error) {
	c.limits++
	return cloud.Limits{MaxVolumes: 10}, nil
}

func (c *countingCloud) VolumeTypes(context.Context) ([]cloud.VolumeType, error) {
	c.types++
	return []cloud.VolumeType{{ID: "1", Name: "rbd"}}, nil
}

func (*countingCloud) DefaultVolumeType(context.Context) (cloud.VolumeType, error) {
	return cloud.VolumeType{}, volume.Errorf(volume.KindNotFound, "no default type")
}

func TestLimitsAreReadAgainAfterSomeTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, k := new(countingCloud), new(Catalog)
		for step, want := range []int{1, 1, 2, 2} {
			if step == 2 {
				time.Sleep(maxLimitsAge + time.Second) //nolint:forbidigo // in the bubble time passes at once
			}
			if l, err := k.Limits(t.Context(), c); err != nil || l.MaxVolumes != 10 {
				t.Fatalf("limits %+v and error %v, want 10 volumes", l, err)
			}
			if c.limits != want {
				t.Errorf("step %d: %d requests, want %d", step, c.limits, want)
			}
		}
	})
}

// A type that an administrator has just added is found by the next call.
func TestTypesAreReadAgainAfterAnUnknownName(t *testing.T) {
	t.Parallel()
	c, k := new(countingCloud), new(Catalog)
	for step, test := range []struct {
		name  string
		reads int
	}{{"rbd", 1}, {"", 1}, {"moon", 1}, {"rbd", 2}, {"1", 2}} {
		got, err := k.Type(t.Context(), c, test.name)
		if isKnown := test.name != "moon"; isKnown != (err == nil) || !isKnown && !volume.IsKind(err, volume.KindInvalid) {
			t.Errorf("step %d: type %q gives %+v and error %v", step, test.name, got, err)
		}
		if c.types != test.reads {
			t.Errorf("step %d: %d requests, want %d", step, c.types, test.reads)
		}
	}
}
