# Builds, tests and demonstrates growvol on a Debian machine with Go, as root.
# `make setup` installs what is missing.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# All builds have the same flags, and no cgo, so that Go compiles a package once for programs, tests,
# linters, Helm and the Kubernetes of the tests, whose go.mod files have the same versions. Only the
# race detector and Ceph's libraries need cgo. Builds without debug information are faster.
export GOFLAGS     := $(strip $(GOFLAGS) -trimpath -gcflags=all=-dwarf=false)
export CGO_ENABLED := 0

BIN     := bin
# With these tags the controller links Ceph's libraries (pacific: Debian 12 has Ceph 16).
TAGS    := ceph,pacific
TOOL    := go tool -modfile=.tools/go.mod
# The program itself, for commands with other flags than those of its build.
PROGRAM := $(TOOL) -n
# The timeout ends a test that hangs; waits have shorter timeouts of their own. lint-go runs all
# checks of vet.
TESTSUM := $$($(PROGRAM) gotestsum) --format=pkgname-and-test-fails --format-hide-empty-pkg -- -timeout=60m -vet=off
HELM    := $(subst .tools/go.mod,.tools/helm.mod,$(TOOL)) helm
# Packages whose tests on a real kernel, TestReal..., run a second time, in a guest: its kernel allows
# them to grow ext3 and ext4, to map devices and to break filesystems.
KERNEL  := ./pkg/filesystem ./pkg/blockdev ./pkg/luks
FS      ?= ext4,xfs
# State of the tests' real Ceph, OpenStack and Kubernetes.
OPENSTACK := $(or $(GROWVOL_OPENSTACK_DIR),/var/tmp/growvol-openstack)
CLUSTER   := $(or $(GROWVOL_KUBERNETES_DIR),/var/tmp/growvol-kubernetes)
CEPH      := $(or $(GROWVOL_CEPH_DIR),/var/tmp/growvol-ceph)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-25s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what builds, tests and the demo need
	@tests/setup.sh

.PHONY: build
build: ## build the plugins, growvol-operator and kubectl-growvol, static, into bin/
	go build -ldflags='-s -w' -o $(BIN)/ ./cmd/...

# The controller that links Ceph's libraries, which need cgo. Go's first build of them takes a minute.
.PHONY: build-ceph
build-ceph: setup ## build the controller with Ceph's libraries into bin/growvol-controller-ceph
	CGO_ENABLED=1 go build -tags=$(TAGS) -ldflags='-s -w' -o $(BIN)/growvol-controller-ceph ./cmd/growvol-controller

# The programs that run in guests are static too.
.PHONY: programs
programs: build
	@go build -o $(BIN)/ ./tests/guest/cmd/growvol-guest ./tests/demo

.PHONY: lint
lint: lint-go lint-unused lint-scripts lint-yaml lint-text lint-chart ## check code, scripts, YAML, words and links, chart

# golangci-lint checks the packages that link Ceph's libraries separately, because only these need cgo.
# go vet checks them without the libraries.
# Files that cgo has made name the directory in which they were made, also when Go's cache gives them
# to another one, where linters then read the wrong source or none. With the directory among the
# options of the C compiler, the cache gives them to the same directory only.
.PHONY: lint-go
lint-go: setup ## run golangci-lint (with gofumpt), go vet, go mod tidy and verify
	$(TOOL) golangci-lint run $$(go list -f '{{.Dir}}' ./... | grep -vE '/cmd/growvol-controller$$|/pkg/rbd$$|/pkg/rbd/')
	CGO_ENABLED=1 CGO_CFLAGS='-O2 -I$(CURDIR)' $$($(PROGRAM) golangci-lint) run --build-tags=$(TAGS) \
		./cmd/growvol-controller ./pkg/rbd/...
	go vet ./cmd/growvol-controller ./pkg/rbd/...
	go mod tidy -diff
	go mod verify

