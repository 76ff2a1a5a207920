#!/usr/bin/env bash
# Checks the whole repository: format, bugs, style, scripts, go.mod files and
# package boundaries. All checks run, then it fails if one has failed.
#
#   hack/lint/run.sh         check
#   hack/lint/run.sh --fix   mend formatting and go.mod files, then check
set -uo pipefail

cd "$(dirname "$0")/../.." || exit
cache=${LOCALFRONT_CACHE:-$PWD/.cache}
tools=$cache/bin/lint
modules=(. hack/lint hack/engines/*/)
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
	for m in "${modules[@]}"; do
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
	for m in "${modules[@]}"; do
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
check vet go vet ./...
check revive "$tools/revive" -config hack/lint/revive.toml -formatter plain ./...
check staticcheck "$tools/staticcheck" ./...
check boundaries go test ./internal/depcheck

if [ ${#failed[@]} -gt 0 ]; then
	echo "lint: failed: ${failed[*]}" >&2
	exit 1
fi
