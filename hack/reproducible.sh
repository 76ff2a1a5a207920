#!/usr/bin/env bash
# Builds the frontend twice and compares the bytes: from two copies of the tree
# under different paths, at different times, by two runs of the compiler.
#
# Dependencies come from Go's build cache. Packages of this module must not, or
# the second run would only repeat what the first has stored: their entries are
# taken out of the cache before each build, and `go build -v` has to name every
# one of them as compiled.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
VERSION=${VERSION:-devel}
export VERSION
cache=$(go env GOCACHE)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# forget TREE removes the cached results of this module's packages: files named
# by the action id, which is the first half of a build id.
forget() {
	local id hex
	# shellcheck disable=SC2016 # Go templates
	(cd "$1" && "${list[@]}" -export -f '{{if not .Standard}}{{with .Module}}{{if .Main}}{{$.BuildID}}{{end}}{{end}}{{end}}' ./cmd/frontend) |
		while IFS=/ read -r id _; do
			[ -n "$id" ] || continue
			hex=$(tr '_-' '/+' <<<"$id" | base64 -d | od -An -v -tx1 | tr -d ' \n')
			rm -f "$cache/${hex:0:2}/$hex"*-a
		done
}

# build TREE
build() {
	local missing
	forget "$1"
	make -C "$1" -s frontend GOFLAGS=-v 2>"$1/compiled"
	missing=$( (cd "$1" && "${list[@]}" -f '{{with .Module}}{{if .Main}}{{$.ImportPath}}{{end}}{{end}}' ./cmd/frontend) |
		grep -vxFf "$1/compiled" || true)
	if [ -n "$missing" ]; then
		echo "reproducible: not compiled anew: $missing" >&2
		exit 1
	fi
}

# The same flags as in the Makefile, or other entries of the cache are meant.
list=(env CGO_ENABLED=0 go list -deps -trimpath -buildvcs=false -tags grpcnotrace)

for tree in "$tmp/a" "$tmp/another/and/longer/path"; do
	mkdir -p "$tree"
	(cd "$root" && git ls-files -z --cached --others --exclude-standard --deduplicate |
		while IFS= read -r -d '' f; do if [ -e "$f" ]; then printf '%s\0' "$f"; fi; done |
		tar --null --files-from=- --create --file=-) | tar --extract --touch --directory="$tree"
	build "$tree"
done

first=$(sha256sum <"$tmp/a/bin/frontend")
second=$(sha256sum <"$tmp/another/and/longer/path/bin/frontend")
echo "reproducible: ${first%% *}"
if [ "$first" != "$second" ]; then
	echo "reproducible: the second build has other bytes: ${second%% *}" >&2
	exit 1
fi
