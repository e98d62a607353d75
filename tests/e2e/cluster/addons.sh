# Add-ons for the running cluster. tests/e2e/local-cluster sources this file.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of tests/e2e/local-cluster

add() { # ADDON...
  local addon
  running || fail "the cluster is not running (tests/e2e/local-cluster up)"
  cd "$dir" || return
  for addon in "$@"; do
    "add_$addon"
    echo "ready: $addon"
  done
}

add_policies() {
  [ -x "$bin/kube-router" ] || fail "kube-router is not built (tests/e2e/local-cluster build policies)"
  if [ ! -f kube-router.pid ] || ! in_cluster_network "$(cat kube-router.pid)"; then
    run kube-router "$bin/kube-router" --kubeconfig kubeconfig --hostname-override node1 --run-firewall=true \
      --run-router=false --run-service-proxy=false --service-cluster-ip-range "$services" --health-port 20244
  fi
  until_true 60 inside curl --fail --silent "http://$address:20244/healthz"
}

add_prometheus() {
  [ -f "$images/prometheus.tar" ] || fail "Prometheus is not built (tests/e2e/local-cluster build prometheus)"
  import "$images"/{prometheus,prometheus-operator,prometheus-config-reloader}.tar
  # Server-side, because these definitions are too long for the annotation of client-side apply.
  kubectl apply --server-side --force-conflicts --filename "$base/crds/" >/dev/null
  kubectl wait --for condition=Established --filename "$base/crds/" --timeout 60s >/dev/null
  apply "$pieces/manifests/prometheus.yaml"
  ready monitoring deployment/prometheus-operator
  until_true 60 kubectl --namespace monitoring get statefulset prometheus-local
  ready monitoring statefulset/prometheus-local
}

add_adapter() {
  [ -f "$images/prometheus-adapter.tar" ] || fail "prometheus-adapter is not built (tests/e2e/local-cluster build adapter)"
  kubectl get namespace monitoring >/dev/null 2>&1 || fail "prometheus-adapter needs Prometheus (tests/e2e/local-cluster add prometheus)"
  import "$images/prometheus-adapter.tar"
  helm template threads-agent "$root/chart" --values "$root/chart/values-prod.yaml" \
    --show-only templates/adapter-rules-configmap.yaml | kubectl apply --namespace monitoring --filename - >/dev/null
  apply "$pieces/manifests/prometheus-adapter.yaml"
  ready monitoring deployment/prometheus-adapter
  until_true 60 kubectl get --raw /apis/custom.metrics.k8s.io/v1beta1
  until_true 60 kubectl get --raw /apis/external.metrics.k8s.io/v1beta1
}

add_keda() {
  [ -f "$images/keda-adapter.tar" ] || fail "KEDA is not built (tests/e2e/local-cluster build keda)"
  import "$images"/keda-{operator,adapter}.tar
  kubectl apply --server-side --force-conflicts --filename "$base/keda-crds/" >/dev/null
  kubectl wait --for condition=Established --filename "$base/keda-crds/" --timeout 60s >/dev/null
  # Only one server can provide the external metrics, and the APIService of prometheus-adapter skips TLS verification.
  kubectl delete apiservice v1beta1.external.metrics.k8s.io --ignore-not-found >/dev/null
  apply "$pieces/manifests/keda.yaml"
  ready keda deployment/keda-operator deployment/keda-metrics-apiserver
  until_true 60 kubectl get --raw /apis/external.metrics.k8s.io/v1beta1
}
