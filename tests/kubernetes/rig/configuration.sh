# Writes the configuration files of containerd and kubelet, which fit this machine and the
# guests that are nodes. Sourced.
# shellcheck shell=bash

# write_containerd_config lets containerd pull from the cluster's registry, without TLS. It sets restrict_oom_score_adj and oom_score, and
# write_kubelet_config oomScoreAdj, because a machine without CAP_SYS_RESOURCE cannot lower
# an OOM score.
write_containerd_config() {
	mkdir -p "$ETC/cni" "$ETC/certs.d/$REGISTRY"
	printf '[host."http://%s"]\ncapabilities = ["pull", "resolve"]\n' "$REGISTRY" >"$ETC/certs.d/$REGISTRY/hosts.toml"
	cat >"$ETC/containerd.toml" <<-END
		version = 3
		root = "$STATE/containerd"
		state = "/run/containerd"
		oom_score = 0
		disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]
		[grpc]
		  address = "/run/containerd/containerd.sock"
		[plugins.'io.containerd.cri.v1.images']
		  snapshotter = "overlayfs"
		  [plugins.'io.containerd.cri.v1.images'.registry]
		    config_path = "$ETC/certs.d"
		  [plugins.'io.containerd.cri.v1.images'.pinned_images]
		    sandbox = "localhost/pause:test"
		[plugins.'io.containerd.cri.v1.runtime']
		  restrict_oom_score_adj = true
		  disable_apparmor = true
		  tolerate_missing_hugetlb_controller = true
		  disable_hugetlb_controller = true
		  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
		    runtime_type = "io.containerd.runc.v2"
		    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
		      BinaryName = "$(command -v runc)"
		      SystemdCgroup = false
		  [plugins.'io.containerd.cri.v1.runtime'.cni]
		    bin_dirs = ["/usr/lib/cni"]
		    conf_dir = "$ETC/cni"
		    use_internal_loopback = true
	END
	cat >"$ETC/cni/10-bridge.conflist" <<-END
		{"cniVersion": "0.4.0", "name": "bridge", "plugins": [{
		  "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
		  "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni"}}]}
	END
}

# write_kubelet_config NODE ADDRESS PORT SYNC writes the configuration of a kubelet that listens
# on ADDRESS and PORT. SYNC bounds the time until kubelet sees that a claim has grown, unless
# growvol-operator wakes it.
write_kubelet_config() {
	cat >"$ETC/kubelet-$1.yaml" <<-END
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		failCgroupV1: false
		cgroupDriver: cgroupfs
		cgroupRoot: /$CGROUP
		containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
		authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
		authorization: {mode: Webhook}
		address: $2
		port: $3
		tlsCertFile: $PKI/kubelet-$1.crt
		tlsPrivateKeyFile: $PKI/kubelet-$1.key
		readOnlyPort: 0
		healthzPort: 0
		maxOpenFiles: 20000
		maxPods: 250
		oomScoreAdj: 0
		failSwapOn: false
		resolvConf: ""
		clusterDomain: cluster.local
		clusterDNS: [10.96.0.10]
		imageGCHighThresholdPercent: 100
		evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
		nodeStatusUpdateFrequency: 2s
		syncFrequency: $4
		volumeStatsAggPeriod: 10s
		volumePluginDir: /var/lib/kubelet/volumeplugins
	END
}
