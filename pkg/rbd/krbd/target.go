package krbd

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// target is what a request says about the image to map.
type target struct {
	cluster, pool, namespace, image, snapshot string // snapshot is empty for the image itself
	// hasNamespace: namespace is that of the image; otherwise the cluster's configuration has it.
	hasNamespace bool
	// fsid, poolID and imageID are what the controller has read; empty or zero: unknown.
	fsid    string
	poolID  int64
	imageID string
	size    volume.Size // that the controller has read; zero: unknown
}

// String returns the image as the rbd program spells it.
func (t target) String() string { return imageName(t.pool, t.namespace, t.image, t.snapshot) }

// parseTarget returns what to map. The publish context decides. Without one, as for a volume that
// ceph-csi has attached, the handle decides, or the volume context for a handle of ceph-csi. Kind
// Invalid: they do not name an image, or name one that the kernel's interface cannot take.
func parseTarget(req volume.ConnectRequest) (target, error) {
	t, err := readTarget(req)
	if err != nil {
		return target{}, err
	}
	for what, text := range map[string]string{
		"pool": t.pool, "RADOS namespace": t.namespace, "image": t.image, "snapshot": t.snapshot,
	} {
		if !isOneWord(text) || text == "" && (what == "pool" || what == "image") {
			return target{}, volume.Errorf(volume.KindInvalid,
				"the kernel cannot map an image with the %s %q: a name must have no blanks and no control characters", what, text)
		}
	}
	if strings.ContainsAny(t.namespace, ",=") {
		return target{}, volume.Errorf(volume.KindInvalid,
			"the kernel cannot map an image of the RADOS namespace %q: the name must have no comma and no equals sign", t.namespace)
	}
	if t.snapshot == "-" {
		return target{}, volume.Errorf(volume.KindInvalid, `the kernel cannot map a snapshot with the name "-"`)
	}
	return t, nil
}

func readTarget(req volume.ConnectRequest) (target, error) {
	published, parameters := req.PublishContext, req.VolumeContext
	if published[rbdcsi.ContextImage] != "" {
		return publishedTarget(published)
	}
	if h, err := rbdcsi.ParseVolumeHandle(req.ID); err == nil {
		return target{
			cluster: h.Cluster, pool: h.Pool, namespace: h.Namespace, hasNamespace: true, image: h.Image, snapshot: h.Snapshot,
		}, nil
	}
	t := target{
		cluster: parameters[rbdcsi.ParameterCluster], pool: parameters[rbdcsi.ParameterPool],
		image: parameters[rbdcsi.ParameterImageName],
	}
	t.namespace, t.hasNamespace = parameters[rbdcsi.ParameterNamespace]
	h, isCephCSI := rbdcsi.ParseCephCSIHandle(req.ID)
	switch {
	case isCephCSI:
		t.cluster, t.poolID = h.Cluster, h.PoolID
	case parameters[rbdcsi.ParameterStaticVolume] == "true":
		t.image = cmp.Or(t.image, req.ID)
	}
	if t.image == "" || t.pool == "" {
		return target{}, volume.Errorf(volume.KindInvalid,
			"the request does not say which image to map: the publish context has no %s, the volume id is not "+
				"cluster/pool[/namespace]/image, and the volume context does not have both %s and %s",
			rbdcsi.ContextImage, rbdcsi.ParameterPool, rbdcsi.ParameterImageName).
			WithRemedy("have the volume detached and attached again by this driver's controller " +
				"(scale its workload to zero until kubectl get volumeattachments does not list it, then scale it up)")
	}
	return t, nil
}

// publishedTarget reads the publish context of this driver's controller.
func publishedTarget(published map[string]string) (target, error) {
	t := target{
		cluster: published[rbdcsi.ContextCluster], pool: published[rbdcsi.ContextPool],
		namespace: published[rbdcsi.ContextNamespace], hasNamespace: true,
		image: published[rbdcsi.ContextImage], snapshot: published[rbdcsi.ContextSnapshot],
		fsid: published[rbdcsi.ContextFSID], imageID: published[rbdcsi.ContextImageID],
	}
	var err error
	if t.poolID, err = parseNumber(published, rbdcsi.ContextPoolID); err != nil {
		return target{}, err
	}
	size, err := parseNumber(published, rbdcsi.ContextSize)
	t.size = volume.Size(size)
	return t, err
}

// parseNumber returns the value of a key of the publish context; zero: absent.
func parseNumber(published map[string]string, key string) (int64, error) {
	text := published[key]
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, volume.Errorf(volume.KindInvalid, "the publish context has %s=%q, which is not a number", key, text)
	}
	return n, nil
}

// isOneWord reports whether the kernel reads the text as one field: it has no blanks, and no
// control characters.
func isOneWord(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

// hasIdentity reports whether the controller has said which image it is, by its ids.
func (t target) hasIdentity() bool { return t.fsid != "" && t.poolID != 0 && t.imageID != "" }

// matches reports whether the mapping is of the image that the ids of the target identify.
func (t target) matches(m mapping) bool {
	return t.hasIdentity() && m.FSID == t.fsid && m.PoolID == t.poolID && m.ImageID == t.imageID &&
		m.Namespace == t.namespace && m.snapshot == t.snapshot
}

// check returns an error of kind Precondition if the mapping is of another image than the request
// says. It compares what the request says.
func (t target) check(m mapping) error {
	var differences []string
	add := func(what, got, want string) {
		if want != "" && want != "0" && got != want {
			differences = append(differences, fmt.Sprintf("%s %q instead of %q", what, got, want))
		}
	}
	add("cluster fsid", m.FSID, t.fsid)
	add("pool id", strconv.FormatInt(m.PoolID, 10), strconv.FormatInt(t.poolID, 10))
	add("image id", m.ImageID, t.imageID)
	if m.Namespace != t.namespace {
		differences = append(differences, fmt.Sprintf("namespace %q instead of %q", m.Namespace, t.namespace))
	}
	if m.snapshot != t.snapshot {
		differences = append(differences, fmt.Sprintf("snapshot %q instead of %q", m.snapshot, t.snapshot))
	}
	if len(differences) == 0 {
		return nil
	}
	return volume.Errorf(volume.KindPrecondition, "the image %s on this node is not the volume: it has %s",
		t, strings.Join(differences, ", ")).
		WithRemedy("check that the controller and this node have the same Ceph clusters in their configuration; " +
			"if the image was renamed or replaced, have the volume detached and attached again")
}
