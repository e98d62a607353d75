"""What one object says of another is so: variables, selectors, ports, Secrets, names of metrics."""

import re
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import (
    CASES,
    CHART,
    NAMESPACE,
    OUTSIDE,
    environment,
    helm,
    matches,
    objects,
    pods,
    settings,
    the,
)  # fmt: skip

from comment_monitor.core import config
from comment_monitor.messaging.celery_app import QUEUE_NAME
from comment_monitor.observability import cgroup, metrics

OURS: Final = ("orchestrator", "comment-worker", "migrations", "comment-cleanup")
# Read by the program beside its settings, or by the servers' images.
DECLARED: Final = {one.variable for one in config.declared()}
ADDRESSES: Final = {"POSTGRES_DSN", "REDIS_URL", "CELERY_BROKER_URL"}
# Of development's second name for the broker there is no need.
NOT_SET: Final = {"RABBITMQ_URL"}


def emitted() -> set[str]:
    """The names of all series that the program has."""
    names = {name for name, _, _ in cgroup.DECLARED}
    for one in metrics.ALL:
        names |= {f"{one._name}{suffix}" for suffix in ("", "_total", "_bucket", "_sum", "_count")}
    return names


@pytest.mark.parametrize("case", CASES)
def test_every_variable_set_is_one_that_the_code_declares(case: str) -> None:
    assert set(the(case, "ConfigMap", "comment-monitoring-config")["data"]) <= DECLARED
    for _, labels, spec in pods(case):
        if labels["app"] in OURS:
            assert set(environment(spec)) <= DECLARED


