# The images of the plugins; the controller of the backend rbd has the Ceph libraries:
#
#   docker build --target controller      -t growvol-controller .
#   docker build --target controller-ceph -t growvol-controller-ceph .
#   docker build --target node            -t growvol-node .
#   docker build --target operator        -t growvol-operator .

FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd ./cmd
COPY pkg ./pkg
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/ \
    ./cmd/growvol-controller ./cmd/growvol-node ./cmd/growvol-operator

FROM build AS build-ceph
RUN apt-get update \
    && apt-get install -y --no-install-recommends librados-dev librbd-dev \
    && rm -rf /var/lib/apt/lists/*
# The tag pacific leaves out what Debian 12's librbd (16.2) lacks.
RUN CGO_ENABLED=1 go build -tags=ceph,pacific -trimpath -ldflags='-s -w' -o /out/growvol-controller-ceph ./cmd/growvol-controller

# The controller talks to a cloud and to a socket: it needs certificate authorities,
# but no shell and no root.
FROM scratch AS controller
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/growvol-controller /growvol-controller
USER 65532:65532
ENTRYPOINT ["/growvol-controller"]

# The same with librados and librbd, which connect to the Ceph clusters.
FROM debian:12.12-slim AS controller-ceph
RUN apt-get update \
    && apt-get install -y --no-install-recommends librados2 librbd1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build-ceph /out/growvol-controller-ceph /growvol-controller
USER 65532:65532
ENTRYPOINT ["/growvol-controller"]

# The operator talks to the API server, whose certificate authority is beside its token.
FROM scratch AS operator
COPY --from=build /out/growvol-operator /growvol-operator
USER 65532:65532
ENTRYPOINT ["/growvol-operator"]

# The node plugin runs mkfs, e2fsck and cryptsetup; growing a filesystem needs no
# program. kmod loads the module rbd, if the node has not. It runs as root, since it mounts.
FROM debian:12.12-slim AS node
RUN apt-get update \
    && apt-get install -y --no-install-recommends cryptsetup-bin e2fsprogs kmod xfsprogs \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/growvol-node /growvol-node
ENTRYPOINT ["/growvol-node"]
