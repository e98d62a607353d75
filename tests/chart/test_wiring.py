"""References between objects are valid: variables, selectors, ports, Secrets, names of metrics."""

import re
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import (
    CASES,
    CHART,
    EXTERNAL_SERVERS,
    NAMESPACE,
    environment,
    get_object,
    helm,
    matches,
    objects,
    pods,
    settings,
)  # fmt: skip

from comment_monitor.core import config
from comment_monitor.messaging.celery_app import QUEUE_NAME
from comment_monitor.observability import cgroup, metrics

PROGRAM_PODS: Final = ("orchestrator", "comment-worker", "migrations", "comment-cleanup")
DECLARED: Final = {setting.variable for setting in config.declared()}
ADDRESSES: Final = {"POSTGRES_DSN", "REDIS_URL", "CELERY_BROKER_URL"}
# The second name of the broker's address, which only development uses.
NOT_SET: Final = {"RABBITMQ_URL"}


def emitted() -> set[str]:
    """The names of all series that the program exports."""
    names = {name for name, _, _ in cgroup.DECLARED}
    for metric in metrics.ALL:
        names |= {f"{metric._name}{suffix}" for suffix in ("", "_total", "_bucket", "_sum", "_count")}
    return names


@pytest.mark.parametrize("case", CASES)
def test_every_variable_of_the_pods_is_declared_by_the_program(case: str) -> None:
    assert set(get_object(case, "ConfigMap", "comment-monitoring-config")["data"]) <= DECLARED
    for _, labels, spec in pods(case):
        if labels["app"] in PROGRAM_PODS:
            assert set(environment(spec)) <= DECLARED


