# shellcheck shell=bash
# Where a cluster keeps its things, and what is fixed about it; to be sourced.
LIB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
HERE=$(dirname "$LIB")
. "$HERE/../../hack/cache.sh"
PATH=$PATH:/usr/sbin:/sbin

NODE_NAME=node-1
BRIDGE=headrace0
NODE_IP=10.244.0.1       # the bridge's address: the node's own, the API server's and the name server's
POD_RANGE=10.244.0.0/24
SERVICE_RANGE=10.96.0.0/16
API_SERVICE_IP=10.96.0.1
KIND_NAME=headrace
# Bridge and ranges exist once per machine, so there is one node cluster; this file names its folder.
NODE_RECORD=/run/headrace-node-cluster

# use_state DIR: STATE is what users of a cluster see; BUILT, below it, belongs to the cluster built here.
use_state() {
  STATE=$(mkdir -p "$1" && cd "$1" && pwd -P)
  [[ $STATE != *[[:space:]]* ]] || die "the state folder's path may not contain white space: $STATE"
  BUILT=$STATE/built
  export STATE
}
DEFAULT_STATE=${HEADRACE_CLUSTER_STATE:-$CACHE/cluster}
DEFAULT_CONTROL_PLANE_STATE=${HEADRACE_CLUSTER_STATE:-$CACHE/control-plane}

# lock_state: one up, down or images at a time for a state folder.
lock_state() {
  exec 9>"$STATE/.lock"
  flock -n 9 || { note "another process works on $STATE, waiting"; flock 9; }
}

# write_env NAME=VALUE…: what other scripts source. The images' names live in a file of their own, as they change oftener.
write_env() {
  {
    echo "# Written by tests/cluster/up; to be sourced."
    local pair
    for pair in "$@"; do printf 'export %s=%q\n' "${pair%%=*}" "${pair#*=}"; done
    printf 'if [ -f %q ]; then set -a; . %q; set +a; fi\n' "$STATE/images.env" "$STATE/images.env"
  } >"$STATE/env.new"
  mv "$STATE/env.new" "$STATE/env"
}
