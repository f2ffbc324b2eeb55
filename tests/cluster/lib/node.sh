# shellcheck shell=bash
# The one node: bridge, containerd, kubelet, kube-proxy and the name server; to be sourced. Needs root.

ctr() { command ctr -a "$BUILT/containerd/containerd.sock" -n k8s.io "$@"; }

# claim_machine: there is one node cluster per machine, and none beside another Kubernetes node.
claim_machine() {
  local owner=
  [ "$(id -u)" = 0 ] || die "a node takes root; without it there is 'up --control-plane-only'"
  if [ -f $NODE_RECORD ]; then owner=$(<$NODE_RECORD); fi
  if [ -z "$owner" ]; then
    if iptables -t nat -S 2>/dev/null | grep -q '^-N KUBE-SERVICES'; then
      die "another Kubernetes node runs on this machine: name its cluster with HEADRACE_KUBECONFIG"
    fi
    if ip route show root 10.244.0.0/16 | grep -vq " dev $BRIDGE "; then
      die "the pods' range $POD_RANGE is in use: $(ip route show root 10.244.0.0/16 | head -n 1)"
    fi
  elif [ "$owner" != "$STATE" ] && [ -d "$owner" ]; then
    die "this machine's node belongs to the cluster in $owner: end it with tests/cluster/down --state $owner"
  fi
  echo "$STATE" >$NODE_RECORD
}

make_bridge() {
  cat /proc/sys/net/ipv4/ip_forward >"$BUILT/ip_forward.before"
  echo 1 >/proc/sys/net/ipv4/ip_forward
  ip link add $BRIDGE type bridge
  ip addr add $NODE_IP/24 dev $BRIDGE
  ip link set $BRIDGE up
  # Docker's default for forwarded packets is to drop them.
  iptables -I FORWARD -i $BRIDGE -m comment --comment $BRIDGE -j ACCEPT
  iptables -I FORWARD -o $BRIDGE -m comment --comment $BRIDGE -j ACCEPT
}

start_containerd() {
  local snapshotter=overlayfs plugins=/usr/lib/cni
  # An overlay cannot lie on an overlay, which is what a container's own file system is.
  if [ "$(stat -f -c %T "$BUILT")" = overlayfs ]; then snapshotter=native; fi
  [ -x $plugins/bridge ] || plugins=/opt/cni/bin
  mkdir -p "$BUILT/containerd" "$BUILT/cni"
  cat >"$BUILT/containerd.toml" <<TOML
version = 2
root = "$BUILT/containerd/root"
state = "$BUILT/containerd/state"
[grpc]
  address = "$BUILT/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"
  restrict_oom_score_adj = true       # where CAP_SYS_RESOURCE is missing, runc dies without it
  netns_mounts_under_state_dir = true # so that everything to be unmounted lies below one folder
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$plugins"
    conf_dir = "$BUILT/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
TOML
  cat >"$BUILT/cni/10-headrace.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "headrace", "plugins": [
  {"type": "bridge", "bridge": "$BRIDGE", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$BUILT/cni/addresses",
            "ranges": [[{"subnet": "$POD_RANGE"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
JSON
  start containerd "$(command -v containerd)" -c "$BUILT/containerd.toml"
  await 30 containerd ctr version
  ctr images import "$PAUSE_ARCHIVE" >/dev/null
}

start_coredns() {
  cat >"$BUILT/Corefile" <<CORE
.:53 {
  bind $NODE_IP
  errors
  cache 10
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    kubeconfig $BUILT/coredns.kubeconfig
    pods insecure
    fallthrough in-addr.arpa ip6.arpa
  }
  forward . /etc/resolv.conf
}
CORE
  start coredns "$KUBE" coredns -conf "$BUILT/Corefile"
}

# make_cgroup: the pods' control groups lie below one of our own, in every hierarchy, to be told from another's.
make_cgroup() {
  local top controller
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p /sys/fs/cgroup/headrace
    for controller in cpu cpuset memory pids io hugetlb; do
      for top in /sys/fs/cgroup /sys/fs/cgroup/headrace; do
        echo "+$controller" 2>/dev/null >$top/cgroup.subtree_control || true
      done
    done
  else
    for top in /sys/fs/cgroup/*/; do
      # Links such as cpu → cpu,cpuacct name a hierarchy twice.
      [ -L "${top%/}" ] || mkdir -p "${top}headrace"
    done
  fi
}

start_kubelet() {
  make_cgroup
  cat >"$BUILT/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupRoot: /headrace
failSwapOn: false
failCgroupV1: false
containerRuntimeEndpoint: unix://$BUILT/containerd/containerd.sock
address: $NODE_IP
podLogsDir: $BUILT/pod-logs
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: $BUILT/pki/ca.crt}}
authorization: {mode: AlwaysAllow}
clusterDNS: ["$NODE_IP"]
clusterDomain: cluster.local
resolvConf: /etc/resolv.conf
# A developer's disk is fuller than a node's; and images are imported, so one collected would be gone for good.
imageGCHighThresholdPercent: 100
evictionHard: {imagefs.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%"}
shutdownGracePeriod: 0s
YAML
  start kubelet "$KUBE" kubelet --config "$BUILT/kubelet.yaml" --kubeconfig "$BUILT/kubelet.kubeconfig" \
    --hostname-override $NODE_NAME --node-ip $NODE_IP --root-dir "$BUILT/kubelet"
}

start_proxy() {
  local masquerade_all=false
  # Two pods on one bridge see each other's packets past the service's address unless the bridge passes them to iptables;
  # where it does not, replies have to come back through the host.
  if [ "$(cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null)" != 1 ]; then masquerade_all=true; fi
  cat >"$BUILT/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $BUILT/proxy.kubeconfig}
mode: iptables
iptables: {masqueradeAll: $masquerade_all}
clusterCIDR: $POD_RANGE
hostnameOverride: $NODE_NAME
bindAddress: $NODE_IP
conntrack: {maxPerCore: 0}
YAML
  start proxy "$KUBE" kube-proxy --config "$BUILT/proxy.yaml"
}

# start_node: beside a control plane that listens at NODE_IP.
start_node() {
  local server pid
  server=$(sed -n 's/.*server: "\(.*\)", .*/\1/p' "$BUILT/admin.kubeconfig")
  make_certificate kubelet "system:node:$NODE_NAME" system:nodes
  make_certificate proxy system:kube-proxy system:node-proxier
  make_certificate coredns coredns system:masters
  for pid in kubelet proxy coredns; do make_kubeconfig $pid "$server"; done
  start_containerd
  start_coredns
  start_kubelet
  start_proxy
  await 60 kubelet built_kubectl wait --for=condition=Ready "node/$NODE_NAME" --timeout=5s
}

# set_gpus COUNT: pretended ones, so that scheduling by nvidia.com/gpu limits is the scheduler's own. The kubelet leaves a
# resource alone that no device plugin registered.
set_gpus() {
  built_kubectl patch node $NODE_NAME --subresource=status --type=merge \
    -p '{"status":{"capacity":{"nvidia.com/gpu":"'"$1"'"},"allocatable":{"nvidia.com/gpu":"'"$1"'"}}}' >/dev/null
}
