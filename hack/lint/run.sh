#!/usr/bin/env bash
# Checks the whole repository: format, bugs, style, scripts, go.mod files, the
# checksums of modules and package boundaries. All checks run, then it fails if one has failed.
#
#   hack/lint/run.sh         check
#   hack/lint/run.sh --fix   mend formatting and go.mod files, then check
set -uo pipefail

cd "$(dirname "$0")/../.." || exit
cache=${LOCALFRONT_CACHE:-$PWD/.cache}
tools=$cache/bin/lint
failed=()

# Everything that git knows or would take in: not .cache, not bin.
files() {
	git ls-files --cached --others --exclude-standard --deduplicate -- "$@" |
		while read -r f; do if [ -f "$f" ]; then echo "$f"; fi; done
}

scripts() {
	files | while read -r f; do
		case $(LC_ALL=C head -c 32 "$f" | tr -d '\0' | head -n 1) in
		'#!'*sh) echo "$f" ;;
		esac
	done
}

# Folders of all modules, and of those with code of their own.
modules() {
	files go.mod '*/go.mod' | xargs -n 1 dirname
}

modules_with_code() {
	local m
	modules | while read -r m; do
		if [ -n "$(go -C "$m" list ./... 2>/dev/null | head -n 1)" ]; then echo "$m"; fi
	done
}

# each COMMAND... runs a command in every module that has code.
each() {
	local m ok=0
	for m in $(modules_with_code); do
		(cd "$m" && "$@") || ok=1
	done
	return $ok
}

# check NAME COMMAND... runs one check and notes a failure.
check() {
	local name=$1 start=$SECONDS
	shift
	if "$@"; then
		echo "lint: $name: ok ($((SECONDS - start)) s)"
	else
		echo "lint: $name: FAILED" >&2
		failed+=("$name")
	fi
}

check_format() {
	local bad
	bad=$(files '*.go' | xargs gofmt -s -l) || return
	[ -z "$bad" ] || {
		printf 'not formatted (make fix): %s\n' "$bad" >&2
		return 1
	}
}

check_tidy() {
	local m ok=0
	for m in $(modules); do
		go -C "$m" mod tidy -diff || { echo "$m/go.mod is not tidy (make fix)" >&2; ok=1; }
	done
	return $ok
}

check_scripts() {
	scripts | xargs shellcheck
}

fix() {
	local m
	files '*.go' | xargs gofmt -s -w || return
	for m in $(modules); do
		go -C "$m" mod tidy || return
	done
}

GOBIN=$tools go -C hack/lint install tool || exit
case ${1-} in
'') ;;
--fix) check fix fix ;;
*) echo "run.sh: unknown argument $1: use --fix or nothing" >&2 && exit 2 ;;
esac

check gofmt check_format
check tidy check_tidy
check shellcheck check_scripts
check checksums go mod verify
check vet each go vet ./...
check revive each "$tools/revive" -config "$PWD/hack/lint/revive.toml" -formatter plain ./...
check staticcheck each "$tools/staticcheck" ./...
check boundaries go test ./internal/depcheck

if [ ${#failed[@]} -gt 0 ]; then
	echo "lint: failed: ${failed[*]}" >&2
	exit 1
fi