def test_every_setting_that_the_code_declares_can_be_set() -> None:
    """By a value of its own or by its variable."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    monitoring = schema["properties"]["orchestrator"]["properties"]["commentMonitoring"]["properties"]
    by_variable = set(monitoring["settings"]["properties"])
    by_value = set(settings("plain"))
    assert by_variable | by_value | ADDRESSES | NOT_SET == DECLARED
    assert not by_variable & by_value


def test_a_setting_set_by_its_variable_reaches_the_pods() -> None:
    switches = {**OUTSIDE, "orchestrator.commentMonitoring.settings.COMMENT_WRITERS": "4"}
    words = [word for name, value in switches.items() for word in ("--set", f"{name}={value}")]
    rendered = helm("template", "x", str(CHART), *words).stdout
    # Those of orchestrator, workers, migrations, cleanup and the test that sends a comment.
    assert len(re.findall(r'name: COMMENT_WRITERS\n +value: "4"\n', rendered)) == 5


@pytest.mark.parametrize("case", CASES)
def test_what_the_chart_sets_is_within_the_codes_bounds(case: str) -> None:
    """The program would not start otherwise."""
    data = settings(case)
    assert config.load(data).log_level == data["LOG_LEVEL"]


@pytest.mark.parametrize("case", CASES)
def test_every_selector_selects(case: str) -> None:
    there = pods(case)
    for one in objects(case, "Service"):
        selector = {"matchLabels": one["spec"]["selector"]}
        assert any(matches(labels, selector) for _, labels, _ in there), one["metadata"]["name"]
    for one in objects(case, "NetworkPolicy"):
        assert any(matches(labels, one["spec"]["podSelector"]) for _, labels, _ in there), one["metadata"]["name"]
    for one in objects(case, "PodDisruptionBudget", "Deployment", "StatefulSet"):
        assert any(matches(labels, one["spec"]["selector"]) for _, labels, _ in there), one["metadata"]["name"]
    services = [one["metadata"]["labels"] for one in objects(case, "Service")]
    for one in objects(case, "ServiceMonitor"):
        assert any(matches(labels, one["spec"]["selector"]) for labels in services), one["metadata"]["name"]


@pytest.mark.parametrize("case", CASES)
def test_every_selector_of_a_workload_takes_its_own_pods_only(case: str) -> None:
    for one in objects(case, "Deployment", "StatefulSet"):
        taken = [name for name, labels, _ in pods(case) if matches(labels, one["spec"]["selector"])]
        assert taken == [f"{one['kind']}/{one['metadata']['name']}"]


def ports_of(spec: dict[str, Any]) -> set[str | int]:
    """By name and by number."""
    ports = [port for one in spec["containers"] for port in one.get("ports", [])]
    return {port["name"] for port in ports} | {port["containerPort"] for port in ports}


@pytest.mark.parametrize("case", CASES)
def test_every_port_that_is_named_exists(case: str) -> None:
    by_app = {labels["app"]: ports_of(spec) for _, labels, spec in pods(case)}
    for one in objects(case, "Service"):
        wanted = {port["targetPort"] for port in one["spec"]["ports"]}
        assert wanted <= by_app[one["spec"]["selector"]["app"]], one["metadata"]["name"]
    for one in objects(case, "ServiceMonitor"):
        services = [
            service for service in objects(case, "Service")
            if matches(service["metadata"]["labels"], one["spec"]["selector"])
        ]  # fmt: skip
        for endpoint in one["spec"]["endpoints"]:
            having = [port["name"] for service in services for port in service["spec"]["ports"]]
            assert having.count(endpoint["port"]) == 1, one["metadata"]["name"]
    for one in objects(case, "NetworkPolicy"):
        for rule in one["spec"].get("ingress", []):
            wanted = {port["port"] for port in rule["ports"]}
            assert wanted <= by_app[one["spec"]["podSelector"]["matchLabels"]["app"]], one["metadata"]["name"]


@pytest.mark.parametrize("case", CASES)
def test_every_probe_asks_a_port_of_its_container(case: str) -> None:
    for name, labels, spec in pods(case):
        if labels["app"] not in {"orchestrator", "comment-worker"}:
            continue
        (one,) = spec["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert one[probe]["httpGet"]["port"] in ports_of(spec), name


def test_the_probes_are_the_guides() -> None:
    (one,) = the("dev", "Deployment", "orchestrator")["spec"]["template"]["spec"]["containers"]
    assert (one["readinessProbe"]["httpGet"]["path"], one["readinessProbe"]["periodSeconds"]) == ("/health", 5)
    live = one["livenessProbe"]
    assert (live["httpGet"]["path"], live["periodSeconds"], live["timeoutSeconds"]) == ("/health", 30, 5)


@pytest.mark.parametrize("case", CASES)
def test_every_secret_and_configmap_asked_for_is_made_here_or_named_by_a_value(case: str) -> None:
    made = {one["metadata"]["name"]: {**one.get("stringData", {}), **one.get("data", {})}
            for one in objects(case, "Secret", "ConfigMap")}  # fmt: skip
    named = {"db", "cache", "queue", "orchestrator-db", "orchestrator-redis", "orchestrator-rabbitmq"}
    for name, _, spec in pods(case):
        for one in spec["containers"]:
            for variable in one.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference and reference["name"] in made:
                    assert reference["key"] in made[reference["name"]], name
                elif reference:
                    assert reference["name"] in named, name
            for source in one.get("envFrom", []):
                assert source["configMapRef"]["name"] in made, name


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith(("dev", "all-inside"))])
def test_the_address_of_a_server_in_the_chart_is_its_services(case: str) -> None:
    services = {one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in objects(case, "Service")}
    for secret, key, server in (
        ("orchestrator-db", "POSTGRES_DSN", "postgres"),
        ("orchestrator-redis", "REDIS_URL", "redis"),
        ("orchestrator-rabbitmq", "CELERY_BROKER_URL", "rabbitmq"),
    ):
        url = the(case, "Secret", secret)["stringData"][key]
        # KEDA reads the queue's address too, from another namespace.
        host = f"{server}.{NAMESPACE}.svc" if server == "rabbitmq" else server
        assert f"@{host}:{services[server]}/" in url
        assert url in repr(config.load({key: url}))


@pytest.mark.parametrize("case", CASES)
def test_new_settings_and_secrets_make_new_pods(case: str) -> None:
    for one in objects(case, "Deployment", "StatefulSet"):
        annotations = one["spec"]["template"]["metadata"]["annotations"]
        assert any(name.startswith("checksum/") for name in annotations), one["metadata"]["name"]


@pytest.mark.parametrize(
    "switch", ["orchestrator.commentMonitoring.batchSize=7", "logLevel=WARNING", "postgres.password=another"]
)
def test_a_checksum_changes_with_what_it_is_of(switch: str) -> None:
    words = ("template", "x", str(CHART), "--values", str(CHART / "values-dev.yaml"), "--show-only",
             "templates/orchestrator-deployment.yaml")  # fmt: skip
    assert helm(*words).stdout != helm(*words, "--set", switch).stdout
    assert helm(*words).stdout == helm(*words, "--set", "cleanup.enabled=false").stdout


@pytest.mark.parametrize("case", ["prod-monitored", "all-outside", "prod-keda"])
def test_every_metric_in_rules_and_autoscalers_is_one_the_code_emits(case: str) -> None:
    expressions = [rule["expr"] for one in objects(case, "PrometheusRule") for group in one["spec"]["groups"]
                   for rule in group["rules"]]  # fmt: skip
    for one in objects(case, "HorizontalPodAutoscaler"):
        for metric in one["spec"]["metrics"]:
            kind = metric["type"].lower()
            expressions += [metric[kind]["metric"]["name"]] if kind in {"pods", "external"} else []
    for one in objects(case, "ScaledObject"):
        expressions += [trigger["metadata"]["query"] for trigger in one["spec"]["triggers"]
                        if trigger["type"] == "prometheus"]  # fmt: skip
    used = {name for one in expressions for name in re.findall(r"\bcomment_\w+", one)}
    assert used
    assert used <= emitted()


def test_the_queue_that_keda_looks_at_is_the_workers() -> None:
    (trigger,) = the("prod-keda", "ScaledObject", "comment-worker")["spec"]["triggers"]
    assert trigger["metadata"]["queueName"] == QUEUE_NAME
    assert (
        trigger["authenticationRef"]["name"]
        == the("prod-keda", "TriggerAuthentication", "comment-worker")["metadata"]["name"]
    )


def test_rules_look_at_this_namespace_only() -> None:
    """Two releases beside each other do not answer for one another."""
    (one,) = objects("prod-monitored", "PrometheusRule")
    for group in one["spec"]["groups"]:
        for rule in group["rules"]:
            used = re.findall(r"\b(?:comment_\w+|up)\{[^}]*\}", rule["expr"])
            assert used
            assert all(f'namespace="{NAMESPACE}"' in selector for selector in used), rule["alert"]


@pytest.mark.parametrize("case", CASES)
def test_there_is_time_for_the_way_out(case: str) -> None:
    """More than a batch, or a task with its last seconds, may take."""
    data = settings(case)
    timeout, delay = int(data["COMMENT_PROCESSING_TIMEOUT"]), int(data["COMMENT_DRAIN_DELAY"])
    for one in objects(case, "Deployment"):
        grace = one["spec"]["template"]["spec"].get("terminationGracePeriodSeconds")
        if one["metadata"]["name"] == "orchestrator":
            # uvicorn's own limit after the delay is the timeout and five seconds.
            assert grace > delay + timeout + 5
        elif one["metadata"]["name"] == "comment-worker":
            assert grace > timeout + 15


def test_the_commands_of_the_pods_are_the_programs() -> None:
    from comment_monitor.cli import Commands  # noqa: PLC0415 - its commands, not the module's import

    known = {name for name, _, _ in Commands.modules}
    seen = set()
    for _, labels, spec in pods("all-inside"):
        for one in spec["containers"]:
            if one.get("args", [""])[0] == "comment-monitor":
                seen.add((labels["app"], one["args"][1]))
    assert {command for _, command in seen} <= known
    assert seen >= {("orchestrator", "serve"), ("comment-worker", "worker"), ("migrations", "migrate"),
                    ("comment-cleanup", "cleanup"), ("comment-monitoring-test", "smoke-test")}  # fmt: skip


def test_the_migrations_run_where_wait_does_not_wait_for_them() -> None:
    """After the objects, replaced by the next ones, and removed where they did their work."""
    annotations = the("prod", "Job", "migrations")["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "post-install,post-upgrade"
    assert set(annotations["helm.sh/hook-delete-policy"].split(",")) == {"before-hook-creation", "hook-succeeded"}
    for _, labels, spec in pods("prod"):
        assert "initContainers" not in spec, labels["app"]
