# shellcheck shell=bash
# A cluster that the user named with HEADRACE_KUBECONFIG: used as it is, never built, changed or ended; to be sourced.

# tool NAME: a client on the PATH, else the one in the binary built here, if it was built; nothing where there is neither.
tool() {
  local kube
  if type -P "$1"; then return; fi
  for kube in "$CACHE"/kube/*/kube; do
    if [ -x "$kube" ]; then
      mkdir -p "$STATE/bin"
      ln -sfn "$kube" "$STATE/bin/$1"
      echo "$STATE/bin/$1"
      return
    fi
  done
}

use_existing() {
  local kubectl helm node
  [ -f "$HEADRACE_KUBECONFIG" ] || die "HEADRACE_KUBECONFIG names no file: $HEADRACE_KUBECONFIG"
  kubectl=$(tool kubectl)
  helm=$(tool helm)
  [ -n "$kubectl" ] || die "kubectl is not on the PATH"
  [ -n "$helm" ] || note "helm is not on the PATH: the chart cannot be installed by these scripts"
  "$kubectl" --kubeconfig "$HEADRACE_KUBECONFIG" --request-timeout 10s get --raw /readyz >/dev/null ||
    die "the cluster of HEADRACE_KUBECONFIG does not answer: $HEADRACE_KUBECONFIG"
  node=$("$kubectl" --kubeconfig "$HEADRACE_KUBECONFIG" get nodes -o jsonpath='{.items[0].metadata.name}' 2>/dev/null || true)
  # A copy with everything in it: relative paths of certificates would lead nowhere from here.
  (umask 077; "$kubectl" --kubeconfig "$HEADRACE_KUBECONFIG" config view --raw --flatten >"$STATE/kubeconfig")
  # Its registry is the user's: images are the ones in the environment, or else the chart's own.
  printf '%s=%s\n' OPERATOR_IMAGE "${OPERATOR_IMAGE:-}" RUNNER_IMAGE "${RUNNER_IMAGE:-}" \
    REDIS_IMAGE "${REDIS_IMAGE:-}" >"$STATE/images.env"
  write_env FLAVOUR=existing HEADRACE_KUBECONFIG_EFFECTIVE="$(readlink -f "$HEADRACE_KUBECONFIG")" \
    KUBECTL="$kubectl" HELM="$helm" NODE="$node"
  note "using the cluster of HEADRACE_KUBECONFIG ($HEADRACE_KUBECONFIG); nothing was built or started"
}
