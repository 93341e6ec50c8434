package fakebackend

import (
	"context"
	"slices"

	"github.com/growvol/growvol/pkg/volume"
)

// Attach implements volume.Attacher.
func (b *Backend) Attach(_ context.Context, req volume.AttachRequest) (map[string]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, err := b.get(req.VolumeID)
	if err != nil {
		return nil, err
	}
	slots, ok := b.slots[req.Node]
	if !ok {
		return nil, volume.Errorf(volume.KindNotFound, "there is no node %s", req.Node)
	}
	key := req.VolumeID + "/" + req.Node
	if slices.Contains(v.Nodes, req.Node) {
		if previous := b.accesses[key]; previous.Mode != req.Access.Mode || previous.Block != req.Access.Block {
			return nil, volume.Errorf(volume.KindAlreadyExists, "it is attached to %s as %s", req.Node, previous.Mode)
		}
		return map[string]string{"device": key}, nil
	}
	if len(v.Nodes) > 0 && !req.Access.Mode.IsMultiNode() {
		return nil, volume.Errorf(volume.KindPrecondition, "it is attached to %v", v.Nodes)
	}
	if b.countAttached(req.Node) >= slots {
		return nil, volume.Errorf(volume.KindExhausted, "all %d slots of %s are taken", slots, req.Node)
	}
	v.Nodes = append(v.Nodes, req.Node)
	b.volumes[req.VolumeID], b.accesses[key] = v, req.Access
	return map[string]string{"device": key}, nil
}

// countAttached returns the number of volumes that are attached to the node.
func (b *Backend) countAttached(node string) int {
	n := 0
	for _, v := range b.volumes {
		if slices.Contains(v.Nodes, node) {
			n++
		}
	}
	return n
}

// Detach implements volume.Attacher.
func (b *Backend) Detach(_ context.Context, id, node string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, err := b.get(id)
	if err != nil {
		return nil // the volume does not exist
	}
	v.Nodes = slices.DeleteFunc(v.Nodes, func(n string) bool { return node == "" || n == node })
	b.volumes[id] = v
	return nil
}
