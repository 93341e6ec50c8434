# growvol: build, test and try. Everything runs on a bare Debian machine with
# Go, as root; what is missing is installed by `make setup`.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BIN     := bin
TOOL    := go tool -modfile=.tools/go.mod
# The limit of a package is for what hangs: waits have limits of their own.
TESTSUM := $(TOOL) gotestsum --format=pkgname-and-test-fails --format-hide-empty-pkg -- -timeout=60m
# --- Make it --severity=style when the rigs' scripts are merged.
SHELLCHECK := --severity=warning
HELM    := $(subst .tools/go.mod,.tools/helm.mod,$(TOOL)) helm
# Packages whose tests need a kernel that lets them grow ext3 and ext4, map
# devices and break filesystems: they run a second time, in a guest.
KERNEL  := ./pkg/filesystem ./pkg/blockdev ./pkg/loop ./pkg/luks
FS      ?= ext4,xfs
# Where the real OpenStack and Kubernetes of the tests keep their state.
OPENSTACK := $(or $(GROWVOL_OPENSTACK_DIR),/var/tmp/growvol-openstack)
CLUSTER   := $(or $(GROWVOL_KUBERNETES_DIR),/var/tmp/growvol-kubernetes)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-25s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what builds, tests and the demo need (quick when it is there)
	@tests/setup.sh

.PHONY: build
build: ## the plugins, static, into bin/
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o $(BIN)/ ./cmd/...

# What runs in guests is static too.
.PHONY: programs
programs: build
	@CGO_ENABLED=0 go build -o $(BIN)/ ./tests/guest/cmd/growvol-guest ./tests/demo

.PHONY: lint
lint: lint-go lint-unused lint-scripts lint-yaml lint-text lint-chart ## code, scripts, YAML, words and links, chart: all must be clean

.PHONY: lint-go
lint-go: ## gofumpt, golangci-lint; go mod tidy and verify
	$(TOOL) golangci-lint run ./...
	go mod tidy -diff
	go mod verify

# Once for the plugins alone: what only a test calls is unused too.
.PHONY: lint-unused
lint-unused: ## functions that nothing calls
	@unused=$$($(TOOL) deadcode ./cmd/... && $(TOOL) deadcode -test ./...); \
	if [ -n "$$unused" ]; then sort -u <<<"$$unused"; echo 'lint: remove the functions above: nothing calls them'; exit 1; fi >&2

# A script is a file with a shell in its first line. Files without one that
# end in .sh are sourced by bash scripts.
.PHONY: lint-scripts
lint-scripts: setup ## shellcheck on every script; the Dockerfile
	@git ls-files -z | xargs -0 awk 'FNR == 1 && /^#!.*sh$$/ { print FILENAME } { nextfile }' | xargs shellcheck $(SHELLCHECK)
	@git ls-files -z '*.sh' | xargs -0 awk 'FNR == 1 && !/^#!/ { print FILENAME } { nextfile }' | xargs shellcheck $(SHELLCHECK) --shell=bash
	@tests/dockerfile.sh

.PHONY: lint-yaml
lint-yaml: setup ## yamllint on all YAML but the chart's templates
	@git ls-files -z '*.yaml' '*.yml' | xargs -0 yamllint --strict

.PHONY: lint-text
lint-text: ## the words of code and docs; links
	@# --- To be run whole when the renaming is merged.
	@go test -skip='^TestWords$$' ./tests/style

.PHONY: lint-chart
lint-chart: ## helm lint with the values of each backend
	@for b in cinder loop; do \
		$(HELM) lint --strict --quiet --kube-version=1.37.1 --values=deploy/kubernetes/$$b/values.yaml deploy/charts/growvol || exit 1; \
	done

.PHONY: manifests
manifests: ## the plain manifests in deploy/kubernetes, from the chart
	@deploy/kubernetes/generate

.PHONY: test
test: setup test-unit test-guest test-system test-devices ## all tests that need only this machine

.PHONY: test-unit
test-unit: ## every package on this machine's kernel, with the race detector
	$(TESTSUM) -race ./cmd/... ./pkg/... ./tests/fakecloud/... ./tests/deploy/... ./tests/kubernetes/conformance

.PHONY: test-guest
test-guest: programs ## the packages that drive the kernel, in a guest with all capabilities
	$(TESTSUM) -exec='$(CURDIR)/$(BIN)/growvol-guest --here --memory=4096 --module=sd_mod --module=scsi_debug --' $(KERNEL)

