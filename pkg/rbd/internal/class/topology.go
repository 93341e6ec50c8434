package class

import (
	"encoding/json"

	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the parameter topologyConstrainedPools.

// topologyPool is one element of the JSON list.
type topologyPool struct {
	PoolName       string `json:"poolName"`
	DataPool       string `json:"dataPool"`
	DomainSegments []struct {
		DomainLabel string `json:"domainLabel"`
		Value       string `json:"value"`
	} `json:"domainSegments"`
}

func parseTopologyPools(text string) ([]Pool, error) {
	var list []topologyPool
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) == 0 {
		return nil, valueError(ParamTopologyPools, text,
			`a JSON list of {"poolName": "…", "domainSegments": [{"domainLabel": "…", "value": "…"}]}`)
	}
	var pools []Pool
	for _, element := range list {
		p := Pool{Name: element.PoolName, DataPool: element.DataPool, Topology: make(volume.Topology)}
		if err := checkName(ParamTopologyPools, p.Name); err != nil {
			return nil, err
		}
		for _, segment := range element.DomainSegments {
			if segment.DomainLabel == "" || segment.Value == "" {
				return nil, valueError(ParamTopologyPools, text, "a list whose domainSegments have a domainLabel and a value")
			}
			p.Topology[rbdcsi.TopologyPrefix+segment.DomainLabel] = segment.Value
		}
		if len(p.Topology) == 0 {
			return nil, valueError(ParamTopologyPools, text, "a list with domainSegments for the pool "+p.Name)
		}
		pools = append(pools, p)
	}
	return pools, nil
}
