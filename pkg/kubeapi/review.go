package kubeapi

import "context"

// SelfReviewsPath is the path of SelfSubjectAccessReviews, for Create.
const SelfReviewsPath = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

// selfReview is the part of a v1 SelfSubjectAccessReview that growvol uses.
type selfReview struct {
	APIVersion string           `json:"apiVersion"`
	Kind       string           `json:"kind"`
	Spec       selfReviewSpec   `json:"spec"`
	Status     selfReviewStatus `json:"status,omitzero"`
}

type selfReviewSpec struct {
	Path nonResourceAttributes `json:"nonResourceAttributes"`
}

type nonResourceAttributes struct {
	Path string `json:"path"`
	Verb string `json:"verb"`
}

type selfReviewStatus struct {
	Allowed bool `json:"allowed"`
	Denied  bool `json:"denied"`
}

// MayGet reports whether the owner of the token may get the path, as the API server answers to the
// token itself: a right on a nonResourceURL. It reports false for a token that the API server does
// not accept. a.Dir needs no token.
func (a API) MayGet(ctx context.Context, token, path string) (bool, error) {
	c, err := a.OpenWith(token)
	if err != nil {
		return false, err
	}
	defer c.Close()
	request := selfReview{
		APIVersion: "authorization.k8s.io/v1", Kind: "SelfSubjectAccessReview",
		Spec: selfReviewSpec{Path: nonResourceAttributes{Path: path, Verb: "get"}},
	}
	var answer selfReview
	if err := c.Create(ctx, SelfReviewsPath, request, &answer); err != nil {
		if IsDenied(err) {
			return false, nil
		}
		return false, err
	}
	// An answer to another question allows nothing.
	return answer.Status.Allowed && !answer.Status.Denied && answer.Spec.Path == request.Spec.Path, nil
}
