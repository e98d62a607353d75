# Ends the cluster and removes all of it. Read by tests/e2e/local-cluster.
# shellcheck shell=bash
# shellcheck disable=SC2154 # the folders stand in tests/e2e/local-cluster

ours() { [ "/proc/$1/ns/net" -ef "$dir/net" ]; } # PID: it runs in the cluster's network namespace
processes() { # all of them there: what was started, the shims of pods, pods on the node's network
  local one
  for one in /proc/[0-9]*; do
    if ours "${one#/proc/}"; then echo "${one#/proc/}"; fi
  done
}
pod_processes() {
  local folder
  for folder in $(cgroups); do
    [ ! -d "$folder" ] || find "$folder" -name cgroup.procs -exec cat {} + 2>/dev/null || true
  done | sort -u
}
none_left() { [ -z "$(processes)" ] && [ -z "$(pod_processes)" ]; }
end() { # NAME...: and wait for it
  local name task
  for name in "$@"; do
    [ -f "$dir/$name.pid" ] || continue
    task=$(cat "$dir/$name.pid")
    # Another process may have its number by now.
    ! ours "$task" || kill "$task" 2>/dev/null || true
  done
  for name in "$@"; do
    [ -f "$dir/$name.pid" ] || continue
    task=$(cat "$dir/$name.pid")
    for _ in $(seq 50); do
      ours "$task" || break
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
  # First whoever would start things again.
  end kubelet kube-controller-manager kube-scheduler kube-router kube-proxy
  end_pods
  end containerd kube-apiserver
  end etcd
  # What did not end when it was told to.
  for _ in $(seq 20); do
    none_left && break
    { processes; pod_processes; } | xargs -r kill -KILL 2>/dev/null || true
    sleep 0.2
  done
  none_left || fail "some processes do not end: $(processes | xargs) $(pod_processes | xargs)"
  ip link delete "$link" 2>/dev/null || true
  unmount "$dir/"
  remove_cgroups
  [ ! -f "$dir/settings" ] || sysctl --quiet --load "$dir/settings"
  # Folders that no option puts elsewhere.
  rm -f "/var/lib/cni/results/$link"-*
  [ ! -d /var/log/containers ] || find /var/log/containers -lname "$dir/*" -delete
  rm -rf "$dir"
}
