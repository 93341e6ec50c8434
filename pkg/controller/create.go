package controller

import (
	"cmp"
	"context"
	"unicode"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// CreateVolume creates a volume, blank or from a snapshot or another volume, or returns
// the existing volume of that name.
func (s *Server) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	create, err := s.parseCreate(req)
	if err != nil {
		return nil, err
	}
	// The source is locked until the backend has accepted the copy, so that it is neither
	// deleted nor expanded before. The name is locked until the end.
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

// create chooses the size, has the backend create the volume and checks the result. It
// first looks for a volume of that name: if the answer to an earlier call was lost, the
// source may have grown or been deleted since, and the retry must not fail because of that.
// The backend gets the request for an existing volume too: the volume may not be usable
// yet, or may differ in properties that only the backend knows.
func (s *Server) create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, found, err := s.backend.Find(ctx, req)
	if err != nil {
		return volume.Volume{}, err
	}
	var sourceSize volume.Size
	if found {
		req.Size, err = v.Size, checkExisting(v, req)
	} else {
		sourceSize, err = s.chooseSize(ctx, &req)
		if b, ok := s.backend.(volume.Abandoner); ok && err != nil {
			// Earlier calls may have left a volume behind, which Abandon removes.
			err = b.Abandon(ctx, req, err)
		}
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
	return v, volume.NonFinal(checkCreated(v, req, sourceSize), "the backend has created a volume of this name")
}

// chooseSize sets req.Size and returns the size of the source; zero: no source.
func (s *Server) chooseSize(ctx context.Context, req *volume.CreateRequest) (sourceSize volume.Size, err error) {
	if sourceSize, err = s.sourceSize(ctx, req.Source); err != nil {
		return 0, err
	}
	limits := s.backend.Limits()
	if req.Size, err = resolveWithSource(req.Range, sourceSize, limits); err != nil {
		return 0, err
	}
	req.Size, err = minimumFor(req.Accesses, req.Parameters, req.Encrypted).apply(req.Size, req.Range, limits)
	return sourceSize, err
}

// checkExisting returns an error of kind AlreadyExists unless the existing volume is the
// one that the request describes.
func checkExisting(v volume.Volume, req volume.CreateRequest) error {
	var difference string
	switch {
	case v.Source != req.Source:
		difference = "was created from another source"
	case v.Encrypted && !req.Encrypted:
		difference = "is encrypted by the node, which the StorageClass does not request"
	case !v.Encrypted && req.Encrypted:
		difference = "is not encrypted by the node, which the StorageClass requests"
	case v.Size < req.Range.Required:
		difference = "has " + v.Size.String() + ", less than the requested " + req.Range.Required.String()
	case req.Range.Limit > 0 && v.Size > req.Range.Limit:
		difference = "has " + v.Size.String() + ", above the requested limit " + req.Range.Limit.String()
	default:
		return nil
	}
	return volume.Errorf(volume.KindAlreadyExists, "volume %s has this name, but %s", v.ID, difference).
		WithRemedy("if nothing uses volume " + v.ID + ", delete it; otherwise recreate the claim to get a new name")
}

// sourceSize reads the size of the source; zero: no source. Error kind InProgress: the
// source snapshot is not ready.
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
		return v.Size, volume.Wrap(err, "read source volume", source.VolumeID)
	}
	return 0, nil
}

// resolveWithSource is Range.Resolve for a volume that must hold a source. A request
// without a size gets the size of the source. A smaller size is refused (kind OutOfRange)
// instead of replaced, which would give the user a larger volume than requested.
func resolveWithSource(r volume.Range, sourceSize volume.Size, limits volume.Limits) (volume.Size, error) {
	if r.Required == 0 {
		r.Required = max(sourceSize, 0)
	}
	for _, bound := range []volume.Size{r.Required, r.Limit} {
		if bound > 0 && bound < sourceSize {
			return 0, volume.Errorf(volume.KindOutOfRange, "the source has %s, more than the requested %s", sourceSize, bound).
				WithRemedy(requestAtLeast + sourceSize.String())
		}
	}
	return r.Resolve(limits)
}

