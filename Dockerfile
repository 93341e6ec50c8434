# The images of both plugins:
#
#   docker build --target controller -t growvol-controller .
#   docker build --target node       -t growvol-node .

FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd ./cmd
COPY pkg ./pkg
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/ ./cmd/growvol-controller ./cmd/growvol-node

# The controller talks to a cloud and to a socket: it needs certificate authorities,
# but no shell and no root.
FROM scratch AS controller
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/growvol-controller /growvol-controller
USER 65532:65532
ENTRYPOINT ["/growvol-controller"]

# The node plugin runs mkfs, e2fsck and cryptsetup; growing a filesystem needs no
# program. It runs as root, since it mounts.
FROM debian:12.12-slim AS node
RUN apt-get update \
    && apt-get install -y --no-install-recommends cryptsetup-bin e2fsprogs xfsprogs \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/growvol-node /growvol-node
ENTRYPOINT ["/growvol-node"]
