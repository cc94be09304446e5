# Shared by the cluster's and the images' scripts: where things lie, progress lines, the cache.
# shellcheck shell=bash disable=SC2034
set -euo pipefail

SLUICE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
SLUICE_CACHE=$(realpath -m "${SLUICE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice}")
SLUICE_CLUSTER_DIR=$(realpath -m "${SLUICE_CLUSTER_DIR:-$SLUICE_ROOT/.cluster}")
export SLUICE_ROOT SLUICE_CACHE SLUICE_CLUSTER_DIR
mkdir -p "$SLUICE_CACHE/log"

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "${0##*/}: $*"
    exit 1
}

# step WHAT COMMAND…: run it with its output in a log; say what it is, how long it took where that
# is noticeable, and the end of the log where it failed.
step() {
    local what=$1 log started status=0
    shift
    log=$SLUICE_CACHE/log/$(tr -cs 'a-zA-Z0-9.\n' - <<<"$what").$$.log
    started=$SECONDS
    say "==> $what"
    # In the background, so that errexit holds inside functions too; bash drops it within `||`.
    (set -e && "$@") >"$log" 2>&1 &
    wait $! || status=$?
    if [ "$status" != 0 ]; then
        tail -n 40 "$log" >&2
        say "==> $what: failed with status $status after $((SECONDS - started)) s; all of it is in $log"
        return "$status"
    fi
    [ -n "${SLUICE_KEEP_LOGS:-}" ] || rm -f "$log"
    [ $((SECONDS - started)) -lt 2 ] || say "    $what: $((SECONDS - started)) s"
}

# key WORD|FILE…: twelve hex digits that change when a word, or what is in a file or folder, does.
key() {
    local input
    for input in "$@"; do
        if [ -d "$input" ]; then
            (cd "$input" && find . -type f -print0 | sort -z | xargs -0 -r sha256sum)
        elif [ -f "$input" ]; then
            sha256sum <"$input"
        else
            printf '%s\n' "$input"
        fi
    done | sha256sum | cut -c1-12
}

# The name of this machine's distribution, which images are made of too.
suite() { sed -n 's/^VERSION_CODENAME=//p' /etc/os-release; }

# Which images a checkout last built; several may share one cache.
image_tag_file=$SLUICE_CACHE/images/tags/$(sha256sum <<<"$SLUICE_ROOT" | cut -c1-12)

# cached DIR WHAT COMMAND…: make DIR once. COMMAND fills the scratch folder that it gets as its last
# argument; that becomes DIR by one rename, so what is cached is whole, whenever it was interrupted.
cached() {
    local dir=$1 what=$2 scratch lock
    shift 2
    [ ! -d "$dir" ] || return 0
    mkdir -p "${dir%/*}"
    exec {lock}>"$dir.lock"
    flock "$lock"
    if [ ! -d "$dir" ]; then
        scratch=$(mktemp -d "$dir.XXXXXX")
        chmod 755 "$scratch"
        if ! step "$what" "$@" "$scratch"; then
            rm -rf "$scratch"
            return 1
        fi
        mv -T "$scratch" "$dir"
    fi
    exec {lock}>&-
    rm -f "$dir.lock"
}
