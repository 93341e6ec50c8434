package doctor

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/pluginpod"
	"github.com/growvol/growvol/pkg/volume"
)

// CloudAPI is what a controller reports of the API of one service of a cloud. This file checks it.
type CloudAPI struct {
	Cloud, Service string
	Min, Max       string   // the microversions that the service offers; empty: none
	Lacking        []string // the features that need more than that, with the version that they need
}

// String returns the versions, for messages.
func (a CloudAPI) String() string {
	if a.Max == "" {
		return a.Service + " without microversions (or cloud.conf has ignore-volume-microversion)"
	}
	return fmt.Sprintf("%s %s to %s", a.Service, a.Min, a.Max)
}

// checkCloud checks the API versions of Cinder and Nova, as the controller reports them in its
// metrics: Kubernetes does not know them.
func (d *Doctor) checkCloud(ctx context.Context, in *installation) (check Check, isNeeded bool) {
	const name = "cloud"
	if in.controller == nil {
		return Check{}, false
	}
	pod := &in.controller.Spec.Template.Spec
	c := pluginpod.FindContainer(pod, pluginpod.Container)
	if c == nil {
		return Check{}, false
	}
	if backend, _ := pluginpod.Option(c.Args, "backend"); backend != cindercsi.Name {
		return Check{}, false
	}
	port := pluginpod.Port(pod, "http")
	if port == 0 {
		return unknown(name, "not checked: the controller has no port http, which serves its metrics",
			"install the chart again: helm upgrade"), true
	}
	apis, err := d.readCloudAPIs(ctx, in, port)
	log := fmt.Sprintf("kubectl logs deployment/%s --namespace %s --container %s | grep 'API versions'",
		in.controller.Name, in.namespace, pluginpod.Container)
	switch {
	case volume.IsKind(err, volume.KindDenied):
		return unread(name, err), true
	case err != nil:
		return unknown(name, "not checked: no pod of the controller reports the API versions of Cinder and Nova: "+
			err.Error(), "read the log: "+log), true
	}
	return judgeCloud(name, apis, log), true
}

func unknown(name, text, next string) Check { return Check{VerdictUnknown, name, text, next} }

// judgeCloud is the check of what a controller has reported. log is the command that shows its log.
func judgeCloud(name string, apis []CloudAPI, log string) Check {
	lacks, isComplete := false, true
	texts := map[string]string{} // by cloud
	for _, a := range apis {
		if texts[a.Cloud] != "" {
			continue
		}
		var versions, lacking []string
		for _, service := range []string{"cinder", "nova"} {
			i := slices.IndexFunc(apis, func(o CloudAPI) bool { return o.Cloud == a.Cloud && o.Service == service })
			if i < 0 {
				versions, isComplete = append(versions, service+" not read by the controller"), false
				continue
			}
			versions, lacking = append(versions, apis[i].String()), append(lacking, apis[i].Lacking...)
		}
		texts[a.Cloud] = "API versions of cloud " + a.Cloud + ": " + strings.Join(versions, ", ")
		if len(lacking) > 0 {
			lacks = true
			texts[a.Cloud] += ", which is too old for " + strings.Join(lacking, ", ")
		}
	}
	text := strings.Join(slices.Sorted(maps.Values(texts)), "; ")
	switch {
	case lacks:
		return warn(name, text,
			"have the cloud upgraded; docs/reference.md, \"API versions of OpenStack\", says what to do without these")
	case !isComplete:
		return unknown(name, text, "read why: "+log)
	}
	return ok(name, text)
}

// readCloudAPIs returns what the pod of the controller reports that knows most: a pod may have
// started just now.
func (d *Doctor) readCloudAPIs(ctx context.Context, in *installation, port int32) ([]CloudAPI, error) {
	pods, err := d.podsOf(ctx, in.namespace, in.controller.Spec.Selector)
	if err != nil {
		return nil, err
	}
	var best []CloudAPI
	var firstErr error
	for i := range pods {
		if pods[i].Status.Phase != corev1.PodRunning {
			continue
		}
		apis, err := d.Nodes.ReadCloudAPIs(ctx, in.namespace, pods[i].Name, port)
		firstErr = cmp.Or(firstErr, err)
		if len(apis) > len(best) {
			best = apis
		}
	}
	if len(best) > 0 {
		return best, nil
	}
	return nil, cmp.Or(firstErr, error(volume.Errorf(volume.KindUnavailable,
		"their metrics do not have growvol_openstack_api_version_info: no pod runs, the service has not answered yet, "+
			"or the controller has an older version than this program")))
}
