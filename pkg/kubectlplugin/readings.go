package kubectlplugin

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/client-go/kubernetes"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claim/reader"
	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/readings/client"
	"github.com/growvol/growvol/pkg/volume"
)

// driverReadings reads the layers below Kubernetes from the plugins of growvol. This file converts
// the plugins' answers.
type driverReadings struct {
	kubernetes kubernetes.Interface
	namespace  string // of the release of the chart; empty: all are searched
}

// ReadLayers implements reader.Driver.
func (d driverReadings) ReadLayers(
	ctx context.Context, volumes []reader.DriverVolume,
) []claim.Reading[[]claim.Layer] {
	byDriver := map[string]*driverAnswers{}
	for _, v := range volumes {
		a := byDriver[v.Driver]
		if a == nil {
			a = &driverAnswers{}
			byDriver[v.Driver] = a
		}
		a.ids = append(a.ids, v.Handle)
		if v.Node != "" {
			a.nodeNames = append(a.nodeNames, v.Node)
		}
	}
	for driver, a := range byDriver {
		a.read(ctx, client.New(client.Options{Kubernetes: d.kubernetes, Driver: driver, Namespace: d.namespace}))
	}
	all := make([]claim.Reading[[]claim.Layer], 0, len(volumes))
	for _, v := range volumes {
		all = append(all, byDriver[v.Driver].layersOf(v))
	}
	return all
}

// driverAnswers are the answers of the plugins of one driver.
type driverAnswers struct {
	ids, nodeNames []string
	nodes          map[string]client.Result
	nodesErr       error
	controller     readings.Answer
	controllerErr  error
}

// read reads the controller and the nodes. A single volume is read alone, so that nothing else
// delays it.
func (a *driverAnswers) read(ctx context.Context, c *client.Client) {
	slices.Sort(a.nodeNames)
	a.nodeNames = slices.Compact(a.nodeNames)
	a.controller, a.controllerErr = c.ReadVolumes(ctx, a.ids)
	switch {
	case len(a.nodeNames) == 0:
	case len(a.ids) == 1:
		answer, err := c.ReadNode(ctx, a.nodeNames[0], a.ids[0])
		a.nodes = map[string]client.Result{a.nodeNames[0]: {Answer: answer, Err: err}}
	default:
		a.nodes, a.nodesErr = c.ReadNodes(ctx, a.nodeNames...)
	}
}

// layersOf returns what the answers say of one volume.
func (a *driverAnswers) layersOf(v reader.DriverVolume) claim.Reading[[]claim.Layer] {
	var r claim.Reading[[]claim.Layer]
	add := func(answer *readings.Answer, err error, where string) {
		found := answer.Volume(v.Handle)
		switch {
		case err != nil:
			r.Err = cmp.Or(r.Err, err)
			return
		case found == nil:
			r.Err = cmp.Or(r.Err, error(volume.Errorf(volume.KindNotFound, "the volume is not staged on %s", where)))
			return
		case found.Problem != "":
			r.Err = cmp.Or(r.Err, error(volume.Errorf(volume.KindInternal, "%s: %s", where, found.Problem)))
		}
		for _, l := range found.Layers {
			r.Value = append(r.Value, claim.Layer{
				Name: claim.LayerName(l.Name), Size: l.Size, ReadAt: l.ReadAt, Source: sourceOf(found, &l, where),
			})
		}
	}
	if v.Node != "" {
		result := a.nodes[v.Node]
		add(&result.Answer, cmp.Or(a.nodesErr, result.Err), "node "+v.Node)
	}
	add(&a.controller, a.controllerErr, "controller")
	if v.Node == "" && r.Err == nil {
		r.Err = volume.Errorf(volume.KindPrecondition, "no pod has the volume mounted")
	}
	return r
}

// sourceOf says where the layer was read, with what else was read there.
func sourceOf(v *readings.Volume, l *readings.Layer, where string) string {
	parts := []string{l.Detail, where}
	if u := v.Usage; u != nil && l.Name == readings.LayerFilesystem && u.Used+u.Available > 0 {
		parts = append(parts, usedText(u))
	}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
}

// usedText says how full the filesystem is, as df computes it: without the blocks that only root
// may use.
func usedText(u *readings.Usage) string {
	total := u.Used + u.Available
	return fmt.Sprintf("%d%% used", (u.Used*100+total-1)/total)
}
