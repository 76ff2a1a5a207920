#!/usr/bin/env bash
# Builds the engines that tests, benchmarks and the demo run, each from its own
# module beside this script, into $LOCALFRONT_CACHE/bin (default: .cache/bin).
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
	(cd "$here/$1" && { go env GOVERSION && cat go.mod go.sum; } | sha256sum | cut -d' ' -f1)
}

# fresh MODULE TOOL... succeeds when nothing is to be built.
fresh() {
	local module=$1 tool
	shift
	[ "$(cat "$cache/stamps/$module" 2>/dev/null)" = "$(stamp "$module")" ] || return 1
	for tool in "$@"; do
		[ -x "$cache/bin/${tool##*/}" ] || return 1
	done
}

build() {
	local module=$1 tools tool
	tools=$(cd "$here/$module" && go list tool)
	# shellcheck disable=SC2086 # one word per tool
	if fresh "$module" $tools; then
		echo "engines: $module is up to date"
		return
	fi
	for tool in $tools; do
		echo "engines: building ${tool##*/} ($module)"
		# A running engine keeps its file: build beside it, then rename.
		(cd "$here/$module" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" \
			-o "$cache/bin/.${tool##*/}.new" "$tool")
		mv "$cache/bin/.${tool##*/}.new" "$cache/bin/${tool##*/}"
	done
	stamp "$module" >"$cache/stamps/$module"
}

# BuildKit looks for buildkit-runc first, containerd's shim for runc.
link_runc() {
	local runc
	runc=$(PATH=/usr/sbin:/usr/bin:/sbin:/bin command -v runc) || {
		echo "engines: no runc on this machine; run hack/apt.sh" >&2
		exit 1
	}
	ln -sfn "$runc" "$cache/bin/runc"
	ln -sfn "$runc" "$cache/bin/buildkit-runc"
}

if [ $# -eq 0 ]; then
	set -- buildkit buildx containerd registry
fi
for module; do
	[ -f "$here/$module/go.mod" ] || {
		echo "engines: no module $module in hack/engines" >&2
		exit 1
	}
	build "$module"
done
link_runc