// checkCreated returns an error if the volume that the backend returned is not the one
// that was requested.
func checkCreated(v volume.Volume, req volume.CreateRequest, sourceSize volume.Size) error {
	minSize := max(sourceSize, req.Range.Required)
	switch {
	case v.ID == "":
		return volume.Errorf(volume.KindInternal, "the backend returned a volume without an id")
	case v.Size < minSize || v.Size <= 0:
		return volume.Errorf(volume.KindInternal,
			"the backend returned volume %s with %s, less than the required %s", v.ID, v.Size, minSize)
	case req.Range.Limit > 0 && v.Size > req.Range.Limit:
		return volume.Errorf(volume.KindInternal,
			"the backend returned volume %s with %s, above the requested limit %s", v.ID, v.Size, req.Range.Limit)
	case v.Encrypted != req.Encrypted:
		return volume.Errorf(volume.KindInternal,
			"the backend returned volume %s with encrypted=%t, but the request has encrypted=%t",
			v.ID, v.Encrypted, req.Encrypted)
	case !v.Source.IsEmpty() && v.Source != req.Source:
		return volume.Errorf(volume.KindAlreadyExists, "volume %s has this name, but was created from another source", v.ID)
	}
	return nil
}

// parseCreate checks the request and converts it.
func (s *Server) parseCreate(req *csi.CreateVolumeRequest) (volume.CreateRequest, error) {
	accesses, accessErr := parseAccesses(req.GetVolumeCapabilities())
	source, sourceErr := s.parseSource(req.GetVolumeContentSource())
	class, classErr := parseClass(req.GetParameters())
	requirements := req.GetAccessibilityRequirements()
	if err := cmp.Or(
		checkName(req.GetName()),
		accessErr,
		checkAccessModes(s.backend.AccessModes(), accesses...),
		checkNotDestructive(accesses),
		sourceErr,
		s.checkTopology("accessibility_requirements", requirements != nil),
		s.checkMutableParameters(req.GetMutableParameters()),
		classErr,
		checkEncryptedAccess(class.encrypted, accesses),
		class.checkFSType(accesses),
	); err != nil {
		return volume.CreateRequest{}, err
	}
	return volume.CreateRequest{
		Name: req.GetName(), Range: parseRange(req.GetCapacityRange()), Source: source, Encrypted: class.encrypted,
		Parameters: class.backend, MutableParameters: req.GetMutableParameters(), Accesses: accesses,
		Requisite: parseTopologies(requirements.GetRequisite()), Preferred: parseTopologies(requirements.GetPreferred()),
	}, nil
}

// checkMutableParameters returns an error of kind Invalid if there are mutable parameters
// but the backend has none.
func (s *Server) checkMutableParameters(parameters map[string]string) error {
	if len(parameters) > 0 && s.modifier == nil {
		return volume.Errorf(volume.KindInvalid,
			"mutable_parameters are set, but no parameters of this backend can be modified").
			WithRemedy("create the volume without a VolumeAttributesClass")
	}
	return nil
}

// parseSource converts the content source. Error kind Invalid: it has no id, or the
// backend cannot use it (CSI v1.13, CreateVolume errors).
func (s *Server) parseSource(source *csi.VolumeContentSource) (volume.Source, error) {
	switch t := source.GetType().(type) {
	case *csi.VolumeContentSource_Snapshot:
		if s.snapshotter == nil {
			return volume.Source{}, volume.Errorf(volume.KindInvalid, "this backend cannot create a volume from a snapshot")
		}
		id := t.Snapshot.GetSnapshotId()
		return volume.Source{SnapshotID: id}, checkRequired("snapshot_id of the content source", id)
	case *csi.VolumeContentSource_Volume:
		if s.cloner == nil {
			return volume.Source{}, volume.Errorf(volume.KindInvalid, "this backend cannot create a volume from another volume")
		}
		id := t.Volume.GetVolumeId()
		return volume.Source{VolumeID: id}, checkRequired("volume_id of the content source", id)
	}
	if source != nil {
		return volume.Source{}, volume.Errorf(volume.KindInvalid, "the content source is neither a snapshot nor a volume")
	}
	return volume.Source{}, nil
}

// checkName returns an error of kind Invalid for an empty name and for the characters that
// the CSI specification forbids: control characters other than tab, line feed and carriage
// return.
func checkName(name string) error {
	for _, r := range name {
		if unicode.IsControl(r) && r != '\t' && r != '\n' && r != '\r' {
			return volume.Errorf(volume.KindInvalid, "the name %q contains the control character %U", name, r)
		}
	}
	return checkRequired("name", name)
}