.PHONY: test-system
test-system: programs ## the real binaries over their sockets, in guests; csi-sanity
	$(TESTSUM) -p 1 $$(go list ./tests/... | grep -vE '/tests/(vm|hotplug|openstack|fakecloud|deploy|kubernetes|style)')

.PHONY: test-devices
test-devices: setup programs ## disks plugged in and resized under a mounted filesystem, in QEMU
	$(TESTSUM) -p 1 ./tests/vm/... ./tests/hotplug/...

.PHONY: openstack-up
openstack-up: ## a real OpenStack on this machine: Keystone, Cinder, Nova, Ceph (quick when it is up)
	@tests/openstack/up

.PHONY: openstack-test
openstack-test: setup programs openstack-up ## the driver in it: volumes of a running instance grow in use
	GROWVOL_OPENSTACK_DIR=$(OPENSTACK) GROWVOL_OPENSTACK_CLOUDS_YAML=$(OPENSTACK)/clouds.yaml \
		$(TESTSUM) -count=1 -p 1 ./tests/openstack/... ./tests/fakecloud/... ./pkg/cinder/internal/cloud

.PHONY: openstack-down
openstack-down: ## end it and remove what it stored
	@tests/openstack/down

.PHONY: cluster-up
cluster-up: ## a real Kubernetes on this machine, with growvol from its chart (the first time builds it: some 10 minutes)
	@tests/kubernetes/up

.PHONY: cluster-test
cluster-test: setup cluster-up ## the whole path in it: claims grow while pods write, through crashes of every part
	GROWVOL_KUBERNETES_DIR=$(CLUSTER) $(TESTSUM) -count=1 -parallel=4 -skip='^TestCinder$$' ./tests/kubernetes

.PHONY: cluster-openstack-test
cluster-openstack-test: setup programs openstack-up cluster-up ## a node of it is a Nova instance: claims of real Cinder volumes grow under its pods
	GROWVOL_KUBERNETES_DIR=$(CLUSTER) GROWVOL_OPENSTACK_DIR=$(OPENSTACK) \
		$(TESTSUM) -count=1 -parallel=4 -run='^TestCinder$$' ./tests/kubernetes

.PHONY: cluster-conformance
cluster-conformance: setup programs openstack-up cluster-up ## Kubernetes' own suite for storage, on both backends; writes docs/conformance.md
	@tests/kubernetes/suite build
	GROWVOL_KUBERNETES_DIR=$(CLUSTER) GROWVOL_OPENSTACK_DIR=$(OPENSTACK) \
		GROWVOL_CONFORMANCE=all GROWVOL_CONFORMANCE_RESULTS=$(CURDIR)/docs/conformance.md \
		$(TESTSUM) -count=1 -timeout=6h -run='^TestConformanceOn' ./tests/kubernetes

.PHONY: cluster-conformance-short
cluster-conformance-short: setup cluster-up ## the part of it that every build runs: growth, snapshots, clones, on the loop backend
	@tests/kubernetes/suite build
	GROWVOL_KUBERNETES_DIR=$(CLUSTER) GROWVOL_CONFORMANCE=short \
		$(TESTSUM) -count=1 -run='^TestConformanceOnLoop$$' ./tests/kubernetes

.PHONY: cluster-down
cluster-down: ## end it and remove what it stored
	@tests/kubernetes/down

.PHONY: demo
demo: setup programs ## grow volumes in use under a checksummed writer (FS=ext2,ext3,ext4,xfs,btrfs)
	@$(BIN)/demo --bin=$(BIN) --fs=$(FS)

.PHONY: bench
bench: setup programs ## growth against mount-utils, RPC overhead, memory, sizes, start-up
	@echo "== this machine's kernel"
	@go test -count=1 -run='^$$' -bench=. -benchtime=21x ./tests/bench
	@go test -count=1 -run='^$$' -bench=. ./pkg/controller/...
	@echo "== Cinder and Nova, on the fake cloud"
	@go test -count=1 -run='^$$' -bench=. -benchtime=3x ./pkg/cinder
	@echo "== the guest's kernel, with every capability"
	@CGO_ENABLED=0 go test -count=1 -run='^$$' -bench=Growth -benchtime=21x -exec='$(CURDIR)/$(BIN)/growvol-guest --here --' ./tests/bench

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN)
