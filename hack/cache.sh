# shellcheck shell=bash
# The cache and its manners; to be sourced by the other scripts.
#
# Everything that takes long to make is kept in $CACHE/KIND/HASH, where HASH names what it is made from. It is made in
# a folder beside that place and renamed when complete, so whatever is there is whole; a lock keeps two processes from
# making the same thing twice.
shopt -s inherit_errexit

CACHE=${HEADRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/headrace}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CACHE ROOT

note() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# The name of what comes in on stdin.
digest() { sha256sum | cut -c1-16; }

# seconds → "4 min 10 s"
span() { if [ "$1" -lt 60 ]; then echo "$1 s"; else echo "$(($1 / 60)) min $(($1 % 60)) s"; fi; }

# with_progress EXPECTED_SECONDS WHAT LOG COMMAND…: runs COMMAND with its output in LOG and says how it goes. The command
# gets a process group of its own, which ends with us.
with_progress() (
  expected=$1 what=$2 log=$3; shift 3
  began=$SECONDS beat=15 status=0
  note "$what: about $(span "$expected"); log in $log"
  setsid "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  trap 'kill -TERM -- "-$pid" 2>/dev/null || true' EXIT
  trap 'exit 130' INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if [ $((SECONDS - began)) -ge $beat ]; then
      note "$what: $(span $beat) of about $(span "$expected")"
      beat=$((beat + 15))
    fi
  done
  wait "$pid" || status=$?
  trap - EXIT
  if [ "$status" != 0 ]; then
    tail -n 30 "$log" >&2
    die "$what failed after $(span $((SECONDS - began))); all of its output is in $log"
  fi
  note "$what: done in $(span $((SECONDS - began)))"
)

# cached KIND HASH EXPECTED_SECONDS WHAT COMMAND…: prints the artefact's folder. Where it is missing, COMMAND makes it: it
# runs in an empty folder and leaves there what is to be kept; $FINAL is the path under which it will be found.
cached() (
  kind=$1 hash=$2 expected=$3 what=$4; shift 4
  final=$CACHE/$kind/$hash
  if [ ! -d "$final" ]; then
    mkdir -p "$CACHE/$kind" "$CACHE/log"
    exec {lock}>"$CACHE/$kind/$hash.lock"
    if ! flock -n "$lock"; then
      note "$what: another process is at it, waiting"
      flock "$lock"
    fi
    if [ ! -d "$final" ]; then
      rm -rf "$CACHE/$kind/.$hash."*
      work=$(mktemp -d "$CACHE/$kind/.$hash.XXXXXX")
      chmod 755 "$work"
      trap 'rm -rf "$work"' EXIT
      (cd "$work" && FINAL=$final with_progress "$expected" "$what" "$CACHE/log/$kind-$hash.log" "$@") {lock}>&-
      mv -T "$work" "$final"
      trap - EXIT
    fi
  fi
  printf '%s\n' "$final"
)

# keep_newest KIND COUNT: forgets all but the COUNT artefacts made last.
keep_newest() (
  cd "$CACHE/$1" 2>/dev/null || exit 0
  ls -1td -- */ 2>/dev/null | tail -n +$(($2 + 1)) | while read -r old; do rm -rf -- "./${old:?}" "./${old%/}.lock"; done
)

# requirement FILE NAME: the pinned requirement with its hashes.
requirement() {
  awk -v start="$2==" 'index($0, start) == 1 {p = 1} p {print} p && !/\\$/ {exit}' "$ROOT/requirements/$1"
}

# The Python that the virtual environments are made from.
PYTHON=${PYTHON:-python3}
