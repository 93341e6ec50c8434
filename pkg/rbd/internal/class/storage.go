// Package class parses the parameters of StorageClasses of the RBD backend. Parameters have the
// names of ceph-csi. It makes no requests; an error has kind Invalid and names the parameter.
package class

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/metadata"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// Parameters of a StorageClass, besides those of package rbdcsi.
const (
	ParamDataPool      = "dataPool"
	ParamFeatures      = "imageFeatures"
	ParamMounter       = "mounter"
	ParamPrefix        = "volumeNamePrefix"
	ParamObjectSize    = "objectSize"
	ParamStripeUnit    = "stripeUnit"
	ParamStripeCount   = "stripeCount"
	ParamTopologyPools = "topologyConstrainedPools"
)

// known returns the names of all parameters, sorted. The controller reads volume.EncryptedKey.
func known() []string {
	all := []string{
		rbdcsi.ParameterCluster, rbdcsi.ParameterPool, rbdcsi.ParameterNamespace, rbdcsi.ParameterMapOptions,
		ParamDataPool, ParamFeatures, ParamMounter, ParamPrefix, ParamObjectSize, ParamStripeUnit, ParamStripeCount,
		ParamTopologyPools, volume.MkfsOptionsKey, volume.EncryptedKey,
	}
	slices.Sort(all)
	return all
}

// Storage has the parsed parameters of a StorageClass.
type Storage struct {
	Cluster    string
	Namespace  string // empty: that of the configuration
	NamePrefix string // empty: that of the driver
	// Pools are the pools that may hold the volumes: pool, or those of topologyConstrainedPools.
	Pools   []Pool
	Options ceph.ImageOptions // without DataPool
	Context map[string]string // volume context, which is for the node; without the location
	// cephCSIEncryption is a parameter for ceph-csi's encryption; empty: none.
	cephCSIEncryption string
}

// Pool is a pool of a class.
type Pool struct {
	Name     string
	DataPool string          // empty: Name
	Topology volume.Topology // from where it can be reached; empty: everywhere
}

// ParseStorage parses the parameters of a StorageClass.
func ParseStorage(parameters map[string]string) (Storage, error) {
	p := storageParser{class: Storage{Context: make(map[string]string)}}
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		if err := p.parse(key, parameters[key]); err != nil {
			return Storage{}, err
		}
	}
	if p.class.Cluster == "" {
		return Storage{}, missingError(rbdcsi.ParameterCluster, "the id of a cluster in the configuration of the driver")
	}
	var err error
	if p.class.Options.Features, err = parseFeatures(p.features); err != nil {
		return Storage{}, err
	}
	if err := checkLayout(p.class.Options); err != nil {
		return Storage{}, err
	}
	p.class.Pools, err = parsePools(p.pool, p.topologyPools)
	return p.class, err
}

// storageParser has what was parsed so far.
type storageParser struct {
	class                   Storage
	pool                    Pool
	topologyPools, features string
}

// parse parses one parameter.
func (p *storageParser) parse(key, value string) error {
	switch key {
	case rbdcsi.ParameterCluster:
		p.class.Cluster = value
		return checkName(key, value)
	case rbdcsi.ParameterPool:
		p.pool.Name = value
		return checkName(key, value)
	case rbdcsi.ParameterNamespace:
		p.class.Namespace = value
		return checkName(key, value)
	case ParamDataPool:
		p.pool.DataPool = value
		return checkName(key, value)
	case ParamTopologyPools:
		p.topologyPools = value
	case ParamFeatures:
		p.features = value
	case ParamPrefix:
		p.class.NamePrefix = value
		return checkPrefix(value)
	case ParamMounter:
		return checkMounter(value)
	case rbdcsi.ParameterMapOptions:
		p.class.Context[key] = value
		return checkMapOptions(value)
	case volume.MkfsOptionsKey:
		p.class.Context[key] = value
	case ParamObjectSize, ParamStripeUnit, ParamStripeCount:
		return parseLayout(&p.class.Options, key, value)
	default:
		if !strings.HasPrefix(key, metadata.SidecarPrefix) {
			return p.parseCephCSI(key, value)
		}
	}
	return nil
}

// parsePools returns the pools of a class. With topologyConstrainedPools, pool is not used, as in
// ceph-csi.
func parsePools(single Pool, topologyPools string) ([]Pool, error) {
	if topologyPools != "" {
		return parseTopologyPools(topologyPools)
	}
	if single.Name == "" {
		return nil, missingError(rbdcsi.ParameterPool, "a pool of the cluster for RBD")
	}
	return []Pool{single}, nil
}

// checkName checks a name that becomes a part of handles.
func checkName(key, value string) error {
	if value == "" || strings.Contains(value, "/") {
		return valueError(key, value, "a name without a slash")
	}
	return nil
}

// IsImageName reports whether text has only characters that image names of this driver have.
func IsImageName(text string) bool { return text != "" && strings.Trim(text, nameCharacters) == "" }

const nameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"

func checkPrefix(value string) error {
	if !IsImageName(value) || len(value) > maxPrefixLength {
		return valueError(ParamPrefix, value, "1 to "+strconv.Itoa(maxPrefixLength)+" letters, digits, and _ . -")
	}
	return nil
}

const maxPrefixLength = 32

func checkMounter(value string) error {
	if value != "rbd" && value != "krbd" {
		return valueError(ParamMounter, value, "rbd: this driver maps images with the kernel's client only")
	}
	return nil
}

// checkMapOptions returns an error for the option exclusive. The kernel client then refuses to
// hand the lock over, and Ceph cannot expand the image while it is in use (EROFS).
func checkMapOptions(value string) error {
	for section := range strings.SplitSeq(value, ";") {
		for option := range strings.SplitSeq(strings.TrimPrefix(strings.TrimSpace(section), "krbd:"), ",") {
			if strings.TrimSpace(option) == "exclusive" {
				return valueError(rbdcsi.ParameterMapOptions, value,
					"without the option exclusive, which makes online expansion impossible")
			}
		}
	}
	return nil
}

// unknownError is the error for a parameter that StorageClasses do not have.
func unknownError(key string) error {
	return volume.Errorf(volume.KindInvalid, "the StorageClass has the unknown parameter %q; known are %s",
		key, strings.Join(known(), ", ")).
		WithRemedy("remove the parameter " + key + " from the StorageClass")
}

// valueError is the error for a value that the parameter does not allow.
func valueError(key, value, allowed string) error {
	return volume.Errorf(volume.KindInvalid, "parameter %s has the value %q, but it must be %s", key, value, allowed).
		WithRemedy("correct the parameter " + key + " in the StorageClass")
}

func missingError(key, meaning string) error {
	return volume.Errorf(volume.KindInvalid, "the StorageClass has no parameter %s: %s", key, meaning).
		WithRemedy("set the parameter " + key + " in the StorageClass")
}
