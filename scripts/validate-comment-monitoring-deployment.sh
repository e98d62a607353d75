#!/usr/bin/env bash
# Validates a deployment of the chart: every object, probe, metric and rule, and one comment from request to analysis.
# shellcheck disable=SC2329 # `check` calls the functions
set -uo pipefail

usage() {
  cat <<'EOF'
Usage: scripts/validate-comment-monitoring-deployment.sh [--offline] [--namespace NAME] [--release NAME] [--timeout SECONDS]

Checks a deployment of ./chart in the cluster that kubectl reaches. It prints a line for each check:
ok, FAIL with the actual state, or skip with the reason. Exit code 0 if no check failed, 1 if one did,
2 if it could not start: no cluster answers, no such release, a missing tool or an unknown option.
It changes nothing except for one comment, which it sends and removes again. If no pod of the orchestrator is ready, it says
why and stops: all further checks need such a pod.

  --offline         only the checks that need no cluster: the chart, its values and its rules
  --namespace NAME  [default: $NAMESPACE, else kubectl's current one]
  --release NAME    [default: $RELEASE, else threads-agent]
  --timeout SECONDS how long to wait for an object to become ready [default: 120]
  -h, --help        this text

PROMETHEUS=namespace/service:port names the Prometheus to ask [default: monitoring/prometheus-operated:9090].
EOF
}

root=$(cd "$(dirname "$0")/.." && pwd)
PATH=$root/.tools/bin:$PATH
namespace=${NAMESPACE:-} release=${RELEASE:-} timeout=120 offline=
prometheus=${PROMETHEUS:-monitoring/prometheus-operated:9090}
misused() { echo "Error: $1; see --help." >&2; exit 2; }
while [ $# -gt 0 ]; do
  case $1 in
    --offline) offline=yes ;;
    --namespace | --release | --timeout)
      [ -n "${2:-}" ] || misused "$1 needs a value"
      declare "${1#--}=$2"
      shift
      ;;
    -h | --help) usage; exit 0 ;;
    *) misused "unknown option $1" ;;
  esac
  shift
done
[[ $timeout =~ ^[1-9][0-9]*$ ]] || misused "--timeout $timeout is not a number of seconds"
# Only a release that was named must exist: without Helm (Argo CD, kustomize) there is no release.
named=$release release=${release:-threads-agent}

passed=0 failed=0 skipped=0
ok() { passed=$((passed + 1)); echo "ok    $1"; }
fail() { failed=$((failed + 1)); echo "FAIL  $1${2:+: $2}"; }
skip() { skipped=$((skipped + 1)); echo "skip  $1: $2"; }
# check NAME COMMAND...: ok if the command succeeds; otherwise its last line is the reason (kubectl exec adds another line).
check() {
  local name=$1 said
  shift
  if said=$("$@" 2>&1); then ok "$name"; else
    fail "$name" "$(grep -v '^command terminated with' <<<"$said" | tail -n 1)"
  fi
}
finish() {
  echo "$passed ok, $failed failed, $skipped skipped"
  [ "$failed" -eq 0 ]
  exit
}
need() {
  command -v "$1" >/dev/null || { echo "Error: $1 is not on PATH (make tools installs Helm and kubectl)." >&2; exit 2; }
}

rules_of() { # the rule file that the operator would give to Prometheus
  "$1" template "$release" "$root/chart" --values "$root/chart/$2" --set monitoring.prometheus.crds=true \
    --show-only templates/prometheusrule.yaml | awk 'inside { print substr($0, 3) } /^spec:$/ { inside = 1 }'
}
check_rules() {
  local file status
  file=$(mktemp) || return
  rules_of "$1" "$2" >"$file" && promtool check rules "$file"
  status=$?
  rm -f "$file"
  return "$status"
}
twice() { # rendering twice gives the same bytes
  local words=(template "$release" "$root/chart" --values "$root/chart/$2")
  [ "$("$1" "${words[@]}" | cksum)" = "$("$1" "${words[@]}" | cksum)" ]
}
validate_offline() {
  local helm values
  need helm
  for helm in helm helm3 helm4; do
    command -v $helm >/dev/null || continue
    for values in values-dev.yaml values-prod.yaml; do
      check "$helm lint, $values" "$helm" lint --strict "$root/chart" --values "$root/chart/$values"
      check "$helm template, $values" "$helm" template "$release" "$root/chart" --values "$root/chart/$values"
      check "$helm template twice gives the same, $values" twice "$helm" "$values"
      if command -v promtool >/dev/null; then
        check "$helm and promtool on the rules, $values" check_rules "$helm" "$values"
      else
        skip "rules, $values" "promtool is not on PATH (make tools installs it)"
      fi
    done
  done
}

