package expansion

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/volume"
)

// Size is a size of the command line: a whole size ("20Gi"), or what to add ("+5Gi").
type Size struct {
	Quantity resource.Quantity
	IsAdded  bool
}

// ParseSize reads a size. Its error has the kind Invalid.
func ParseSize(text string) (Size, error) {
	number, isAdded := strings.CutPrefix(text, "+")
	q, err := resource.ParseQuantity(number)
	if err != nil || q.Sign() <= 0 || strings.HasPrefix(number, "+") {
		return Size{}, volume.Errorf(volume.KindInvalid, "%q is not a size", text).
			WithRemedy("write a size such as 20Gi, or +5Gi to add 5 GiB")
	}
	return Size{Quantity: q, IsAdded: isAdded}, nil
}

// Target returns the size to request for the claim. A size that is added counts from the claim's
// capacity. Kinds: Precondition (an added size while the claim requests more than it has: two calls
// of the command would then add twice).
func (s Size) Target(c *corev1.PersistentVolumeClaim) (resource.Quantity, error) {
	if !s.IsAdded {
		return s.Quantity, nil
	}
	request, capacity := claim.Request(c), claim.Capacity(c)
	if request > capacity {
		return resource.Quantity{}, volume.Errorf(volume.KindPrecondition,
			"the claim already requests %s and has %s", request, capacity).
			WithRemedy("name the whole size instead of +" + s.Quantity.String())
	}
	total := c.Status.Capacity.Storage().DeepCopy()
	total.Add(s.Quantity)
	return total, nil
}
