package reader

import (
	"context"
	"encoding/json"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/volume"
)

// Stats reads what kubelet reports of the volumes of a node.
type Stats interface {
	// ReadStats returns the volumes of the node that belong to claims. Kinds: Denied,
	// Unavailable.
	ReadStats(ctx context.Context, node string) ([]PodVolumeStats, error)
}

// PodVolumeStats are the stats of a volume with the claim that it belongs to.
type PodVolumeStats struct {
	Namespace, Claim string
	claim.VolumeStats
}

// statsTimeout bounds the reading of one node: kubelet of a node that is lost does not answer.
const statsTimeout = 10 * time.Second

// Kubelet reads the stats of kubelet through the API server.
type Kubelet struct {
	Client rest.Interface
}

// summary is the part of kubelet's stats.summary that concerns volumes of claims.
type summary struct {
	Pods []struct {
		Volumes []struct {
			Time           time.Time `json:"time"`
			CapacityBytes  *int64    `json:"capacityBytes"`
			AvailableBytes int64     `json:"availableBytes"`
			UsedBytes      int64     `json:"usedBytes"`
			Inodes         uint64    `json:"inodes"`
			InodesUsed     uint64    `json:"inodesUsed"`
			PVCRef         *struct {
				Name      string `json:"name"`
				Namespace string `json:"namespace"`
			} `json:"pvcRef"`
		} `json:"volume"`
	} `json:"pods"`
}

// ReadStats implements Stats.
func (k Kubelet) ReadStats(ctx context.Context, node string) ([]PodVolumeStats, error) {
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	raw, err := k.Client.Get().AbsPath("/api/v1/nodes/" + url.PathEscape(node) + "/proxy/stats/summary").DoRaw(ctx)
	switch {
	case apierrors.IsForbidden(err):
		return nil, apierror.MissingRight("get", "nodes/proxy", "")
	case err != nil:
		return nil, volume.Errorf(volume.KindUnavailable, "kubelet of %s does not answer: %w", node, err).
			WithRemedy("check the node: kubectl get node " + node)
	}
	var s summary
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, volume.Errorf(volume.KindInternal, "kubelet of %s: malformed stats: %w", node, err)
	}
	var all []PodVolumeStats
	for _, p := range s.Pods {
		for _, v := range p.Volumes {
			if v.PVCRef == nil || v.CapacityBytes == nil {
				continue // no claim, or kubelet has not read it yet
			}
			all = append(all, PodVolumeStats{Namespace: v.PVCRef.Namespace, Claim: v.PVCRef.Name, VolumeStats: claim.VolumeStats{
				Node: node, Capacity: volume.Size(*v.CapacityBytes), Available: volume.Size(v.AvailableBytes),
				Used: volume.Size(v.UsedBytes), Inodes: v.Inodes, InodesUsed: v.InodesUsed, ReadAt: v.Time,
			}})
		}
	}
	return all, nil
}
