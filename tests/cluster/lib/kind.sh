# shellcheck shell=bash
# A cluster by kind, where a Docker engine runs; to be sourced. Its kubeconfig is a file of its own: the user's is not touched.

kind_is_usable() { command -v kind >/dev/null && docker info >/dev/null 2>&1; }

# kind_name: control planes may be several, so their clusters are named after their folder.
kind_name() {
  if [ "$1" = node ]; then echo $KIND_NAME; else echo "$KIND_NAME-$(digest <<<"$STATE" | cut -c1-8)"; fi
}

kind_up() { # node | control-plane
  local name kubectl helm node kube
  name=$(kind_name "$1")
  if ! kind get clusters 2>/dev/null | grep -qxF "$name"; then
    with_progress 90 "creating the kind cluster $name" "$STATE/kind.log" \
      kind create cluster --name "$name" --kubeconfig "$STATE/kubeconfig" --wait 120s
  else
    (umask 077; kind get kubeconfig --name "$name" >"$STATE/kubeconfig")
  fi
  kubectl=$(tool kubectl)
  helm=$(tool helm)
  if [ -z "$kubectl" ] || [ -z "$helm" ]; then
    kube=$("$HERE/kube/build")
    mkdir -p "$STATE/bin"
    ln -sfn "$kube" "$STATE/bin/kubectl"
    ln -sfn "$kube" "$STATE/bin/helm"
    kubectl=${kubectl:-$STATE/bin/kubectl} helm=${helm:-$STATE/bin/helm}
  fi
  "$kubectl" --kubeconfig "$STATE/kubeconfig" --request-timeout 10s get --raw /readyz >/dev/null ||
    die "the kind cluster $name does not answer; 'tests/cluster/down' removes it"
  node=$name-control-plane
  echo "$name" >"$STATE/kind.name"
  if [ "$1" = node ]; then
    "$kubectl" --kubeconfig "$STATE/kubeconfig" patch node "$node" --subresource=status --type=merge \
      -p '{"status":{"capacity":{"nvidia.com/gpu":"'"${GPUS:-1}"'"},"allocatable":{"nvidia.com/gpu":"'"${GPUS:-1}"'"}}}' >/dev/null
  fi
  write_env FLAVOUR=kind HEADRACE_KUBECONFIG_EFFECTIVE="$STATE/kubeconfig" KUBECTL="$kubectl" HELM="$helm" \
    NODE="$node" KIND_CLUSTER="$name"
}

kind_down() {
  [ -f "$STATE/kind.name" ] || return 0
  kind delete cluster --name "$(<"$STATE/kind.name")" --kubeconfig "$STATE/kubeconfig"
  rm -f "$STATE/kind.name"
}

# kind_load IMAGE: into the node, unless it is there.
kind_load() {
  if docker exec "$KIND_CLUSTER-control-plane" crictl inspecti -q "$1" >/dev/null 2>&1; then return; fi
  mkdir -p "$CACHE/log"
  with_progress 20 "loading $1 into the node" "$CACHE/log/kind-load.log" kind load docker-image "$1" --name "$KIND_CLUSTER"
}