# The first run is for the plugins alone: a function that only tests call is unused too.
.PHONY: lint-unused
lint-unused: setup ## find functions that nothing calls
	@deadcode=$$($(PROGRAM) deadcode); export CGO_ENABLED=1; \
	unused=$$($$deadcode -tags=$(TAGS) ./cmd/... && $$deadcode -tags=$(TAGS) -test ./...); \
	if [ -n "$$unused" ]; then sort -u <<<"$$unused"; echo 'lint-unused: nothing calls these functions: remove them'; exit 1; fi >&2

# A script is a file with a shell in its first line. Files without one that
# end in .sh are sourced by bash scripts.
.PHONY: lint-scripts
lint-scripts: setup ## run shellcheck on every script, check the Dockerfile
	@git ls-files -z | xargs -0 awk 'FNR == 1 && /^#!.*sh$$/ { print FILENAME } { nextfile }' | xargs shellcheck
	@git ls-files -z '*.sh' | xargs -0 awk 'FNR == 1 && !/^#!/ { print FILENAME } { nextfile }' | xargs shellcheck --shell=bash
	@tests/dockerfile.sh

.PHONY: lint-yaml
lint-yaml: setup ## run yamllint on all YAML except the chart's templates
	@git ls-files -z '*.yaml' '*.yml' | xargs -0 yamllint --strict

.PHONY: lint-text
lint-text: ## check words, links and names in code and docs
	@go test ./tests/style

.PHONY: lint-chart
lint-chart: ## run helm lint with the values of each backend
	@for b in cinder rbd loop; do \
		$(HELM) lint --strict --quiet --kube-version=1.37.1 --values=deploy/kubernetes/$$b/values.yaml deploy/charts/growvol || exit 1; \
	done

.PHONY: manifests
manifests: ## generate deploy/kubernetes from the chart
	@deploy/kubernetes/generate

.PHONY: test
test: setup test-unit test-guest test-system ## run all tests that need only this machine

.PHONY: test-unit
test-unit: ## test every package on this machine's kernel, with the race detector
	CGO_ENABLED=1 $(TESTSUM) -race ./cmd/... ./pkg/... ./tests/fakecloud/... ./tests/deploy/... ./tests/recording ./tests/kubernetes/conformance ./deploy/...

# The skipped tests of mkfs and luksFormat depend on no kernel, and take minutes in a guest, where
# programs start slowly.
.PHONY: test-guest
test-guest: programs ## test the packages that use the kernel, in a guest with all capabilities
	$(TESTSUM) -run='^TestReal' -skip='^TestReal(Format(ContinuesAfterAKill|Encrypted|KilledAtEachWrite|LeavesForeignContent)|MinSize)' -exec='$(CURDIR)/$(BIN)/growvol-guest --here --memory=4096 --module=sd_mod --module=scsi_debug --' $(KERNEL)

# Two packages run at a time, in this order: e2e, which takes as long as the others together, has one
# CPU; hotplug and vm, whose QEMU needs most of the other, do not meet.
.PHONY: test-system
test-system: setup programs ## test the real plugins in guests, and disks that are plugged in and resized in QEMU; csi-sanity
	$(TESTSUM) -p 2 ./tests/e2e ./tests/hotplug \
		$$(go list ./tests/... | grep -vE '/tests/(e2e|vm|hotplug|ceph|openstack|fakecloud|deploy|kubernetes|recording|style)') ./tests/vm/...

.PHONY: ceph-programs
ceph-programs: ## install the packages of the Ceph and build the programs of its tests beforehand
	@tests/ceph/up packages
	@go test -c -o $(BIN)/krbd.test ./pkg/rbd/krbd
	@CGO_ENABLED=1 go build -tags=$(TAGS) ./pkg/rbd/...
	@$(MAKE) --no-print-directory build-ceph

.PHONY: ceph-up
ceph-up: ## start a real Ceph on this machine, in a network namespace of its own
	@tests/ceph/up

.PHONY: ceph-test
ceph-test: setup programs ceph-up ## test the driver in it: volumes of guests grow in use, nodes are cut off and killed
	GROWVOL_CEPH_DIR=$(CEPH) $(TESTSUM) -count=1 ./tests/ceph
	GROWVOL_CEPH_DIR=$(CEPH) CGO_ENABLED=1 $(TESTSUM) -count=1 -p 1 -tags=$(TAGS) -exec='ip netns exec $(notdir $(CEPH))' ./pkg/rbd/...

