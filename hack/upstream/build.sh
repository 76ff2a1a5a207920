#!/usr/bin/env bash
# Compiles BuildKit's own Dockerfile suite into
# $LOCALFRONT_CACHE/upstream/dockerfile.test (default: .cache/upstream), for
# tests/upstream. It is compiled again only when go.mod, go.sum or the Go
# version has changed: 2 to 4 minutes.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=${LOCALFRONT_CACHE:-$here/../../.cache}/upstream
mkdir -p "$out"
out=$(cd "$out" && pwd)

# Two runs at once would compile twice.
exec 9>"$out/.lock"
flock 9

stamp=$(cd "$here" && { go env GOVERSION && cat go.mod go.sum; } | sha256sum | cut -d' ' -f1)
if [ -x "$out/dockerfile.test" ] && [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ]; then
	exit 0
fi
echo "upstream: compiling BuildKit's Dockerfile suite"
# A running suite keeps its file: compile beside it, then rename.
(cd "$here" && CGO_ENABLED=0 go test -c -trimpath -ldflags "-s -w" \
	-o "$out/.dockerfile.test.new" github.com/moby/buildkit/frontend/dockerfile)
mv "$out/.dockerfile.test.new" "$out/dockerfile.test"
echo "$stamp" >"$out/stamp"