def test_every_setting_of_the_program_can_be_set() -> None:
    """By a value of the chart, or by its variable."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    monitoring = schema["properties"]["orchestrator"]["properties"]["commentMonitoring"]["properties"]
    by_variable = set(monitoring["settings"]["properties"])
    by_value = set(settings("plain"))
    assert by_variable | by_value | ADDRESSES | NOT_SET == DECLARED
    assert not by_variable & by_value


def test_a_setting_given_by_its_variable_reaches_the_pods() -> None:
    switches = {**EXTERNAL_SERVERS, "orchestrator.commentMonitoring.settings.COMMENT_WRITERS": "4"}
    words = [word for name, value in switches.items() for word in ("--set", f"{name}={value}")]
    rendered = helm("template", "x", str(CHART), *words).stdout
    # The pods of orchestrator, workers, migrations, cleanup and the test that sends a comment.
    assert len(re.findall(r'name: COMMENT_WRITERS\n +value: "4"\n', rendered)) == 5


@pytest.mark.parametrize("case", CASES)
def test_every_setting_is_within_the_bounds_of_the_program(case: str) -> None:
    """Otherwise the program would not start."""
    data = settings(case)
    assert config.load(data).log_level == data["LOG_LEVEL"]


@pytest.mark.parametrize("case", CASES)
def test_every_selector_matches_an_object(case: str) -> None:
    found = pods(case)
    for service in objects(case, "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        assert any(matches(labels, selector) for _, labels, _ in found), service["metadata"]["name"]
    for policy in objects(case, "NetworkPolicy"):
        assert any(matches(labels, policy["spec"]["podSelector"]) for _, labels, _ in found), policy["metadata"]["name"]
    for resource in objects(case, "PodDisruptionBudget", "Deployment", "StatefulSet"):
        assert any(matches(labels, resource["spec"]["selector"]) for _, labels, _ in found), resource["metadata"][
            "name"
        ]
    services = [service["metadata"]["labels"] for service in objects(case, "Service")]
    for monitor in objects(case, "ServiceMonitor"):
        assert any(matches(labels, monitor["spec"]["selector"]) for labels in services), monitor["metadata"]["name"]


@pytest.mark.parametrize("case", CASES)
def test_the_selector_of_a_workload_matches_only_its_own_pods(case: str) -> None:
    for resource in objects(case, "Deployment", "StatefulSet"):
        matching = [name for name, labels, _ in pods(case) if matches(labels, resource["spec"]["selector"])]
        assert matching == [f"{resource['kind']}/{resource['metadata']['name']}"]


def ports_of(spec: dict[str, Any]) -> set[str | int]:
    """The ports of the containers, by name and by number."""
    ports = [port for container in spec["containers"] for port in container.get("ports", [])]
    return {port["name"] for port in ports} | {port["containerPort"] for port in ports}


@pytest.mark.parametrize("case", CASES)
def test_every_port_referred_to_exists(case: str) -> None:
    by_app = {labels["app"]: ports_of(spec) for _, labels, spec in pods(case)}
    for service in objects(case, "Service"):
        ports = {port["targetPort"] for port in service["spec"]["ports"]}
        assert ports <= by_app[service["spec"]["selector"]["app"]], service["metadata"]["name"]
    for monitor in objects(case, "ServiceMonitor"):
        services = [
            service for service in objects(case, "Service")
            if matches(service["metadata"]["labels"], monitor["spec"]["selector"])
        ]  # fmt: skip
        for endpoint in monitor["spec"]["endpoints"]:
            names = [port["name"] for service in services for port in service["spec"]["ports"]]
            assert names.count(endpoint["port"]) == 1, monitor["metadata"]["name"]
    for policy in objects(case, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            ports = {port["port"] for port in rule["ports"]}
            assert ports <= by_app[policy["spec"]["podSelector"]["matchLabels"]["app"]], policy["metadata"]["name"]


@pytest.mark.parametrize("case", CASES)
def test_every_probe_uses_a_port_of_its_container(case: str) -> None:
    for name, labels, spec in pods(case):
        if labels["app"] not in {"orchestrator", "comment-worker"}:
            continue
        (container,) = spec["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] in ports_of(spec), name


def test_the_probes_match_the_guide() -> None:
    (container,) = get_object("dev", "Deployment", "orchestrator")["spec"]["template"]["spec"]["containers"]
    assert (container["readinessProbe"]["httpGet"]["path"], container["readinessProbe"]["periodSeconds"]) == (
        "/health",
        5,
    )
    liveness = container["livenessProbe"]
    assert liveness["httpGet"]["path"] == "/health"
    assert (liveness["periodSeconds"], liveness["timeoutSeconds"]) == (30, 5)


@pytest.mark.parametrize("case", CASES)
def test_every_secret_and_configmap_used_is_rendered_or_named_by_a_value(case: str) -> None:
    rendered = {resource["metadata"]["name"]: {**resource.get("stringData", {}), **resource.get("data", {})}
            for resource in objects(case, "Secret", "ConfigMap")}  # fmt: skip
    external = {"db", "cache", "queue", "orchestrator-db", "orchestrator-redis", "orchestrator-rabbitmq"}
    for name, _, spec in pods(case):
        for container in spec["containers"]:
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference and reference["name"] in rendered:
                    assert reference["key"] in rendered[reference["name"]], name
                elif reference:
                    assert reference["name"] in external, name
            for source in container.get("envFrom", []):
                assert source["configMapRef"]["name"] in rendered, name


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith(("dev", "all-bundled"))])
def test_the_address_of_a_bundled_server_is_its_service(case: str) -> None:
    services = {
        service["metadata"]["name"]: service["spec"]["ports"][0]["port"] for service in objects(case, "Service")
    }
    for secret, key, server in (
        ("orchestrator-db", "POSTGRES_DSN", "postgres"),
        ("orchestrator-redis", "REDIS_URL", "redis"),
        ("orchestrator-rabbitmq", "CELERY_BROKER_URL", "rabbitmq"),
    ):
        url = get_object(case, "Secret", secret)["stringData"][key]
        # KEDA reads the address of the broker too, from another namespace.
        host = f"{server}.{NAMESPACE}.svc" if server == "rabbitmq" else server
        assert f"@{host}:{services[server]}/" in url
        assert url in repr(config.load({key: url}))


@pytest.mark.parametrize("case", CASES)
def test_pods_have_checksums_of_their_settings_and_secrets(case: str) -> None:
    for resource in objects(case, "Deployment", "StatefulSet"):
        annotations = resource["spec"]["template"]["metadata"]["annotations"]
        assert any(name.startswith("checksum/") for name in annotations), resource["metadata"]["name"]


@pytest.mark.parametrize(
    "switch", ["orchestrator.commentMonitoring.batchSize=7", "logLevel=WARNING", "postgres.password=another"]
)
def test_a_checksum_changes_only_with_its_content(switch: str) -> None:
    words = ("template", "x", str(CHART), "--values", str(CHART / "values-dev.yaml"), "--show-only",
             "templates/orchestrator-deployment.yaml")  # fmt: skip
    assert helm(*words).stdout != helm(*words, "--set", switch).stdout
    assert helm(*words).stdout == helm(*words, "--set", "cleanup.enabled=false").stdout


@pytest.mark.parametrize("case", ["prod-monitored", "all-external", "prod-keda"])
def test_every_metric_in_rules_and_autoscalers_is_exported(case: str) -> None:
    groups = [group for resource in objects(case, "PrometheusRule") for group in resource["spec"]["groups"]]
    expressions = [rule["expr"] for group in groups for rule in group["rules"]]
    for autoscaler in objects(case, "HorizontalPodAutoscaler"):
        for metric in autoscaler["spec"]["metrics"]:
            kind = metric["type"].lower()
            expressions += [metric[kind]["metric"]["name"]] if kind in {"pods", "external"} else []
    for scaled_object in objects(case, "ScaledObject"):
        expressions += [trigger["metadata"]["query"] for trigger in scaled_object["spec"]["triggers"]
                        if trigger["type"] == "prometheus"]  # fmt: skip
    used = {name for expression in expressions for name in re.findall(r"\bcomment_\w+", expression)}
    assert used
    assert used <= emitted()


def test_keda_reads_the_queue_of_the_workers() -> None:
    (trigger,) = get_object("prod-keda", "ScaledObject", "comment-worker")["spec"]["triggers"]
    assert trigger["metadata"]["queueName"] == QUEUE_NAME
    assert (
        trigger["authenticationRef"]["name"]
        == get_object("prod-keda", "TriggerAuthentication", "comment-worker")["metadata"]["name"]
    )


def test_rules_read_only_the_namespace_of_the_release() -> None:
    """Two releases in a cluster do not affect each other's alerts."""
    (prometheus_rule,) = objects("prod-monitored", "PrometheusRule")
    for group in prometheus_rule["spec"]["groups"]:
        for rule in group["rules"]:
            used = re.findall(r"\b(?:comment_\w+|up)\{[^}]*\}", rule["expr"])
            assert used
            assert all(f'namespace="{NAMESPACE}"' in selector for selector in used), rule["alert"]