k() { kubectl --namespace "$namespace" "$@"; }
inside() { k exec deployment/orchestrator --container orchestrator -- "$@"; }
field() { k get "$1" --output "jsonpath=$2"; }

validate_objects() {
  local object
  local objects=(serviceaccount/comment-monitoring-sa configmap/comment-monitoring-config service/orchestrator
    deployment/orchestrator)
  if command -v helm >/dev/null && helm --namespace "$namespace" status "$release" >/dev/null 2>&1; then
    # The objects of the release; kubectl prints the full names of the operators' kinds.
    mapfile -t objects < <(helm --namespace "$namespace" get manifest "$release" |
      k get --ignore-not-found --filename - --output name)
    check "every object of the release exists" manifest_exists
    check "the release is deployed" release_is deployed
  elif [ -n "$named" ]; then
    misused "there is no release $named in namespace $namespace"
  else
    skip "every object of the release" "Helm knows no release $release here; only a few objects are checked"
  fi
  if [ "$(field job/migrations '{.status.conditions[?(@.type=="Failed")].status}' 2>/dev/null)" = True ]; then
    fail "the migrations did not fail" "kubectl logs job/migrations: $(last_line job/migrations)"
  else ok "the migrations did not fail"; fi
  for object in "${objects[@]}"; do
    check "$object" k get "$object"
  done
}
release_is() { # STATUS
  local status
  status=$(helm --namespace "$namespace" status "$release" | sed -n 's/^STATUS: //p')
  [ "$status" = "$1" ] || { echo "it is $status"; return 1; }
}
manifest_exists() { helm --namespace "$namespace" get manifest "$release" | k get --filename - >/dev/null; }

