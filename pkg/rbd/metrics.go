package rbd

import "github.com/prometheus/client_golang/prometheus"

// This file holds the metrics of the backend.

// newTaskMetric returns the gauge of running tasks by cluster and pools. The error is that of the
// registry.
func newTaskMetric(registry prometheus.Registerer) (*prometheus.GaugeVec, error) {
	tasks := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "growvol_ceph_tasks_in_flight",
		Help: "Sequences of calls to a Ceph cluster that have not ended, also those whose RPC has been answered.",
	}, []string{"cluster", "pools"})
	if registry == nil {
		return tasks, nil
	}
	return tasks, registry.Register(tasks)
}
