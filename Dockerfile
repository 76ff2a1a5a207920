# The frontend image, and the checks that run in containers.
#
#   docker buildx build -t localfront .
#
# The Go base image can be left out: a folder that holds the compiled binary as
# "frontend" takes the place of the stage build. Tests and the demo do this.
#
#   make frontend && docker buildx build --build-context build=bin -t localfront .
#
# There is no syntax line since any BuildKit can build this file.

ARG GO_VERSION=1.26

FROM --platform=$BUILDPLATFORM golang:${GO_VERSION}-alpine AS base
RUN apk add --no-cache bash make
WORKDIR /src

FROM base AS build
ARG TARGETOS TARGETARCH TARGETVARIANT
ARG VERSION=devel
RUN --mount=type=bind,target=. \
    --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    GOOS=$TARGETOS GOARCH=$TARGETARCH GOARM=${TARGETVARIANT#v} \
    make frontend BIN=/frontend VERSION="$VERSION"

# What the checks need beside Go. Git lists the files that are checked; the
# repository itself is not part of the context.
FROM --platform=$BUILDPLATFORM golang:${GO_VERSION}-bookworm AS checks
RUN --mount=type=bind,source=hack/apt.sh,target=/apt.sh /apt.sh
WORKDIR /src

FROM checks AS lint
RUN --mount=type=bind,target=.,rw \
    --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    git init --quiet && make lint

FROM checks AS test
RUN --mount=type=bind,target=.,rw \
    --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    make deps test-unit

FROM checks AS builds
RUN --mount=type=bind,target=.,rw \
    --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    git init --quiet && make cross reproducible VERSION=devel

# What ships: one static binary, and what BuildKit must know of it.
#
# The labels are those of the official frontend of the BuildKit version that
# this one is made from (frontend/dockerfile/cmd/dockerfile-frontend/Dockerfile
# there): its container gets no network, and the capabilities tell BuildKit what
# it may ask for.
FROM scratch AS image
ARG VERSION=devel
LABEL moby.buildkit.frontend.network.none="true" \
      moby.buildkit.frontend.caps="moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests,moby.buildkit.frontend.contexts,moby.buildkit.frontend.gitquerystring,moby.buildkit.frontend.contexts.zstd"
LABEL org.opencontainers.image.title="localfront" \
      org.opencontainers.image.description="BuildKit's Dockerfile frontend, answering image names from what the builder remembers" \
      org.opencontainers.image.source="https://github.com/org/localfront" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /frontend /bin/frontend
ENTRYPOINT ["/bin/frontend"]
