package controller

import (
	"context"
	"unicode"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// CreateVolume makes a volume, empty or from a snapshot or another volume, or
// returns the one of that name.
func (s *Server) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	create, err := s.parseCreate(req)
	if err != nil {
		return nil, err
	}
	// The source is locked until the backend has accepted the copy, so that it
	// cannot vanish or grow before. The name is locked to the end.
	source := create.Source.VolumeID
	if create.Source.SnapshotID != "" {
		source = snapshotKey(create.Source.SnapshotID)
	}
	unlock, unlockSource, err := s.locks.LockWithSource(ctx, source, nameKey(create.Name))
	if err != nil {
		return nil, err
	}
	defer unlock()
	create.OnAccepted = unlockSource
	v, err := s.create(ctx, create)
	if err != nil {
		return nil, volume.Wrap(err, "create volume", create.Name)
	}
	if v.Source.IsEmpty() {
		v.Source = create.Source
	}
	s.log.InfoContext(ctx, "volume ready", "name", create.Name, "volume", v.ID, "size", v.Size.String())
	return &csi.CreateVolumeResponse{Volume: s.toCSI(v)}, nil
}

// create settles the size, has the backend make the volume and checks what it
// made. A volume of the name that exists comes first: when the answer to its
// creation was lost, the source may have grown or gone since, and that is no
// reason to refuse the retry. The backend sees the request even so: the volume may
// not be usable yet, or differ in what only the backend knows.
func (s *Server) create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, found, err := s.backend.Find(ctx, req)
	if err != nil {
		return volume.Volume{}, err
	}
	var least volume.Size
	if found {
		req.Size, err = v.Size, fits(v, req)
	} else {
		least, err = s.settleSize(ctx, &req)
		err = s.abandon(ctx, req, err)
	}
	if err != nil {
		return volume.Volume{}, err
	}
	switch {
	case req.Source.SnapshotID != "":
		v, err = s.snapshotter.Restore(ctx, req)
	case req.Source.VolumeID != "":
		v, err = s.cloner.CloneVolume(ctx, req)
	default:
		v, err = s.backend.Create(ctx, req)
	}
	if err != nil {
		return volume.Volume{}, err
	}
	return v, volume.NonFinal(checkCreated(v, req, least), "the backend has made a volume of this name")
}

// abandon returns the error of a request that is refused before the backend was
// asked for the volume. The backend has a say in it: earlier calls may have left
// something.
func (s *Server) abandon(ctx context.Context, req volume.CreateRequest, err error) error {
	if b, ok := s.backend.(volume.Abandoner); ok && err != nil {
		return b.Abandon(ctx, req, err)
	}
	return err
}

// settleSize sets the size of a new volume and returns what its source takes.
func (s *Server) settleSize(ctx context.Context, req *volume.CreateRequest) (least volume.Size, err error) {
	if least, err = s.sourceSize(ctx, req.Source); err != nil {
		return 0, err
	}
	limits := s.backend.Limits()
	if req.Size, err = resolveWithSource(req.Range, least, limits); err != nil {
		return 0, err
	}
	req.Size, err = minimumOf(req.Accesses, req.Parameters, req.Encrypted).apply(req.Size, req.Range, limits)
	return least, err
}

// fits tells whether an existing volume is what the request asks for.
func fits(v volume.Volume, req volume.CreateRequest) error {
	var why string
	switch {
	case v.Source != req.Source:
		why = "was made from another source"
	case v.Encrypted && !req.Encrypted:
		why = "was made to be encrypted, which the StorageClass does not ask for"
	case !v.Encrypted && req.Encrypted:
		why = "was made without encryption, which the StorageClass asks for"
	case v.Size < req.Range.Required:
		why = "has " + v.Size.String() + ", less than the " + req.Range.Required.String() + " required"
	case req.Range.Limit > 0 && v.Size > req.Range.Limit:
		why = "has " + v.Size.String() + ", above the limit " + req.Range.Limit.String()
	default:
		return nil
	}
	return volume.Errorf(volume.KindAlreadyExists, "volume %s has this name and %s", v.ID, why).
		WithRemedy("use another name, or delete the volume")
}

// sourceSize reads the size of what the volume is made from; zero without a
// source.
func (s *Server) sourceSize(ctx context.Context, source volume.Source) (volume.Size, error) {
	switch {
	case source.SnapshotID != "":
		snapshot, err := s.snapshotter.GetSnapshot(ctx, source.SnapshotID)
		if err != nil {
			return 0, volume.Wrap(err, "read source snapshot", source.SnapshotID)
		}
		if !snapshot.Ready {
			return 0, volume.Errorf(volume.KindInProgress, "the source snapshot %s is not ready yet", source.SnapshotID)
		}
		return snapshot.Size, nil
	case source.VolumeID != "":
		v, err := s.backend.Get(ctx, source.VolumeID)
		if err != nil {
			return 0, volume.Wrap(err, "read source volume", source.VolumeID)
		}
		return v.Size, nil
	}
	return 0, nil
}

