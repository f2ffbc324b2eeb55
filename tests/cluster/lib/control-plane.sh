# shellcheck shell=bash
# etcd, API server, controller manager and scheduler; to be sourced.

built_kubectl() { "$KUBE" kubectl --kubeconfig "$BUILT/admin.kubeconfig" "$@"; }

# start_control_plane LISTEN_IP: on free ports of that address.
start_control_plane() {
  local ip=$1 ports etcd_port peer_port api_port extra=() controllers='*'
  # An API server as small as this one otherwise spends a fifth of its CPU on collecting a heap of 100 MiB.
  local -x GOGC=${GOGC:-400}
  mapfile -t ports < <(free_ports 3)
  etcd_port=${ports[0]} peer_port=${ports[1]} api_port=${ports[2]}
  make_authority
  make_certificate apiserver kube-apiserver kubernetes
  make_certificate admin admin system:masters
  make_kubeconfig admin "https://$ip:$api_port"

  start etcd "$KUBE" etcd --data-dir "$BUILT/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
    --listen-peer-urls "http://127.0.0.1:$peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" \
    --initial-cluster "default=http://127.0.0.1:$peer_port"
  # Without a node nobody dials the kubernetes service, and a loopback address cannot be its endpoint.
  # Nor would pods run: tests that want some play them, and what follows from them; no controller may play against them.
  if [ "$ip" = 127.0.0.1 ]; then
    extra=(--endpoint-reconciler-type none)
    controllers='*,-deployment-controller,-replicaset-controller,-garbage-collector-controller'
  fi
  start apiserver "$KUBE" kube-apiserver --etcd-servers "http://127.0.0.1:$etcd_port" \
    --bind-address "$ip" --advertise-address "$ip" --secure-port "$api_port" "${extra[@]}" \
    --tls-cert-file "$BUILT/pki/apiserver.crt" --tls-private-key-file "$BUILT/pki/apiserver.key" \
    --client-ca-file "$BUILT/pki/ca.crt" --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file "$BUILT/pki/service-accounts.pub" \
    --service-account-signing-key-file "$BUILT/pki/service-accounts.key" \
    --service-cluster-ip-range "$SERVICE_RANGE" --authorization-mode Node,RBAC \
    --enable-admission-plugins NodeRestriction --allow-privileged --max-requests-inflight 800 \
    --kubelet-client-certificate "$BUILT/pki/admin.crt" --kubelet-client-key "$BUILT/pki/admin.key" \
    --kubelet-preferred-address-types InternalIP
  await 60 apiserver listens "$ip" "$api_port"
  await 60 apiserver built_kubectl get --raw /readyz
  # Nothing watches their own health ports, so they open none.
  start controller-manager "$KUBE" kube-controller-manager --kubeconfig "$BUILT/admin.kubeconfig" --secure-port 0 \
    --service-account-private-key-file "$BUILT/pki/service-accounts.key" --root-ca-file "$BUILT/pki/ca.crt" \
    --use-service-account-credentials --leader-elect=false --pvclaimbinder-sync-period 1s --controllers "$controllers"
  [ "$ip" = 127.0.0.1 ] || start scheduler "$KUBE" kube-scheduler --kubeconfig "$BUILT/admin.kubeconfig" --secure-port 0 --leader-elect=false
  await 60 controller-manager built_kubectl get serviceaccount default
}

# control_plane_is_healthy: what a former run started is all there and answers.
control_plane_is_healthy() {
  local file
  [ -f "$BUILT/complete" ] || return 1
  for file in "$BUILT"/*.pid; do ours "$(<"$file")" || return 1; done
  built_kubectl --request-timeout 5s get --raw /readyz >/dev/null 2>&1
}
