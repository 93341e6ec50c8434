package doctor

import (
	"cmp"
	"slices"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/volume"
)

// Claims says which claims have a filesystem that is smaller than the claim says.
type Claims struct {
	Total int `json:"total"`
	// Checked is the number of claims whose filesystem was read after their last growth.
	Checked int `json:"checked"`
	// MissingBytes is the sum of what the short claims lack at least.
	MissingBytes volume.Size `json:"missingBytes"`
	// Short are the claims that lack bytes, those that lack the most first.
	Short []claim.Status `json:"short"`
	// Unchecked are the other claims, by the reason why they could not be checked.
	Unchecked []Unchecked `json:"unchecked"`
}

// Unchecked are claims that could not be checked for one reason.
type Unchecked struct {
	Reason string   `json:"reason"`
	Claims []string `json:"claims"` // namespace/name
}

// CheckClaims compares the claims with their filesystems.
func CheckClaims(statuses []claim.Status) Claims {
	c := Claims{Total: len(statuses), Short: []claim.Status{}, Unchecked: []Unchecked{}}
	for i := range statuses {
		s := &statuses[i]
		reason := uncheckedReason(s)
		switch {
		case s.Missing > 0:
			c.Checked++
			c.MissingBytes += s.Missing
			c.Short = append(c.Short, *s)
		case reason == "":
			c.Checked++
		default:
			c.addUnchecked(reason, s.Namespace+"/"+s.Name)
		}
	}
	slices.SortStableFunc(c.Short, func(a, b claim.Status) int { return cmp.Compare(b.Missing, a.Missing) })
	slices.SortStableFunc(c.Unchecked, func(a, b Unchecked) int { return cmp.Compare(len(b.Claims), len(a.Claims)) })
	return c
}

func (c *Claims) addUnchecked(reason, name string) {
	i := slices.IndexFunc(c.Unchecked, func(u Unchecked) bool { return u.Reason == reason })
	if i < 0 {
		i = len(c.Unchecked)
		c.Unchecked = append(c.Unchecked, Unchecked{Reason: reason})
	}
	c.Unchecked[i].Claims = append(c.Unchecked[i].Claims, name)
}

// uncheckedReason returns why the status does not say whether the filesystem is short, or an empty
// text if it says it.
func uncheckedReason(s *claim.Status) string {
	switch {
	case s.Phase != "Bound":
		return "the claim is not bound"
	case s.IsReadingOld:
		return "kubelet's reading is older than the last growth: read again in a minute"
	case s.Filesystem().State == claim.StateUnknown:
		return s.Filesystem().Problem
	}
	return ""
}