// resolveWithSource is Range.Resolve for a volume that has to hold a source
// of size least. A request without a size takes that of the source; one that
// asks for less is refused rather than given a larger volume in silence.
func resolveWithSource(r volume.Range, least volume.Size, limits volume.Limits) (volume.Size, error) {
	if r.Required == 0 {
		r.Required = max(least, 0)
	}
	for _, bound := range []volume.Size{r.Required, r.Limit} {
		if bound > 0 && bound < least {
			return 0, volume.Errorf(volume.KindOutOfRange, "the source has %s, more than the %s asked for", least, bound).
				WithRemedy("ask for at least " + least.String())
		}
	}
	return r.Resolve(limits)
}

// checkCreated refuses a volume that is not what was asked for, whatever the
// backend says.
func checkCreated(v volume.Volume, req volume.CreateRequest, least volume.Size) error {
	least = max(least, req.Range.Required)
	switch {
	case v.ID == "":
		return volume.Errorf(volume.KindInternal, "the backend returned a volume without an id")
	case v.Size < least || v.Size <= 0:
		return volume.Errorf(volume.KindInternal, "the backend returned volume %s with %s, less than the %s required", v.ID, v.Size, least)
	case req.Range.Limit > 0 && v.Size > req.Range.Limit:
		return volume.Errorf(volume.KindInternal, "the backend returned volume %s with %s, above the limit %s", v.ID, v.Size, req.Range.Limit)
	case v.Encrypted != req.Encrypted:
		return volume.Errorf(volume.KindInternal, "the backend returned volume %s with encryption %t, not %t as asked for",
			v.ID, v.Encrypted, req.Encrypted)
	case !v.Source.IsEmpty() && v.Source != req.Source:
		return volume.Errorf(volume.KindAlreadyExists, "volume %s has this name and was made from another source", v.ID)
	}
	return nil
}

// parseCreate validates the request.
func (s *Server) parseCreate(req *csi.CreateVolumeRequest) (volume.CreateRequest, error) {
	var none volume.CreateRequest
	if err := validName(req.GetName()); err != nil {
		return none, err
	}
	accesses, err := parseAccesses(req.GetVolumeCapabilities())
	if err != nil {
		return none, err
	}
	if err := allowed(s.backend.AccessModes(), accesses...); err != nil {
		return none, err
	}
	if err := preserving(accesses); err != nil {
		return none, err
	}
	source, err := s.parseSource(req.GetVolumeContentSource())
	if err != nil {
		return none, err
	}
	requirements := req.GetAccessibilityRequirements()
	if requirements != nil && !s.hasTopology {
		return none, volume.Errorf(volume.KindInvalid, "accessibility_requirements are given, but volumes of this backend can be reached from everywhere")
	}
	if len(req.GetMutableParameters()) > 0 && s.modifier == nil {
		return none, volume.Errorf(volume.KindInvalid, "mutable_parameters are given, but this backend has none").
			WithRemedy("create the volume without a VolumeAttributesClass")
	}
	class, err := parseClass(req.GetParameters())
	if err == nil {
		err = checkEncrypted(class.encrypted, accesses)
	}
	if err == nil {
		err = class.checkFSType(accesses)
	}
	if err != nil {
		return none, err
	}
	return volume.CreateRequest{
		Name: req.GetName(), Range: parseRange(req.GetCapacityRange()), Source: source, Encrypted: class.encrypted,
		Parameters: class.backend, MutableParameters: req.GetMutableParameters(), Accesses: accesses,
		Requisite: parseTopologies(requirements.GetRequisite()), Preferred: parseTopologies(requirements.GetPreferred()),
	}, nil
}

// parseSource validates the content source. A source that the backend cannot
// use is Invalid (CSI v1.13, CreateVolume errors).
func (s *Server) parseSource(source *csi.VolumeContentSource) (volume.Source, error) {
	switch t := source.GetType().(type) {
	case *csi.VolumeContentSource_Snapshot:
		if s.snapshotter == nil {
			return volume.Source{}, volume.Errorf(volume.KindInvalid, "this backend cannot make a volume from a snapshot")
		}
		id := t.Snapshot.GetSnapshotId()
		return volume.Source{SnapshotID: id}, required("snapshot_id of the content source", id)
	case *csi.VolumeContentSource_Volume:
		if s.cloner == nil {
			return volume.Source{}, volume.Errorf(volume.KindInvalid, "this backend cannot make a volume from another volume")
		}
		id := t.Volume.GetVolumeId()
		return volume.Source{VolumeID: id}, required("volume_id of the content source", id)
	}
	if source != nil {
		return volume.Source{}, volume.Errorf(volume.KindInvalid, "the content source is neither a snapshot nor a volume")
	}
	return volume.Source{}, nil
}

// validName refuses empty names and the characters that the CSI specification
// bans: control characters other than tab, line feed and carriage return.
func validName(name string) error {
	for _, r := range name {
		if unicode.IsControl(r) && r != '\t' && r != '\n' && r != '\r' {
			return volume.Errorf(volume.KindInvalid, "the name %q has the control character %U", name, r)
		}
	}
	return required("name", name)
}