last_line() { # OBJECT [OPTION...]: of its log
  k logs "$1" --tail 5 "${@:2}" 2>&1 | grep . | tail -n 1 | cut -c 1-400
}
of_pods() { # APP FIELD: of each of its pods, a line each
  field pods "{range .items[?(@.metadata.labels.app=='$1')]}$2{\"\\n\"}{end}"
}
missing() { # APP: why containers of its pods do not start, except for reasons that soon pass
  local said
  said=$(of_pods "$1" '{range .status.containerStatuses[*]}{.state.waiting.reason}: {.state.waiting.message}{"\n"}{end}') ||
    echo "kubectl failed"
  grep -vE '^(: )?$|^(ContainerCreating|PodInitializing|CrashLoopBackOff):' <<<"$said" | sort -u | paste -s -d ' '
}
unmounted() { # APP: an object that its pods mount and that does not exist
  local pod
  for pod in $(of_pods "$1" '{.metadata.name} {.status.containerStatuses[0].state.waiting.reason}' |
    sed -n 's/ ContainerCreating$//p'); do
    field events "{range .items[?(@.reason=='FailedMount')]}{.involvedObject.name} {.message}{\"\\n\"}{end}" |
      sed -n "s/^$pod //p" | grep -E 'not found|non-existent' | tail -n 1
  done | head -n 1
}
unplaced() { # APP: why one of its pods has no node
  of_pods "$1" '{.status.conditions[?(@.type=="PodScheduled")].status} {.status.conditions[?(@.type=="PodScheduled")].message}' |
    sed -n 's/^False //p' | sort -u | head -n 1
}
crashed() { # APP: the last log line of a container in a crash loop
  local pod
  pod=$(of_pods "$1" '{.metadata.name} {.status.containerStatuses[0].state.waiting.reason}' |
    sed -n 's/ CrashLoopBackOff$//p' | head -n 1)
  [ -z "$pod" ] || echo "pod $pod is in a crash loop; its last log line: $(last_line "pod/$pod" --previous)"
}
is_ready() { # APP
  of_pods "$1" '{.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null | grep -q True
}
validate_pods() {
  local name restarts reason
  for name in orchestrator comment-worker; do
    k get deployment "$name" >/dev/null 2>&1 || continue
    reason=$(missing "$name")
    [ -n "$reason" ] || reason=$(unmounted "$name")
    [ -n "$reason" ] || reason=$(unplaced "$name")
    [ -n "$reason" ] || reason=$(crashed "$name")
    if [ -n "$reason" ]; then
      # Waiting would not help.
      fail "deployment $name is rolled out" "$reason"
      continue
    fi
    check "deployment $name is rolled out" k rollout status "deployment/$name" --timeout "${timeout}s"
    restarts=$(of_pods "$name" '{.status.containerStatuses[0].restartCount}' | sort -n | tail -n 1)
    if [ "${restarts:-0}" -lt 3 ]; then ok "pods of $name stay up"; else
      fail "pods of $name stay up" "a pod was restarted $restarts times"
    fi
  done
  if ! is_ready orchestrator; then
    skip "all further checks" "no pod of orchestrator is ready; the lines above say why"
    finish
  fi
  for name in readinessProbe livenessProbe; do
    if [ "$(field deployment/orchestrator "{.spec.template.spec.containers[0].$name.httpGet.path}")" = /health ]; then
      ok "$name requests /health"
    else fail "$name requests /health"; fi
  done
  if [ -n "$(field endpoints/orchestrator '{.subsets[*].addresses[*].ip}' 2>/dev/null)" ]; then
    ok "service orchestrator has ready pods"
  else fail "service orchestrator has ready pods" "no pod is ready"; fi
}

validate_inside() {
  local health metrics name head
  # The metrics that the deployment guide names.
  local guides=(comment_processing_duration_seconds comment_processing_queue_length comment_processing_errors_total
    comment_duplicates_detected_total comment_db_query_duration_seconds)
  health=$(inside curl -sS localhost:8080/health 2>&1)
  case $health in
    *'"status":"ok"'*) ok "/health: all checks pass" ;;
    *) fail "/health: all checks pass" "$(tail -n 1 <<<"$health")" ;;
  esac
  head=$(inside python -c 'from comment_monitor.storage import migrations; print(migrations.head())' 2>/dev/null)
  case $health in
    *"\"schema\":\"${head:-unknown}\""*) ok "the database is migrated to $head" ;;
    *) fail "the database is migrated to the newest revision" "that is ${head:-unknown}; /health reports another" ;;
  esac
  metrics=$(inside curl -sS localhost:9090/metrics 2>&1)
  for name in "${guides[@]}" comment_container_memory_working_set_bytes; do
    if grep -q "^$name" <<<"$metrics"; then ok "metric $name"; else fail "metric $name" "not on :9090/metrics"; fi
  done
  check "the database takes a connection" inside python -c \
    'import os, psycopg2; psycopg2.connect(os.environ["POSTGRES_DSN"], connect_timeout=10).close()'
  check "the data's invariants hold" inside comment-monitor check
}

