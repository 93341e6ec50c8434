package kubeapi

import (
	"context"
	"fmt"
)

// NodesPath is the path of Nodes, for Get and Patch.
const NodesPath = "/api/v1/nodes/"

// OutOfServiceTaint is the key of the taint by which an administrator declares that a node is shut
// down (https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/).
const OutOfServiceTaint = "node.kubernetes.io/out-of-service"

// Node is the part of a v1 Node that growvol reads.
type Node struct {
	Metadata struct {
		Name            string            `json:"name"`
		UID             string            `json:"uid"`
		ResourceVersion string            `json:"resourceVersion"`
		Labels          map[string]string `json:"labels"`
		Annotations     map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Taints []struct {
			Key    string `json:"key"`
			Effect string `json:"effect"`
		} `json:"taints"`
	} `json:"spec"`
	Status struct {
		Conditions []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
		} `json:"conditions"`
	} `json:"status"`
}

// IsOutOfService reports whether an administrator has declared that the node is shut down.
func (n Node) IsOutOfService() bool {
	for _, taint := range n.Spec.Taints {
		if taint.Key == OutOfServiceTaint {
			return true
		}
	}
	return false
}

// IsReady reports whether kubelet says, and has said in time, that the node works.
func (n Node) IsReady() bool {
	for _, condition := range n.Status.Conditions {
		if condition.Type == "Ready" {
			return condition.Status == "True"
		}
	}
	return false
}

// ReadNode reads the Node of that name. IsNotFound reports whether an error says that there is
// none.
func (a API) ReadNode(ctx context.Context, name string) (Node, error) {
	c, err := a.Open()
	if err != nil {
		return Node{}, err
	}
	defer c.Close()
	var n Node
	err = c.Get(ctx, NodesPath, name, &n)
	if err == nil && n.Metadata.Name != name {
		return Node{}, fmt.Errorf("the API server answered with the Node %q for a request about %q", n.Metadata.Name, name)
	}
	return n, err
}

// Annotate sets an annotation of the Node of that name, whatever it is now, and returns after
// reading it back.
func (a API) Annotate(ctx context.Context, name, key, value string) error {
	return a.annotate(ctx, name, key, value, map[string]any{})
}

// AnnotateUnchanged is Annotate for a Node that was read, unless it has changed since: then it
// returns an Error with the Code 409.
func (a API) AnnotateUnchanged(ctx context.Context, n Node, key, value string) error {
	return a.annotate(ctx, n.Metadata.Name, key, value,
		map[string]any{"uid": n.Metadata.UID, "resourceVersion": n.Metadata.ResourceVersion})
}

func (a API) annotate(ctx context.Context, name, key, value string, metadata map[string]any) error {
	c, err := a.Open()
	if err != nil {
		return err
	}
	defer c.Close()
	metadata["annotations"] = map[string]string{key: value}
	var after Node
	err = c.Patch(ctx, NodesPath, name, MergePatch, map[string]any{"metadata": metadata}, &after)
	if err != nil {
		return err
	}
	if after.Metadata.Name != name || after.Metadata.Annotations[key] != value {
		return fmt.Errorf("the API server accepted the annotation %s of the Node %s, but did not return it", key, name)
	}
	return nil
}
