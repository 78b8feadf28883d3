# One image for the agent and for HAProxy. Debian stable has HAProxy 3.0 LTS.
FROM golang:1.26-trixie AS build
ARG VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -ldflags "-s -w -X main.version=${VERSION}" -o /mooring ./cmd/mooring

FROM debian:trixie-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends haproxy nftables ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /mooring /usr/local/bin/mooring
ENTRYPOINT ["mooring"]
CMD ["agent", "--config", "/etc/mooring/mooring.yaml"]