.PHONY: ceph-down
ceph-down: ## stop it and remove its state
	@tests/ceph/down

.PHONY: openstack-packages
openstack-packages: ## install the packages of the OpenStack beforehand
	@tests/openstack/up packages

.PHONY: openstack-up
openstack-up: ## start a real OpenStack on this machine: Keystone, Cinder, Nova, Ceph
	@tests/openstack/up

.PHONY: openstack-test
openstack-test: setup programs openstack-up ## test the driver in it: volumes of an instance grow in use
	GROWVOL_OPENSTACK_DIR=$(OPENSTACK) GROWVOL_OPENSTACK_CLOUDS_YAML=$(OPENSTACK)/clouds.yaml \
		$(TESTSUM) -count=1 -p 1 -skip='^TestSpeed$$' ./tests/openstack/... ./tests/fakecloud/... ./pkg/cinder/internal/cloud

.PHONY: openstack-down
openstack-down: ## stop it and remove its state
	@tests/openstack/down

.PHONY: cluster-programs
cluster-programs: ## build the programs of the Kubernetes and of its tests beforehand
	@tests/kubernetes/suite programs

.PHONY: cluster-up
cluster-up: ## start a real Kubernetes with growvol on this machine (the first start builds it: 10 minutes)
	@tests/kubernetes/up

.PHONY: cluster-test
cluster-test: setup cluster-up ## test growvol in it: claims grow while pods write and components crash
	GROWVOL_KUBERNETES_DIR=$(CLUSTER) $(TESTSUM) -count=1 -parallel=4 -skip='^(TestCinder$$|TestCeph$$|TestOperator)' ./tests/kubernetes

.PHONY: cluster-operator-test
cluster-operator-test: setup cluster-up ## measure growths at kubelet's default syncFrequency, and kill growvol-operator in between
	GROWVOL_KUBERNETES_DIR=$(CLUSTER) go test -count=1 -v -timeout=20m -run='^TestOperator' ./tests/kubernetes

.PHONY: recording
recording: setup cluster-up ## record a growth on a terminal in it, and draw the pictures of the README
	GROWVOL_KUBERNETES_DIR=$(CLUSTER) GROWVOL_RECORDING=$(CURDIR)/tests/recording/testdata/expand.cast \
		go test -count=1 -run='^TestExpandOnATerminal$$' ./tests/kubernetes
	go test -count=1 ./tests/recording -update

.PHONY: cluster-openstack-test
cluster-openstack-test: setup programs openstack-up cluster-up ## test with a Nova instance as a node, and volumes of real Cinder
	GROWVOL_KUBERNETES_DIR=$(CLUSTER) GROWVOL_OPENSTACK_DIR=$(OPENSTACK) \
		$(TESTSUM) -count=1 -parallel=4 -run='^TestCinder$$' ./tests/kubernetes

.PHONY: cluster-ceph-test
cluster-ceph-test: setup programs ceph-up cluster-up ## test with guests as nodes, whose kernels map images of a real Ceph
	GROWVOL_KUBERNETES_DIR=$(CLUSTER) GROWVOL_CEPH_DIR=$(CEPH) \
		$(TESTSUM) -count=1 -parallel=5 -run='^TestCeph$$' ./tests/kubernetes

.PHONY: cluster-suite
cluster-suite: cluster-up ## build Kubernetes' own storage tests beforehand
	@tests/kubernetes/suite build

.PHONY: cluster-conformance
cluster-conformance: setup programs openstack-up cluster-suite ## run Kubernetes' own storage tests on both backends, write docs/conformance.md
	GROWVOL_KUBERNETES_DIR=$(CLUSTER) GROWVOL_OPENSTACK_DIR=$(OPENSTACK) \
		GROWVOL_CONFORMANCE=all GROWVOL_CONFORMANCE_RESULTS=$(CURDIR)/docs/conformance.md \
		$(TESTSUM) -count=1 -timeout=6h -run='^TestConformanceOn' ./tests/kubernetes

