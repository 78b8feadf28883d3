# One image for the agent and for HAProxy, made of the same files as make image-archive:
# the binary, HAProxy, nft, their libraries, CA certificates and licences. No shell, no
# package manager; it runs with a read-only root. A release pins the base by its digest:
#
#   docker build --build-arg BASE=golang:1.26-trixie@sha256:… .
#
# Debian 13 (trixie) has HAProxy 3.0 LTS.
ARG BASE=golang:1.26-trixie
FROM ${BASE} AS build
ARG VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=${VERSION}" -o /mooring ./cmd/mooring
RUN apt-get update \
 && cd build && go run . rootfs --src .. --binary /mooring --out /rootfs

FROM scratch
COPY --from=build /rootfs/ /
# root, because capabilities do not pass to other users' processes; the pod drops all
# but NET_ADMIN, NET_RAW, NET_BIND_SERVICE and SYS_NICE.
USER 0:0
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin
ENTRYPOINT ["/usr/local/bin/mooring"]
CMD ["agent", "--config", "/etc/mooring/mooring.yaml"]
