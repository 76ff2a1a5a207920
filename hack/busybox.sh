#!/usr/bin/env bash
# Fetches Debian's static busybox for foreign architectures, for multi-platform
# test images: $LOCALFRONT_CACHE/busybox/ARCH/busybox (default: .cache).
#
#   hack/busybox.sh            arm64
#   hack/busybox.sh arm64 ...  Debian architecture names
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${LOCALFRONT_CACHE:-$root/.cache}
sudo=
[ "$(id -u)" -eq 0 ] || sudo=sudo

fetch() {
	local arch=$1 dir=$cache/busybox/$1 tmp
	[ -x "$dir/busybox" ] && return
	if ! dpkg --print-architecture | grep -qx "$arch" &&
		! dpkg --print-foreign-architectures | grep -qx "$arch"; then
		$sudo dpkg --add-architecture "$arch"
		$sudo apt-get update -qq
	fi
	tmp=$(mktemp -d)
	(cd "$tmp" && apt-get -qq -o APT::Sandbox::User=root download "busybox-static:$arch")
	dpkg-deb -x "$tmp"/busybox-static_*.deb "$tmp/root"
	mkdir -p "$dir"
	# Debian 12 ships /bin/busybox, later releases /usr/bin/busybox.
	cp "$(find "$tmp/root" -path '*bin/busybox' -type f | head -n 1)" "$dir/busybox"
	rm -rf "$tmp"
	echo "busybox: $arch"
}

if [ $# -eq 0 ]; then
	set -- arm64
fi
for arch; do
	fetch "$arch"
done
