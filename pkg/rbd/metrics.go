package rbd

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// This file holds the metrics of the backend.

// newTaskMetrics returns the gauges of running tasks by cluster: of all, and of those that may run
// for hours. The error is that of the registry.
func newTaskMetrics(registry prometheus.Registerer) (all, long *prometheus.GaugeVec, err error) {
	all = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "growvol_ceph_tasks_in_flight",
		Help: "Sequences of calls to a Ceph cluster that have not ended, also those whose RPC has been answered.",
	}, []string{"cluster"})
	long = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "growvol_ceph_long_tasks_in_flight",
		Help: "Those of growvol_ceph_tasks_in_flight that may run for hours, such as reclaiming space.",
	}, []string{"cluster"})
	if registry == nil {
		return all, long, nil
	}
	return all, long, errors.Join(registry.Register(all), registry.Register(long))
}
