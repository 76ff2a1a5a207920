#!/bin/sh
# Rebuilds bin/AGENT-linux-ARCH from AGENT.c, the same bytes every time.
#
#   build.sh            build into bin/
#   build.sh --check    build elsewhere and compare with bin/
#   build.sh --install  install missing compilers first (Debian, as root);
#                       goes with --check too
#
# The committed bytes come from Debian 12: gcc 12.2.0, binutils 2.40.
# Other versions may choose other instructions, so the script refuses them.
set -eu
export LC_ALL=C

gcc_version=12.2.0
ld_version=2.40
remedy="run frontend/agents/build.sh on Debian 12 and commit bin/"

# goarch, GNU triplet, and what differs from the compiler's defaults: arm is
# built for the oldest CPU (no FP, no Thumb), so that one binary serves v5 to v8.
targets="
amd64   x86_64-linux-gnu       -march=x86-64 -fcf-protection=none
386     i686-linux-gnu         -march=i686 -fcf-protection=none
arm64   aarch64-linux-gnu      -march=armv8-a -mbranch-protection=none
arm     arm-linux-gnueabi      -march=armv5te -marm -mfloat-abi=soft
ppc64le powerpc64le-linux-gnu  -mcpu=power8
riscv64 riscv64-linux-gnu      -march=rv64gc -mabi=lp64d -mno-relax
s390x   s390x-linux-gnu        -march=z196
"

# What each agent is built for: the ledger's for size, since every read carries
# it, the other for speed, since it hashes what users build from.
agents="
ledger  -Os
freeze  -Os
"

# No runtime, no library, no variables at run time; nothing in the file that
# the kernel does not load, and no calls to memcpy or strlen made up by gcc.
cflags="-std=c11 -g0 -Wall -Wextra -Werror
	-ffreestanding -fno-builtin -fno-tree-loop-distribute-patterns
	-nostdlib -static -fno-pic -no-pie
	-fno-stack-protector -fno-asynchronous-unwind-tables -fno-unwind-tables
	-fno-ident -fomit-frame-pointer"
ldflags="-Wl,-T,agent.ld,--build-id=none,--no-relax,--no-warn-rwx-segments
	-Wl,-z,noexecstack,-z,norelro,-z,max-page-size=65536 -s"

die() {
	echo "build.sh: $*" >&2
	exit 1
}

# each calls "$2... words" for every line of the list $1.
each() {
	list=$1
	shift
	while read -r line; do
		# shellcheck disable=SC2086 # a line is several words
		[ -z "$line" ] || "$@" $line || exit 1
	done <<-EOT
		$list
	EOT
}

# The compiler of the machine's own architecture is plain gcc in Debian.
print_missing() {
	command -v "$2-gcc" >/dev/null && return
	case "$2" in
	"$(uname -m)"-*) echo gcc ;;
	x86_64-*) echo gcc-x86-64-linux-gnu ;;
	*) echo "gcc-$2" ;;
	esac
}

require_toolchain() {
	have=$("$2-gcc" -dumpfullversion)
	[ "$have" = "$gcc_version" ] ||
		die "$2-gcc is version $have, the committed agents need $gcc_version: use Debian 12"
	have=$("$2-ld" --version | sed -n '1s/.* //p')
	[ "$have" = "$ld_version" ] ||
		die "$2-ld is version $have, the committed agents need $ld_version: use Debian 12"
}

# build compiles agent $1 with optimization $2 for goarch $3, triplet $4.
build() {
	agent=$1 optimize=$2 name=$1-linux-$3 triplet=$4
	shift 4
	# shellcheck disable=SC2086 # lists of flags
	"$triplet-gcc" $cflags "$optimize" "$@" $ldflags -o "$out/$name" "$agent.c"
}

compare() {
	cmp -s "$out/$1-linux-$3" "bin/$1-linux-$3" ||
		die "frontend/agents/bin/$1-linux-$3 is not what $1.c builds to: $remedy"
}

# all calls "$1 agent optimization goarch triplet flags..." for all that is built.
all() { each "$agents" each "$targets" "$1"; }

check="" install=""
for arg; do
	case "$arg" in
	--check) check=1 ;;
	--install) install=1 ;;
	*) die "unknown argument $arg: use --check, --install or nothing" ;;
	esac
done
cd "$(dirname "$0")"

missing=$(each "$targets" print_missing | paste -sd " " -)
if [ "$missing" ] && [ "$install" ]; then
	apt-get update
	# shellcheck disable=SC2086 # a list of packages
	apt-get install -y --no-install-recommends $missing
elif [ "$missing" ]; then
	die "missing compilers: run with --install, or apt-get install $missing"
fi
each "$targets" require_toolchain

out=bin
if [ "$check" ]; then
	out=$(mktemp -d)
	trap 'rm -rf "$out"' EXIT
fi
all build
[ -z "$check" ] || all compare
