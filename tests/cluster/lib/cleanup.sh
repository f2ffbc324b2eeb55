# shellcheck shell=bash
# Ends a built cluster and takes back everything it did to the machine, whole or left behind by a killed run; to be sourced.

bundles() { find "$BUILT/containerd/state/io.containerd.runtime.v2.task" -mindepth 2 -maxdepth 2 -type d 2>/dev/null || true; }

# kill_containers: the first process of each (the rest of its process namespace goes with it), if it is still that
# container's, then the shims, which carry our socket's path among their arguments.
kill_containers() {
  local bundle pid cmdline shims=()
  for bundle in $(bundles); do
    pid=$(cat "$bundle/init.pid" 2>/dev/null) || continue
    if grep -qF "${bundle##*/}" "/proc/$pid/cgroup" 2>/dev/null; then kill -9 "$pid" 2>/dev/null || true; fi
  done
  for cmdline in /proc/[0-9]*/cmdline; do
    if tr '\0' ' ' 2>/dev/null <"$cmdline" | grep -qF -- "-address $BUILT/containerd/containerd.sock"; then
      pid=${cmdline#/proc/}
      shims+=("${pid%/cmdline}")
    fi
  done
  stop "${shims[@]}"
  for bundle in $(bundles); do
    if [ -f "$bundle/address" ]; then rm -f "$(sed 's|^unix://||' "$bundle/address")"; fi
  done
}

mounts_below() { awk -v root="$1/" 'index($2, root) == 1 {print $2}' /proc/mounts | sort -r; }

# remove_chains TABLE-COMMAND: what kube-proxy, the kubelet, the bridge plugin and we ourselves put into iptables. Claiming
# the machine made sure that no other Kubernetes has chains of these names.
remove_chains() {
  local iptables=$1 table rules masquerading
  command -v "$iptables" >/dev/null || return 0
  for table in filter nat mangle; do
    rules=$("$iptables" -w -t $table -S 2>/dev/null) || continue
    # The bridge plugin makes a chain per pod, named in a rule that carries the network's name as comment.
    masquerading=$(sed -n 's/^-A POSTROUTING .*name: \\"headrace\\".* -j \(CNI-[0-9a-f]*\)$/\1/p' <<<"$rules")
    {
      echo "*$table"
      sed -nE "/^-A KUBE-/d; s/^-A (.* -j KUBE-.*|.*name: .\"headrace.\".*|.*--comment $BRIDGE .*)/-D \1/p" <<<"$rules"
      { sed -n 's/^-N \(KUBE-.*\)/\1/p' <<<"$rules"; echo "$masquerading"; } | sort -u | sed -n 's/^..*/-F &/p'
      { sed -n 's/^-N \(KUBE-.*\)/\1/p' <<<"$rules"; echo "$masquerading"; } | sort -u | sed -n 's/^..*/-X &/p'
      echo COMMIT
    } | "$iptables-restore" -w --noflush || note "some of the $iptables chains of $table could not be removed"
  done
}

remove_network() {
  local file
  remove_chains iptables
  remove_chains ip6tables
  ip link del $BRIDGE 2>/dev/null || true
  if [ -f "$BUILT/ip_forward.before" ]; then cat "$BUILT/ip_forward.before" >/proc/sys/net/ipv4/ip_forward; fi
  # The CNI library's cache lies outside our folder; its entries name the network namespace, which lies inside.
  for file in /var/lib/cni/results/*; do
    if grep -qF "$BUILT/" "$file" 2>/dev/null; then rm -f "$file"; fi
  done
  # So do the kubelet's links to containers' logs.
  for file in /var/log/containers/*; do
    if [ -L "$file" ] && [[ $(readlink "$file") == "$BUILT"/* ]]; then rm -f "$file"; fi
  done
}

remove_cgroups() {
  local end=$((SECONDS + 3)) groups
  while :; do
    mapfile -t groups < <(find /sys/fs/cgroup/headrace /sys/fs/cgroup/*/headrace -depth -type d 2>/dev/null)
    [ ${#groups[@]} -gt 0 ] && [ $SECONDS -lt $end ] || return 0
    # A group is busy until the kernel has reaped what was killed in it.
    rmdir "${groups[@]}" 2>/dev/null || sleep 0.1
  done
}

# clean_built: leaves no trace of the cluster in $BUILT.
clean_built() {
  local order=(kubelet proxy coredns containerd scheduler controller-manager apiserver etcd) name pid pids=() files path had_node=
  [ -d "$BUILT" ] || return 0
  [ ! -d "$BUILT/containerd" ] && [ ! -f "$BUILT/ip_forward.before" ] || had_node=1
  for name in "${order[@]}"; do
    [ -f "$BUILT/$name.pid" ] || continue
    pid=$(<"$BUILT/$name.pid")
    # The kubelet first, or it would start again what is ended below.
    if [ "$name" = kubelet ]; then stop "$pid"; else pids+=("$pid"); fi
  done
  if [ -n "$had_node" ]; then kill_containers; fi
  stop "${pids[@]}"
  if [ -n "$had_node" ]; then
    mapfile -t files < <(mounts_below "$BUILT")
    for path in "${files[@]}"; do umount -l "$path" || true; done
    remove_network
    remove_cgroups
  fi
  # Removing files below a mount that is left would remove another's files.
  [ -z "$(mounts_below "$BUILT")" ] || die "still mounted: $(mounts_below "$BUILT")"
  rm -rf --one-file-system "${BUILT:?}"
  if [ -f $NODE_RECORD ] && [ "$(<$NODE_RECORD)" = "$STATE" ]; then rm -f $NODE_RECORD; fi
}