reached() { # SERVICE PORT PATH [WORD...]: through a port-forward, which no policy blocks; a line of the answer begins with each word
  local said log status port='' word
  log=$(mktemp)
  # Not through k: the trap must kill kubectl's own process, not a shell around it.
  kubectl --namespace "$namespace" port-forward "service/$1" ":$2" >"$log" 2>&1 &
  # Also after an interrupt. By its job, because the PID of an ended process may be reused by then.
  # Expanded now: at the end the variable no longer exists.
  # shellcheck disable=SC2064
  trap "kill %% || true; rm -f '$log'" EXIT
  for _ in $(seq 50); do
    port=$(sed -nE 's/^Forwarding from 127.0.0.1:([0-9]+) .*/\1/p' "$log")
    [ -z "$port" ] || break
    sleep 0.2
  done
  [ -n "$port" ] || { echo "no pod of service/$1 is reachable: $(tail -n 1 "$log" | grep . || echo no answer)"; return 1; }
  said=$(curl --fail --silent --show-error --max-time 10 "http://127.0.0.1:$port$3" 2>&1)
  status=$?
  [ "$status" -eq 0 ] || { echo "$(tail -n 1 "$log") ($said)"; return "$status"; }
  for word in "${@:4}"; do
    grep -q "^$word" <<<"$said" || { echo "$word is not in the answer"; return 1; }
  done
} 2>/dev/null

exists() { k get "$1" >/dev/null 2>&1; } # KIND/NAME
validate_exporters() {
  if exists deployment/comment-worker; then
    check "the workers export their metrics" reached comment-worker 9090 /metrics comment_analysis_duration_seconds \
      comment_processing_errors_total comment_container_memory_working_set_bytes
  else skip "the workers export their metrics" "there are no workers (worker.enabled)"; fi
  if exists statefulset/rabbitmq; then
    check "RabbitMQ exports its queue's metrics" reached rabbitmq 15692 '/metrics/detailed?family=queue_coarse_metrics' \
      'rabbitmq_detailed_queue_messages_ready{.*queue="comment-analysis"'
  else skip "RabbitMQ exports its queue's metrics" "it is outside this chart"; fi
  if exists deployment/celery-exporter; then
    check "deployment celery-exporter is rolled out" k rollout status deployment/celery-exporter --timeout "${timeout}s"
    check "celery-exporter receives the workers' events" reached celery-exporter 9808 /metrics 'celery_worker_up{.*} 1'
  else skip "celery-exporter" "it is not enabled (celeryExporter.enabled)"; fi
}

validate_comment() { # a comment is posted, found, recognised as a duplicate, analysed and removed
  local line
  if [[ $(inside curl -sS localhost:8080/health 2>&1) == *'"intake":"off"'* ]]; then
    skip "comment" "no comments are accepted here (orchestrator.commentMonitoring.enabled)"
    return
  fi
  while read -r line; do
    case $line in
      "ok "*) ok "comment: ${line#ok    }" ;;
      "command terminated with"*) ;; # kubectl's message about the line before it
      "FAIL  it is analysed: "*"no result yet"*)
        if k get deployment comment-worker >/dev/null 2>&1; then fail "comment" "${line#FAIL  }"; else
          skip "comment: it is analysed" "there are no workers (worker.enabled)"
        fi
        ;;
      *) fail "comment" "${line#FAIL  }" ;;
    esac
  done < <(inside comment-monitor smoke-test --url http://localhost:8080 --timeout "$timeout" 2>&1)
}

within() { # COMMAND...: retries until it succeeds or the deadline, which all callers share, passes
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return
    sleep 2
  done
}
is_active() { [ "$(field "hpa/$1" '{.status.conditions[?(@.type=="ScalingActive")].status}')" = True ]; }
reads() {
  case " $(field "hpa/$1" '{.status.currentMetrics[*].pods.metric.name} {.status.currentMetrics[*].external.metric.name}') " in
    *" $2 "*) return 0 ;;
    *) return 1 ;;
  esac
}
validate_autoscaler() {
  local deadline=$((SECONDS + timeout))
  local name wanted
  for name in orchestrator comment-worker; do
    k get hpa "$name" >/dev/null 2>&1 || { skip "autoscaler of $name" "there is none"; continue; }
    # New pods have no metrics for a while.
    if within is_active "$name"; then
      ok "autoscaler of $name is active"
    else
      fail "autoscaler of $name is active" "$(field "hpa/$name" '{.status.conditions[?(@.type=="ScalingActive")].message}')"
    fi
    for wanted in $(field "hpa/$name" '{.spec.metrics[*].pods.metric.name} {.spec.metrics[*].external.metric.name}'); do
      if within reads "$name" "$wanted"; then
        ok "autoscaler of $name reads $wanted"
      else
        fail "autoscaler of $name reads $wanted" "nothing provides it: install prometheus-adapter with the rules in chart/files, or KEDA"
      fi
    done
  done
}

