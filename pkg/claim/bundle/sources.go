package bundle

import (
	"fmt"
	"net/url"
	"strings"
)

// source is something that a bundle reads from the API server. This file has all of them: what is
// not listed here cannot be read.
type source struct {
	file string // in the archive; placeholders are in braces
	// path is the request's, with its query; placeholders are in braces.
	path string
	// verb and resource are what a role must name.
	verb, resource string
}

// driverLabels selects the objects of the chart.
const driverLabels = "?labelSelector=app.kubernetes.io%2Fname%3Dgrowvol"

func versionSource() source { return source{"kubernetes.json", "/version", "get", "/version"} }

// clusterSources are lists that are stored as they are.
func clusterSources() []source {
	const (
		storage   = "/apis/storage.k8s.io/v1/"
		snapshots = "/apis/snapshot.storage.k8s.io/v1/"
		groups    = "/apis/groupsnapshot.storage.k8s.io/v1/"
		admission = "/apis/admissionregistration.k8s.io/v1/"
	)
	return []source{
		{"cluster/nodes.yaml", "/api/v1/nodes", "list", "nodes"},
		{"cluster/csidrivers.yaml", storage + "csidrivers", "list", "csidrivers.storage.k8s.io"},
		{"cluster/csinodes.yaml", storage + "csinodes", "list", "csinodes.storage.k8s.io"},
		{"cluster/storageclasses.yaml", storage + "storageclasses", "list", "storageclasses.storage.k8s.io"},
		{
			"cluster/volumeattributesclasses.yaml", storage + "volumeattributesclasses", "list",
			"volumeattributesclasses.storage.k8s.io",
		},
		{
			"cluster/volumesnapshotclasses.yaml", snapshots + "volumesnapshotclasses", "list",
			"volumesnapshotclasses.snapshot.storage.k8s.io",
		},
		{
			"cluster/volumegroupsnapshotclasses.yaml", groups + "volumegroupsnapshotclasses", "list",
			"volumegroupsnapshotclasses.groupsnapshot.storage.k8s.io",
		},
		{
			"cluster/admissionpolicies.yaml", admission + "validatingadmissionpolicies" + driverLabels, "list",
			"validatingadmissionpolicies.admissionregistration.k8s.io",
		},
		{
			"cluster/admissionpolicybindings.yaml", admission + "validatingadmissionpolicybindings" + driverLabels, "list",
			"validatingadmissionpolicybindings.admissionregistration.k8s.io",
		},
	}
}

// driverSources are what concerns the driver.
type driverSources struct {
	deployments, daemonSets, pods source
	leases, events                source // of each namespace of the driver
	log, previousLog, metrics     source // of each pod of the driver
}

func newDriverSources() driverSources {
	const (
		pod  = "/api/v1/namespaces/{namespace}/pods/{pod}"
		log  = pod + "/log?container={container}"
		age  = "&sinceSeconds={seconds}"
		file = "driver/logs/{namespace}/{pod}/{container}"
	)
	return driverSources{
		deployments: source{
			"driver/deployments.yaml", "/apis/apps/v1/deployments" + driverLabels, "list", "deployments.apps",
		},
		daemonSets: source{"driver/daemonsets.yaml", "/apis/apps/v1/daemonsets" + driverLabels, "list", "daemonsets.apps"},
		pods:       source{"driver/pods.yaml", "/api/v1/pods" + driverLabels, "list", "pods"},
		leases: source{
			"driver/leases/{namespace}.yaml", "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases", "list",
			"leases.coordination.k8s.io",
		},
		events: source{"driver/events/{namespace}.yaml", "/api/v1/namespaces/{namespace}/events", "list", "events"},
		log:    source{file + ".log", log + age, "get", "pods/log"},
		// The run of the container before its last restart.
		previousLog: source{file + ".previous.log", log + "&previous=true" + age, "get", "pods/log"},
		metrics: source{
			"driver/metrics/{namespace}/{pod}.txt", pod + ":{port}/proxy/metrics", "get", "pods/proxy",
		},
	}
}

// claimSources are what concerns the selected claims.
type claimSources struct {
	claims, pods, events source // of the namespace
	volumes, attachments source
}

// newClaimSources returns the sources of the claims of a namespace, or of all namespaces.
func newClaimSources(namespace string) claimSources {
	core := "/api/v1/"
	if namespace != "" {
		core += "namespaces/{namespace}/"
	}
	return claimSources{
		claims: source{
			"claims/persistentvolumeclaims.yaml", core + "persistentvolumeclaims", "list", "persistentvolumeclaims",
		},
		pods:    source{"claims/pods.yaml", core + "pods", "list", "pods"},
		events:  source{"claims/events.yaml", core + "events", "list", "events"},
		volumes: source{"claims/persistentvolumes.yaml", "/api/v1/persistentvolumes", "list", "persistentvolumes"},
		attachments: source{
			"claims/volumeattachments.yaml", "/apis/storage.k8s.io/v1/volumeattachments", "list",
			"volumeattachments.storage.k8s.io",
		},
	}
}

// fill replaces the placeholders of a text.
func fill(text string, values map[string]string, escape func(string) string) string {
	var pairs []string
	for name, value := range values {
		pairs = append(pairs, "{"+name+"}", escape(value))
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

func (s source) filePath(values map[string]string) string {
	return fill(s.file, values, url.PathEscape)
}

// namespace returns the namespace that is read, or an empty text for the whole cluster.
func (s source) namespace(values map[string]string) string {
	if strings.Contains(s.path, "{namespace}") {
		return values["namespace"]
	}
	return ""
}

// Plan returns a line for each request that Collect may make, and for each document.
func (c *Collector) Plan() []string {
	d, n := newDriverSources(), newClaimSources(c.Claims.Namespace)
	sources := append([]source{versionSource()}, clusterSources()...)
	sources = append(sources, d.deployments, d.daemonSets, d.pods, d.leases, d.events, d.log, d.previousLog, d.metrics)
	lines := planOf(sources, map[string]string{"seconds": c.seconds()})
	claims := []source{n.claims, n.volumes, n.attachments, n.pods, n.events}
	lines = append(lines, planOf(claims, map[string]string{"namespace": c.Claims.Namespace})...)
	for _, document := range c.Documents {
		lines = append(lines, fmt.Sprintf("%s: %s", document.File, document.What))
	}
	return lines
}

func planOf(sources []source, values map[string]string) []string {
	lines := make([]string, 0, len(sources))
	for _, s := range sources {
		lines = append(lines, fmt.Sprintf("%s: GET %s", s.filePath(values), fill(s.path, values, url.PathEscape)))
	}
	return lines
}

// seconds returns how old the lines of logs may be.
func (c *Collector) seconds() string { return fmt.Sprint(max(1, int64(c.Logs.Since.Seconds()))) }
