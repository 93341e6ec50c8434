package autogrow

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/growvol/growvol/pkg/volume"
)

// The annotations that the operator writes on a claim, in the same patch as the request. They are
// all that it has to know after a restart. This file reads and writes them.
const (
	// AnnotationGrownTo is the size that the operator has requested last, as a quantity. The admission
	// policy reads it: the operator may lower a request only if the request is this one.
	AnnotationGrownTo = "growvol.io/grown-to"
	// AnnotationRecord is the rest, a record as JSON.
	AnnotationRecord = "growvol.io/growth-record"
)

// maxRecent bounds the growths in a record.
const maxRecent = 16

// record is what the operator has done to a claim.
type record struct {
	At     time.Time   `json:"at"`               // of the last growth
	From   volume.Size `json:"fromBytes"`        // capacity of the claim before it
	Total  volume.Size `json:"filesystemBytes"`  // size of the filesystem before it, as statfs(2) answers
	IsHalf bool        `json:"half,omitempty"`   // it was half a step, after an infeasible one
	Recent []step      `json:"recent,omitempty"` // growths of the last hour
	to     volume.Size // AnnotationGrownTo
}

// step is one growth, for the limit of bytes in an hour.
type step struct {
	At    time.Time   `json:"at"`
	Bytes volume.Size `json:"bytes"`
}

// recordOf returns the record of the claim, or an empty one if the operator has not grown it. The
// error says that a record cannot be read.
func recordOf(c *corev1.PersistentVolumeClaim) (record, error) {
	text, hasRecord := c.Annotations[AnnotationRecord]
	grownTo, hasSize := c.Annotations[AnnotationGrownTo]
	if !hasRecord && !hasSize {
		return record{}, nil
	}
	var r record
	if err := json.Unmarshal([]byte(text), &r); err != nil || r.At.IsZero() {
		return record{}, fmt.Errorf("annotation %s: %q is not what the operator has written", AnnotationRecord, text)
	}
	size, err := resource.ParseQuantity(grownTo)
	if err != nil || size.Sign() <= 0 {
		return record{}, fmt.Errorf("annotation %s: %q is not what the operator has written", AnnotationGrownTo, grownTo)
	}
	r.to = volume.Size(size.Value())
	return r, nil
}

// next returns the record after a growth. Half a step replaces the step that was infeasible.
func (r record) next(now time.Time, from, to, total volume.Size, isHalf bool) record {
	recent := slices.DeleteFunc(slices.Clone(r.Recent), func(s step) bool { return now.Sub(s.At) >= fleetPeriod })
	if isHalf && len(recent) > 0 {
		recent = recent[:len(recent)-1]
	}
	recent = append(recent, step{At: now.UTC(), Bytes: to - from})
	if len(recent) > maxRecent { // the sum of two, at the time of the second, is counted too long
		recent[1].Bytes += recent[0].Bytes
		recent = recent[1:]
	}
	return record{At: now.UTC(), From: from, Total: total, IsHalf: isHalf, Recent: recent, to: to}
}

// newPatch returns the JSON patch that requests the size of the record. The API server refuses it
// unless the claim is the one that was read, unchanged, with the old request.
func newPatch(c *corev1.PersistentVolumeClaim, r record) ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode the annotation %s: %w", AnnotationRecord, err)
	}
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	const pathOfRequest = "/spec/resources/requests/storage"
	patch := []operation{
		{"test", "/metadata/uid", c.UID},
		{"test", "/metadata/resourceVersion", c.ResourceVersion},
		{"test", pathOfRequest, c.Spec.Resources.Requests.Storage().String()},
		{"replace", pathOfRequest, quantityOf(r.to)},
	}
	if c.Annotations == nil {
		patch = append(patch, operation{"add", "/metadata/annotations", map[string]string{}})
	}
	for _, annotation := range [][2]string{{AnnotationGrownTo, quantityOf(r.to)}, {AnnotationRecord, string(text)}} {
		path := "/metadata/annotations/" + strings.ReplaceAll(annotation[0], "/", "~1")
		patch = append(patch, operation{"add", path, annotation[1]})
	}
	encoded, err := json.Marshal(patch)
	if err != nil {
		return nil, fmt.Errorf("encode the patch of claim %s/%s: %w", c.Namespace, c.Name, err)
	}
	return encoded, nil
}

// quantityOf returns the size as Kubernetes writes it, such as 3Gi.
func quantityOf(size volume.Size) string {
	return resource.NewQuantity(size.Bytes(), resource.BinarySI).String()
}
