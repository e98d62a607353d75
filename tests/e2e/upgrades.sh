# What upgrades must leave as it is: pods, data, settings and the number of pods. Read by tests/e2e/run.
# shellcheck shell=bash
# shellcheck disable=SC2154,SC2329 # what stands in tests/e2e/run; functions are called by way of `step`

api() { # PATH CURL_OPTION...: asks the API from within its pod
  k exec deployment/orchestrator --container orchestrator -- curl -fsS --max-time 10 "localhost:8080$1" "${@:2}"
}
remember() { # a comment that has to outlive all that follows
  api /comments/process --json '{"post_id": "e2e", "comments": [{"id": "old", "text": "Is it still there?", "author": "e2e"}]}' >/dev/null
  within 30 remembered
}
remembered() { api '/comments?post_id=e2e' 2>/dev/null | grep -q 'Is it still there?'; }
pods() { # the pods of the release, each with its identity and restarts
  k get pods --selector 'app in (orchestrator, comment-worker, postgres, redis, rabbitmq)' \
    --output 'jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[0].restartCount}{"\n"}{end}' | sort
}
new_version() { # of the chart, with the same image: it replaces no pod, and what was stored is there
  local before after
  cp -r chart "$work/chart"
  sed -i -E 's/^(version|appVersion): .*/\1: 99.0.0/' "$work/chart/Chart.yaml"
  before=$(pods)
  chart=$work/chart install >/dev/null
  h list --output json | grep -q 'threads-agent-99.0.0'
  after=$(pods)
  [ "$after" = "$before" ] || { diff <(echo "$before") <(echo "$after") >&2 || true; return 1; }
  remembered
  install >/dev/null
  [ "$(pods)" = "$before" ]
}
restarted() { # POD: its container has started again, and is ready
  [ "$(k get pod "$1" --output 'jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}')" = "1 true" ]
}
bad_upgrade() { # one with a setting that is out of bounds fails, and a pod of before that restarts meanwhile does not
  local old said
  k rollout restart deployment/orchestrator >/dev/null
  k rollout status deployment/orchestrator --timeout "${pod_start}s" >/dev/null
  within "$pod_stop" one_pod
  old=$(k get pods --selector app=orchestrator --output 'jsonpath={.items[0].metadata.name}')
  # A value of the chart would be refused by its schema.
  if install --set 'extraEnv[0].name=COMMENT_BATCH_SIZE' --set-string 'extraEnv[0].value=4' --timeout 45s >/dev/null 2>&1; then
    echo "Error: an upgrade whose pods do not start succeeded." >&2
    return 1
  fi
  # shellcheck disable=SC2016 # expanded there
  k exec "$old" --container orchestrator -- bash -c 'kill 1'
  within "$pod_start" restarted "$old"
  said=$(validate --timeout 10 || true)
  grep '^FAIL' <<<"$said"
  grep -q 'FAIL .*orchestrator is rolled out.*' <<<"$said"
  install >/dev/null
  remembered
}
refused_upgrade() { # one whose pods PostgreSQL refuses fails at the first of them, and those of before work on
  local pods name=POSTGRES_DSN value=postgresql://comments:wrong@postgres:5432/comments
  within "$pod_stop" two_in_all
  pods=$(ready_pods)
  if install --set "extraEnv[0].name=$name" --set-string "extraEnv[0].value=$value" --timeout 45s >/dev/null 2>&1; then
    echo "Error: an upgrade with a wrong password succeeded." >&2
    return 1
  fi
  [ "$(ready_pods)" = "$pods" ] || { echo "Error: $(ready_pods) are ready, no longer $pods" >&2; return 1; }
  remembered
  # Between two ends it is begun again, and has no last words for a moment.
  within "$pod_start" names_the_refusal
  install >/dev/null
  remembered
}
names_the_refusal() {
  local said
  said=$(validate --timeout 10 || true)
  grep 'FAIL .*comment-worker is rolled out.*the server refuses the user or the password' <<<"$said"
}
two_in_all() { [ "$(k get pods --selector 'app in (orchestrator,comment-worker)' --output name | wc -l)" -eq 2 ]; }
ready_pods() { # of orchestrator and worker
  k get pods --selector 'app in (orchestrator,comment-worker)' --output \
    'jsonpath={range .items[?(@.status.containerStatuses[0].ready==true)]}{.metadata.name}{" "}{end}'
}
one_pod() { [ "$(k get pods --selector app=orchestrator --output name | wc -l)" -eq 1 ]; }
watch_replicas() { # FILE: notes the number of pods wanted, until there is a FILE.end (a note would make a removed FILE anew)
  until [ -e "$1.end" ]; do
    replicas >>"$1" && echo >>"$1"
    sleep 0.3
  done
}
switched_on() { # autoscaling takes over the pods that there are
  local watcher least
  # By Helm, which then leaves the number out; what kubectl set, nobody would take away.
  install --set orchestrator.replicas=3 >/dev/null
  replicas >"$work/replicas" && echo >>"$work/replicas"
  watch_replicas "$work/replicas" &
  watcher=$!
  # Its least is what there is: so any number below was not its wish.
  install --set orchestrator.autoscaling.enabled=true,orchestrator.autoscaling.minReplicas=3 >/dev/null
  install --set orchestrator.autoscaling.enabled=true,orchestrator.autoscaling.minReplicas=3 >/dev/null
  sleep 1
  touch "$work/replicas.end"
  wait "$watcher"
  least=$(sort -n "$work/replicas" | grep . | head -n 1)
  [ "$least" -eq 3 ] || { echo "Error: autoscaling took over 3 pods and made them $least." >&2; return 1; }
}
