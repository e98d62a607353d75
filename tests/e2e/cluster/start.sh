# Starts the cluster. tests/e2e/local-cluster sources this file.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of tests/e2e/local-cluster

# The link between this machine and the cluster's network namespace: this machine, and the node.
here=10.243.0.1
address=10.243.0.2
link=local-cluster
pods=10.244.0.0/24
services=10.96.0.0/16
dns=10.96.0.10
export KUBECONFIG=$dir/kubeconfig

inside() { nsenter --net="$dir/net" "$@"; }
run() { # NAME COMMAND...
  setsid nsenter --net="$dir/net" "${@:2}" >"$dir/$1.log" 2>&1 </dev/null &
  echo $! >"$dir/$1.pid"
}
running() { [ -f "$KUBECONFIG" ] && kubectl get --raw /readyz --request-timeout 5s >/dev/null 2>&1; }
cgroups() { # the cluster's cgroup in each hierarchy of this machine
  if [ "$(stat --file-system --format %T /sys/fs/cgroup)" = cgroup2fs ]; then
    echo /sys/fs/cgroup/local-cluster
  else
    printf "%s$link\n" /sys/fs/cgroup/*/
  fi
}
# The settings that the kubelet changes for the whole machine.
settings=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes)

network() {
  : >net
  unshare --net=net true
  inside ip link add eth0 type veth peer name $link netns $$
  ip address add $here/30 dev $link
  ip link set $link up
  inside ip link set lo up
  inside ip address add $address/30 dev eth0
  inside ip link set eth0 up
  # Replies need a route to the pods, and the address of a Service needs a route before kube-proxy rewrites it.
  ip route add $pods via $address
  inside ip route add $services via $here
  inside sysctl --quiet --write net.ipv4.ip_forward=1
}
certificate() { # NAME SUBJECT ALTERNATIVE_NAMES
  openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" \
    -extfile <(echo "subjectAltName=$3") 2>/dev/null
}
credentials() {
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout ca.key -out ca.crt -subj /CN=ca 2>/dev/null
  certificate api /CN=kube-apiserver "DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:${dns%.*}.1,IP:$address"
  certificate admin /O=system:masters/CN=admin "IP:$address"
  certificate kubelet /CN=kubelet "IP:$address"
  openssl genrsa -out sa.key 2048 2>/dev/null
  openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
  cat >kubeconfig <<EOF
apiVersion: v1
kind: Config
clusters: [{name: local, cluster: {server: "https://$address:6443", certificate-authority: $dir/ca.crt}}]
users: [{name: admin, user: {client-certificate: $dir/admin.crt, client-key: $dir/admin.key}}]
contexts: [{name: local, context: {cluster: local, user: admin}}]
current-context: local
EOF
  chmod 600 ./*.key kubeconfig
}
control_plane() {
  run etcd "$bin/etcd" --data-dir "$dir/etcd" --unsafe-no-fsync
  # requestheader-allowed-names: the same authority signs for clients and for the aggregation layer.
  run kube-apiserver "$bin/kube-apiserver" --etcd-servers http://127.0.0.1:2379 --bind-address $address \
    --advertise-address $address --tls-cert-file api.crt --tls-private-key-file api.key --client-ca-file ca.crt \
    --authorization-mode Node,RBAC --service-cluster-ip-range $services --allow-privileged \
    --service-account-key-file sa.pub --service-account-signing-key-file sa.key \
    --service-account-issuer https://kubernetes.default.svc.cluster.local --kubelet-preferred-address-types InternalIP \
    --kubelet-certificate-authority ca.crt --kubelet-client-certificate admin.crt --kubelet-client-key admin.key \
    --requestheader-client-ca-file ca.crt --requestheader-allowed-names admin \
    --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
    --requestheader-extra-headers-prefix X-Remote-Extra- --proxy-client-cert-file admin.crt \
    --proxy-client-key-file admin.key --enable-aggregator-routing
  until_true 60 running
  run kube-controller-manager "$bin/kube-controller-manager" --kubeconfig kubeconfig --root-ca-file ca.crt \
    --service-account-private-key-file sa.key --use-service-account-credentials --leader-elect=false \
    --bind-address 127.0.0.1
  run kube-scheduler "$bin/kube-scheduler" --kubeconfig kubeconfig --leader-elect=false --bind-address 127.0.0.1
}
runtime() {
  mkdir -p cni
  # Point to point, not a bridge, so that every packet passes the rules of Services and NetworkPolicies.
  cat >cni/10-pods.conflist <<EOF
{"cniVersion": "0.4.0", "name": "$link", "plugins": [
  {"type": "ptp", "ipam": {"type": "host-local", "dataDir": "$dir/ipam", "ranges": [[{"subnet": "$pods"}]],
                           "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOF
  # restrict_oom_score_adj: root in a container may not be allowed to lower the score.
  cat >containerd.toml <<EOF
version = 2
root = "$dir/containerd/root"
state = "$dir/containerd/state"
[grpc]
  address = "$dir/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$dir/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "$dir/containerd/runc"
EOF
  run containerd containerd --config containerd.toml
  until_true 30 ctr --address "$dir/containerd.sock" version
  import "$images"/{pause,coredns,metrics-server,postgres,redis,rabbitmq}.tar
}
node() {
  sysctl "${settings[@]}" >settings
  cgroups | xargs mkdir -p
  cat >kubelet.yaml <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $address
containerRuntimeEndpoint: unix://$dir/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$link
failCgroupV1: false
failSwapOn: false
clusterDNS: [$dns]
clusterDomain: cluster.local
resolvConf: ""
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $dir/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $dir/kubelet.crt
tlsPrivateKeyFile: $dir/kubelet.key
podLogsDir: $dir/logs
volumePluginDir: $dir/plugins
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
EOF
  run kubelet "$bin/kubelet" --config kubelet.yaml --kubeconfig kubeconfig --root-dir "$dir/kubelet" \
    --hostname-override node1 --node-ip $address
  # Connection tracking limits apply to the whole machine, and cannot be set in a network namespace.
  run kube-proxy "$bin/kube-proxy" --kubeconfig kubeconfig --cluster-cidr $pods --hostname-override node1 \
    --proxy-mode iptables --conntrack-max-per-core 0 --conntrack-min 0 --healthz-bind-address 127.0.0.1:10256
  until_true 60 kubectl wait node/node1 --for condition=Ready --timeout 1s
}

volumes() { # folders of this machine, for the claims of ten deployments: the cluster has no dynamic provisioner
  local number
  {
    cat <<EOF
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
EOF
    for number in $(seq 20); do
      mkdir -p "volumes/$number"
      cat <<EOF
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: "local-$number"}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local
  local: {path: "$dir/volumes/$number"}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node1]}]
EOF
    done
  } | kubectl apply --server-side --filename - >/dev/null
}

apply() { # FILE SED_EXPRESSION...: applies a manifest after these replacements
  local file=$1 words=() word
  shift
  for word in "$@"; do words+=(--expression "$word"); done
  sed "${words[@]:---expression=}" "$file" | kubectl apply --server-side --force-conflicts --filename - >/dev/null
}
ready() { # NAMESPACE KIND/NAME...
  local object
  for object in "${@:2}"; do kubectl --namespace "$1" rollout status "$object" --timeout 120s >/dev/null; done
}
up() {
  if running; then
    echo "The cluster is already running." >&2
  else
    [ -f "$images/rabbitmq.tar" ] || fail "the images are not built (tests/e2e/local-cluster build)"
    [ ! -d "$dir" ] || fail "$dir has files of an earlier start (tests/e2e/local-cluster down removes them)"
    mkdir -p "$dir"
    cd "$dir" || return
    network
    credentials
    control_plane
    runtime
    node
    volumes
    apply "$pieces/manifests/coredns.yaml" "s/CLUSTER_IP/$dns/"
    apply "$pieces/manifests/metrics-server.yaml"
    ready kube-system deployment/coredns deployment/metrics-server
    until_true 60 kubectl get --raw /apis/metrics.k8s.io/v1beta1/nodes/node1
  fi
  echo "export KUBECONFIG=$KUBECONFIG"
}