.PHONY: cluster-conformance-short
cluster-conformance-short: setup cluster-suite ## run those of growth on the loop backend
	GROWVOL_KUBERNETES_DIR=$(CLUSTER) GROWVOL_CONFORMANCE=short \
		$(TESTSUM) -count=1 -run='^TestConformanceOnLoop$$' ./tests/kubernetes

.PHONY: cluster-ceph-conformance
cluster-ceph-conformance: setup programs ceph-up cluster-suite ## run those of growth, snapshots, clones and several volumes on images of a real Ceph
	GROWVOL_KUBERNETES_DIR=$(CLUSTER) GROWVOL_CEPH_DIR=$(CEPH) \
		GROWVOL_CONFORMANCE='\] (volume-expand|snapshottable|provisioning|volumeMode|multiVolume) ' \
		$(TESTSUM) -count=1 -run='^TestConformanceOnCeph$$' ./tests/kubernetes

.PHONY: cluster-down
cluster-down: ## stop it and remove its state
	@tests/kubernetes/down

.PHONY: demo
demo: setup programs ## grow volumes while a checksummed writer uses them (FS=ext2,ext3,ext4,xfs,btrfs)
	@$(BIN)/demo --bin=$(BIN) --fs=$(FS)

.PHONY: bench
bench: setup programs ## compare growth with mount-utils; RPC overhead, memory, sizes, start-up
	@echo "== this machine's kernel"
	@go test -count=1 -run='^$$' -bench=. -benchtime=21x ./tests/bench
	@go test -count=1 -run='^$$' -bench=. ./pkg/controller/...
	@echo "== Cinder and Nova, on the fake cloud"
	@go test -count=1 -run='^$$' -bench=. -benchtime=3x ./pkg/cinder
	@echo "== the guest's kernel, with every capability"
	@go test -count=1 -run='^$$' -bench=Growth -benchtime=21x -exec='$(CURDIR)/$(BIN)/growvol-guest --here --' ./tests/bench

.PHONY: bench-openstack
bench-openstack: setup programs openstack-up ## measure the cinder backend: calls beside what Cinder itself needs
	@GROWVOL_OPENSTACK_DIR=$(OPENSTACK) go test -count=1 -v -run='^TestSpeed$$' ./tests/openstack

# MANY is the number of volumes of the second measurement.
MANY ?= 5000
.PHONY: bench-ceph
bench-ceph: build-ceph ceph-up ## measure the rbd backend: operations of Ceph for each call with 10 and 5,000 volumes
	@go build -o $(BIN)/ ./tests/cephbench
	@ip netns exec $(notdir $(CEPH)) $(BIN)/cephbench --dir=$(CEPH) \
		--controller=$(BIN)/growvol-controller-ceph --many=$(MANY)

# The release of VERSION. With REGISTRY (HOST/PATH), its chart and manifests name that registry.
DIST     := dist
VERSION  ?=
REGISTRY ?=

.PHONY: release-setup
release-setup: ## install what builds a release
	@tests/setup.sh release

.PHONY: release
release: release-setup ## build the release VERSION into dist/: programs, images, chart, manifests; start its images' programs
	@go run ./deploy/release build --version='$(VERSION)' --registry='$(REGISTRY)' --out=$(DIST)
	@go run ./deploy/release check --dist=$(DIST)

.PHONY: release-verify
release-verify: release-setup ## build the release in dist/ again, from a clean checkout elsewhere, and compare every byte
	@deploy/release/verify $(DIST)

.PHONY: release-push
release-push: ## push the images of dist/ to REGISTRY (HOST/PATH), with the credentials of Docker's configuration
	@go run ./deploy/release push --registry='$(REGISTRY)' --dist=$(DIST)

.PHONY: release-packages
release-packages: release-setup ## renew deploy/release/packages.lock: the newest Debian packages for the images
	@go run ./deploy/release lock

.PHONY: clean
clean: ## remove bin/ and dist/
	rm -rf $(BIN) $(DIST)
