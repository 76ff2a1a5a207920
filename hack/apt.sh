#!/usr/bin/env bash
# Installs the Debian packages that tests and the demo need, where missing.
set -euo pipefail

packages=(
	busybox-static git iproute2 iptables qemu-user-static runc shellcheck tini
	rootlesskit uidmap    # for a rootless buildkitd
	libdevmapper1.02.1 # for Docker 20.10
	gcc libc6-dev libseccomp-dev pkg-config # for a runc that is newer than Debian's
)

missing=()
for p in "${packages[@]}"; do
	dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
if [ ${#missing[@]} -eq 0 ]; then
	exit 0
fi
echo "apt: installing ${missing[*]}"
sudo=
[ "$(id -u)" -eq 0 ] || sudo=sudo
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}"