@pytest.mark.parametrize("case", CASES)
def test_the_grace_period_is_longer_than_the_shutdown(case: str) -> None:
    """It is longer than a batch, or a task and its last seconds, can take."""
    data = settings(case)
    timeout, delay = int(data["COMMENT_PROCESSING_TIMEOUT"]), int(data["COMMENT_DRAIN_DELAY"])
    for deployment in objects(case, "Deployment"):
        grace = deployment["spec"]["template"]["spec"].get("terminationGracePeriodSeconds")
        if deployment["metadata"]["name"] == "orchestrator":
            # uvicorn's own limit is the timeout and five seconds, after the delay.
            assert grace > delay + timeout + 5
        elif deployment["metadata"]["name"] == "comment-worker":
            assert grace > timeout + 15


def test_the_pods_run_commands_of_the_program() -> None:
    from comment_monitor.cli import Commands  # noqa: PLC0415 - its commands, not the module's import

    known = {name for name, _, _ in Commands.modules}
    used = set()
    for _, labels, spec in pods("all-bundled"):
        for container in spec["containers"]:
            if container.get("args", [""])[0] == "comment-monitor":
                used.add((labels["app"], container["args"][1]))
    assert {command for _, command in used} <= known
    assert used >= {("orchestrator", "serve"), ("comment-worker", "worker"), ("migrations", "migrate"),
                    ("comment-cleanup", "cleanup"), ("comment-monitoring-test", "smoke-test")}  # fmt: skip


def test_migrations_are_a_hook_that_helm_wait_does_not_wait_for() -> None:
    """The Job runs after the objects are created; the next one replaces it, and it is removed if it succeeds."""
    annotations = get_object("prod", "Job", "migrations")["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "post-install,post-upgrade"
    assert set(annotations["helm.sh/hook-delete-policy"].split(",")) == {"before-hook-creation", "hook-succeeded"}
    for _, labels, spec in pods("prod"):
        assert "initContainers" not in spec, labels["app"]
