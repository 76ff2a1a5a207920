#!/usr/bin/env bash
# Builds the engines that tests, benchmarks and the demo run, each from its own
# module beside this script, into $LOCALFRONT_CACHE/bin (default: .cache/bin).
# Docker 20.10, whose modules no longer build, is unpacked from Debian's packages.
#
#   hack/engines/build.sh              all of them
#   hack/engines/build.sh buildkit     one module's
#
# A module is built again only when its go.mod or go.sum has changed, or when
# one of its binaries is missing.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${LOCALFRONT_CACHE:-$here/../../.cache}
mkdir -p "$cache/bin" "$cache/stamps"
cache=$(cd "$cache" && pwd)

# Two runs at once would build everything twice.
exec 9>"$cache/stamps/.lock"
flock 9

# stamp MODULE prints what the module's binaries depend on.
stamp() {
	(cd "$here/$1" && { go env GOVERSION && printf %s "${flags[*]}" && cat go.mod go.sum; } | sha256sum | cut -d' ' -f1)
}

# how MODULE sets where its binaries go, whether C is compiled, and the flags.
how() {
	bin=$cache/bin cgo=0 flags=()
	case $1 in
	moby) flags=(-tags "netgo osusergo static_build nri_no_wasm") ;;
	# Compose asks buildx for its version, and refuses one that has none.
	buildx) flags=("-ldflags=-s -w -X github.com/docker/buildx/version.Version=$(cd "$here/buildx" && go list -m -f '{{.Version}}' github.com/docker/buildx)") ;;
	# Old ones have the names of the new ones, so they are kept apart.
	buildkit-v0.12) bin=$cache/bin/buildkit-v0.12 ;;
	runc)
		# In a folder of its own: containerd and buildkitd go on with Debian's,
		# which dockerd's containers are too new for.
		bin=$cache/bin/docker cgo=1
		flags=(-tags "netgo osusergo seccomp" "-ldflags=-s -w -extldflags -static")
		;;
	esac
	mkdir -p "$bin"
}

# binary TOOL prints what a tool's binary is called.
binary() {
	case $1 in
	github.com/docker/compose/*) echo docker-compose ;;
	*) echo "${1##*/}" ;;
	esac
}

# fresh MODULE TOOL... succeeds when nothing is to be built.
fresh() {
	local module=$1 tool
	shift
	[ "$(cat "$cache/stamps/$module" 2>/dev/null)" = "$(stamp "$module")" ] || return 1
	for tool in "$@"; do
		[ -x "$bin/$(binary "$tool")" ] || return 1
	done
}

build() {
	local module=$1 tools tool new
	how "$module"
	tools=$(cd "$here/$module" && go list tool)
	# shellcheck disable=SC2086 # one word per tool
	if fresh "$module" $tools; then
		echo "engines: $module is up to date"
		return
	fi
	echo "engines: building $module"
	# All tools at once, since linking one takes a single processor. A running
	# engine keeps its file: build beside it, then rename.
	new=$bin/.$module.new
	rm -rf "$new"
	mkdir "$new"
	# shellcheck disable=SC2086 # one word per tool
	(cd "$here/$module" && CGO_ENABLED=$cgo go build -trimpath -ldflags "-s -w" "${flags[@]}" -o "$new/" $tools)
	for tool in $tools; do
		mv "$new/${tool##*/}" "$bin/$(binary "$tool")"
	done
	rmdir "$new"
	stamp "$module" >"$cache/stamps/$module"
}

# unpack FOLDER PACKAGE... puts the programs of Debian's packages into a folder
# of their own, without installing them.
unpack() {
	local dir=$cache/bin/$1 tmp deb
	shift
	if [ -e "$dir/.complete" ]; then
		echo "engines: ${dir##*/} is up to date"
		return
	fi
	echo "engines: unpacking $* (${dir##*/})"
	tmp=$(mktemp -d)
	(cd "$tmp" && apt-get -qq -o APT::Sandbox::User=root download "$@")
	for deb in "$tmp"/*.deb; do
		dpkg-deb -x "$deb" "$tmp/root"
	done
	mkdir -p "$dir"
	find "$tmp/root/usr/bin" "$tmp/root/usr/sbin" -type f -exec cp {} "$dir/" \; # no links to what is not installed
	touch "$dir/.complete"
	rm -rf "$tmp"
}

# link_program PROGRAM NAME... makes a program of Debian's an engine.
link_program() {
	local program name
	program=$(PATH=/usr/sbin:/usr/bin:/sbin:/bin command -v "$1") || {
		echo "engines: no $1 on this machine; run hack/apt.sh" >&2
		exit 1
	}
	shift
	for name; do
		ln -sfn "$program" "$cache/bin/$name"
	done
}

if [ $# -eq 0 ]; then
	set -- buildkit buildx containerd registry runc moby buildkit-v0.12 compose docker-20.10
fi
for module; do
	if [ "$module" = docker-20.10 ]; then
		unpack docker-20.10 docker.io containerd
		continue
	fi
	[ -f "$here/$module/go.mod" ] || {
		echo "engines: no module $module in hack/engines" >&2
		exit 1
	}
	build "$module"
done
# BuildKit looks for buildkit-runc first, containerd's shim for runc. dockerd
# wants docker-init for "docker run --init".
link_program runc runc buildkit-runc
link_program tini-static docker-init
# buildkitd runs steps for another architecture with a program of this name.
mkdir -p "$cache/bin/qemu"
link_program qemu-aarch64-static qemu/buildkit-qemu-aarch64
