# Stops the cluster and removes all of it. tests/e2e/local-cluster sources this file.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of tests/e2e/local-cluster

in_cluster_network() { [ "/proc/$1/ns/net" -ef "$dir/net" ]; } # PID: the process runs in the cluster's network namespace
processes() { # all processes of that namespace: started programs, shims of pods, pods on the node's network
  local folder
  for folder in /proc/[0-9]*; do
    if in_cluster_network "${folder#/proc/}"; then echo "${folder#/proc/}"; fi
  done
}
pod_processes() {
  local folder
  for folder in $(cgroups); do
    [ ! -d "$folder" ] || find "$folder" -name cgroup.procs -exec cat {} + 2>/dev/null || true
  done | sort -u
}
none_left() { [ -z "$(processes)" ] && [ -z "$(pod_processes)" ]; }
end() { # NAME...: stops the programs and waits for them
  local name task
  for name in "$@"; do
    [ -f "$dir/$name.pid" ] || continue
    task=$(cat "$dir/$name.pid")
    # Another process may have reused the PID.
    ! in_cluster_network "$task" || kill "$task" 2>/dev/null || true
  done
  for name in "$@"; do
    [ -f "$dir/$name.pid" ] || continue
    task=$(cat "$dir/$name.pid")
    for _ in $(seq 50); do
      in_cluster_network "$task" || break
      sleep 0.1
    done
  done
}
end_pods() {
  ctr --address "$dir/containerd.sock" --namespace k8s.io tasks ls --quiet 2>/dev/null |
    xargs -r -n 1 -P 4 ctr --address "$dir/containerd.sock" --namespace k8s.io tasks rm --force >/dev/null 2>&1 || true
}
remove_cgroups() {
  local folder
  for folder in $(cgroups); do
    [ ! -d "$folder" ] || find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
}

down() {
  [ -d "$dir" ] || return 0
  cd "$root" || return
  # First the programs that would restart the others.
  end kubelet kube-controller-manager kube-scheduler kube-router kube-proxy
  end_pods
  end containerd kube-apiserver
  end etcd
  # Kill processes that ignored the signal.
  for _ in $(seq 20); do
    none_left && break
    { processes; pod_processes; } | xargs -r kill -KILL 2>/dev/null || true
    sleep 0.2
  done
  none_left || fail "some processes do not stop: $(processes | xargs) $(pod_processes | xargs)"
  ip link delete "$link" 2>/dev/null || true
  unmount "$dir/"
  remove_cgroups
  [ ! -f "$dir/settings" ] || sysctl --quiet --load "$dir/settings"
  # Folders that cannot be configured.
  rm -f "/var/lib/cni/results/$link"-*
  [ ! -d /var/log/containers ] || find /var/log/containers -lname "$dir/*" -delete
  rm -rf "$dir"
}
