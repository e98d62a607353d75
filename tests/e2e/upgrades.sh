# Upgrades must not change pods, data, settings or the number of pods. tests/e2e/run sources this file.
# shellcheck shell=bash
# shellcheck disable=SC2154,SC2329 # variables of tests/e2e/run; functions are called through `step`

api() { # PATH CURL_OPTION...: sends a request to the API from its pod
  k exec deployment/orchestrator --container orchestrator -- curl -fsS --max-time 10 "localhost:8080$1" "${@:2}"
}
store_comment() { # a comment that all later steps must preserve
  api /comments/process --json '{"post_id": "e2e", "comments": [{"id": "old", "text": "Is it still there?", "author": "e2e"}]}' >/dev/null
  within 30 comment_stored
}
comment_stored() { api '/comments?post_id=e2e' 2>/dev/null | grep -q 'Is it still there?'; }
pods() { # the pods of the release, each with its uid and number of restarts
  k get pods --selector 'app in (orchestrator, comment-worker, postgres, redis, rabbitmq)' \
    --output 'jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[0].restartCount}{"\n"}{end}' | sort
}
new_version() { # an upgrade of the chart with the same image: no pod is replaced, and the comment is still stored
  local before after
  cp -r chart "$work/chart"
  sed -i -E 's/^(version|appVersion): .*/\1: 99.0.0/' "$work/chart/Chart.yaml"
  before=$(pods)
  chart=$work/chart install >/dev/null
  h list --output json | grep -q 'threads-agent-99.0.0'
  after=$(pods)
  [ "$after" = "$before" ] || { diff <(echo "$before") <(echo "$after") >&2 || true; return 1; }
  comment_stored
  install >/dev/null
  [ "$(pods)" = "$before" ]
}
restarted() { # POD: its container has restarted once and is ready
  [ "$(k get pod "$1" --output 'jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}')" = "1 true" ]
}
bad_upgrade() { # an upgrade with a setting out of bounds fails, and an old pod that restarts meanwhile works
  local old output
  k rollout restart deployment/orchestrator >/dev/null
  k rollout status deployment/orchestrator --timeout "${pod_start}s" >/dev/null
  within "$pod_stop" one_pod
  old=$(k get pods --selector app=orchestrator --output 'jsonpath={.items[0].metadata.name}')
  # The schema would refuse the chart's own value.
  if install --set 'extraEnv[0].name=COMMENT_BATCH_SIZE' --set-string 'extraEnv[0].value=4' --timeout 45s >/dev/null 2>&1; then
    echo "Error: an upgrade whose pods do not start succeeded." >&2
    return 1
  fi
  # shellcheck disable=SC2016 # expanded in the pod
  k exec "$old" --container orchestrator -- bash -c 'kill 1'
  within "$pod_start" restarted "$old"
  output=$(validate --timeout 10 || true)
  grep '^FAIL' <<<"$output"
  grep -q 'FAIL .*orchestrator is rolled out.*' <<<"$output"
  install >/dev/null
  comment_stored
}
refused_upgrade() { # an upgrade with a wrong password fails at its first pod, and the old pods continue to work
  local pods name=POSTGRES_DSN value=postgresql://comments:wrong@postgres:5432/comments
  within "$pod_stop" two_in_all
  pods=$(ready_pods)
  if install --set "extraEnv[0].name=$name" --set-string "extraEnv[0].value=$value" --timeout 45s >/dev/null 2>&1; then
    echo "Error: an upgrade with a wrong password succeeded." >&2
    return 1
  fi
  [ "$(ready_pods)" = "$pods" ] || { echo "Error: the ready pods were $pods and are now $(ready_pods)" >&2; return 1; }
  comment_stored
  # While the container restarts, it has no last log line for a moment.
  within "$pod_start" names_the_refusal
  install >/dev/null
  comment_stored
}
names_the_refusal() {
  local output
  output=$(validate --timeout 10 || true)
  grep 'FAIL .*comment-worker is rolled out.*the server refuses the user or the password' <<<"$output"
}
two_in_all() { [ "$(k get pods --selector 'app in (orchestrator,comment-worker)' --output name | wc -l)" -eq 2 ]; }
ready_pods() { # the ready pods of orchestrator and worker
  k get pods --selector 'app in (orchestrator,comment-worker)' --output \
    'jsonpath={range .items[?(@.status.containerStatuses[0].ready==true)]}{.metadata.name}{" "}{end}'
}
one_pod() { [ "$(k get pods --selector app=orchestrator --output name | wc -l)" -eq 1 ]; }
watch_replicas() { # FILE: records the number of pods until FILE.end exists (a removed FILE would be created again)
  until [ -e "$1.end" ]; do
    replicas >>"$1" && echo >>"$1"
    sleep 0.3
  done
}
switched_on() { # an autoscaler that is switched on keeps the running pods
  local watcher least
  # Set by Helm, which omits the number in the next upgrade; Helm would never remove a number set by kubectl.
  install --set orchestrator.replicas=3 >/dev/null
  replicas >"$work/replicas" && echo >>"$work/replicas"
  watch_replicas "$work/replicas" &
  watcher=$!
  # Its minimum is the current number: a lower number can only come from the upgrade.
  install --set orchestrator.autoscaling.enabled=true,orchestrator.autoscaling.minReplicas=3 >/dev/null
  install --set orchestrator.autoscaling.enabled=true,orchestrator.autoscaling.minReplicas=3 >/dev/null
  sleep 1
  touch "$work/replicas.end"
  wait "$watcher"
  least=$(sort -n "$work/replicas" | grep . | head -n 1)
  [ "$least" -eq 3 ] || { echo "Error: switching autoscaling on reduced 3 pods to $least." >&2; return 1; }
}