ask_prometheus() {
  local space=${prometheus%%/*} service=${prometheus#*/}
  kubectl get --raw "/api/v1/namespaces/$space/services/$service/proxy/api/v1/$1"
}
loaded() { grep -q "\"name\":\"$1\"" <<<"$(ask_prometheus 'rules?type=alert' 2>/dev/null)"; }
scraped() { # SERVICE
  local query="up%7Bnamespace%3D%22$namespace%22%2Cservice%3D%22$1%22%7D%3D%3D1"
  grep -q '"result":\[{' <<<"$(ask_prometheus "query?query=$query" 2>/dev/null)"
}
monitored() { # the objects whose metrics are scraped, by their kinds
  local object
  for object in deployment/orchestrator deployment/comment-worker deployment/celery-exporter statefulset/rabbitmq; do
    if exists "$object"; then echo "${object#*/}"; fi
  done
}
validate_dashboard() {
  local title
  if ! exists configmap/comment-monitoring-dashboard; then
    skip "dashboard" "no ConfigMap comment-monitoring-dashboard here (monitoring.dashboard)"
    return
  fi
  title=$(field configmap/comment-monitoring-dashboard '{.data.comment-monitoring\.json}' |
    grep -o '"title": *"Comment Monitoring"')
  if [ -n "$title" ]; then ok "the dashboard is available to Grafana"; else
    fail "the dashboard is available to Grafana" "its ConfigMap does not contain it"
  fi
}
validate_monitoring() {
  local said name service deadline=$((SECONDS + timeout))
  if ! k get prometheusrule orchestrator >/dev/null 2>&1; then
    skip "alert rules and targets" "no PrometheusRule here (monitoring.prometheus)"
    return
  fi
  for name in $(monitored); do
    check "ServiceMonitor $name" k get servicemonitor "$name"
  done
  if ! said=$(ask_prometheus 'rules?type=alert' 2>&1); then
    fail "Prometheus answers" "$(tail -n 1 <<<"$said") (PROMETHEUS=namespace/service:port names another)"
    return
  fi
  # Prometheus loads rules and targets some time after they are created.
  for name in $(field prometheusrule/orchestrator '{.spec.groups[*].rules[*].alert}'); do
    if within loaded "$name"; then ok "alert $name is loaded"; else
      fail "alert $name is loaded" "not among Prometheus's rules (monitoring.prometheus.labels)"
    fi
  done
  for name in $(monitored); do
    service=$name
    # If the orchestrator's Service is exposed outside the cluster, the metrics have a separate Service.
    if [ "$name" = orchestrator ] && exists service/orchestrator-metrics; then service=orchestrator-metrics; fi
    if within scraped "$service"; then ok "Prometheus scrapes $name"; else
      fail "Prometheus scrapes $name" "no target of this namespace is up"
    fi
  done
}

if [ -n "$offline" ]; then
  validate_offline
  finish
fi
need kubectl
kubectl version >/dev/null 2>&1 || { echo "Error: no cluster answers (kubectl cluster-info says why)." >&2; exit 2; }
[ -n "$namespace" ] || namespace=$(kubectl config view --minify --output 'jsonpath={..namespace}')
namespace=${namespace:-default}
if ! said=$(k get deployment orchestrator 2>&1); then
  echo "Error: no Deployment orchestrator found in namespace $namespace (--namespace names another): $said" >&2
  exit 2
fi
need curl
validate_objects
validate_pods
validate_inside
check "the service reaches a pod" reached orchestrator 8080 /health
validate_comment
validate_exporters
validate_autoscaler
validate_dashboard
validate_monitoring
finish
