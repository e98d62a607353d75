"""Least privilege: the standard `restricted`, a read-only root, no token, and a policy for every pod."""

from typing import Any, Final

import pytest
from tests.chart.conftest import CASES, matches, objects, pods, the

CLOSED: Final = [case for case in CASES if case.startswith(("prod", "all", "dev-policies", "no-worker"))]


@pytest.mark.parametrize("case", CASES)
def test_every_pod_meets_the_restricted_standard(case: str) -> None:
    for name, _, spec in pods(case):
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True, name
        assert pod["runAsUser"] > 0, name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            assert not spec.get(key), name
        for one in [*spec["containers"], *spec.get("initContainers", [])]:
            security = one["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert not security.get("privileged"), name
            assert all("hostPort" not in port for port in one.get("ports", [])), name
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}, name


@pytest.mark.parametrize("case", CASES)
def test_every_root_is_read_only_and_every_container_bounded(case: str) -> None:
    for name, _, spec in pods(case):
        for one in spec["containers"]:
            assert one["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert set(one["resources"]) == {"requests", "limits"}, name
            for kind in ("requests", "limits"):
                assert set(one["resources"][kind]) >= {"memory", "cpu"}, name


@pytest.mark.parametrize("case", CASES)
def test_no_password_stands_in_a_pod(case: str) -> None:
    for name, _, spec in pods(case):
        for one in spec["containers"]:
            for variable in one.get("env", []):
                if "value" in variable:
                    assert not any(word in variable["name"] for word in ("PASS", "DSN", "URL")), name


@pytest.mark.parametrize("case", CASES)
def test_only_the_pod_that_asks_the_kubernetes_api_has_a_token(case: str) -> None:
    having = {name for name, _, spec in pods(case) if spec.get("automountServiceAccountToken") is not False}
    rbac = {one["metadata"]["name"] for one in objects(case, "Role")}
    assert having == ({"Pod/test-endpoints"} if rbac else set())


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith(("prod", "all"))])
def test_the_role_is_the_guides_and_bound_to_the_account_that_uses_it(case: str) -> None:
    assert the(case, "Role", "comment-monitoring-role")["rules"] == [
        {"apiGroups": [""], "resources": ["pods", "services", "endpoints"], "verbs": ["get", "list", "watch"]}
    ]
    (binding,) = objects(case, "RoleBinding")
    assert binding["roleRef"]["name"] == "comment-monitoring-role"
    assert [one["name"] for one in binding["subjects"]] == ["comment-monitoring-sa"]
    bound = {name for name, _, spec in pods(case) if spec.get("serviceAccountName") == "comment-monitoring-sa"}
    assert "Pod/test-endpoints" in bound


def policies(case: str, labels: dict[str, str]) -> list[dict[str, Any]]:
    """Those that hold for a pod."""
    return [one["spec"] for one in objects(case, "NetworkPolicy") if matches(labels, one["spec"]["podSelector"])]


@pytest.mark.parametrize("case", CLOSED)
def test_every_pod_has_one_policy_for_both_directions(case: str) -> None:
    for name, labels, _ in pods(case):
        found = policies(case, labels)
        assert len(found) == 1, name
        assert set(found[0]["policyTypes"]) == {"Ingress", "Egress"}, name


@pytest.mark.parametrize("case", [case for case in CASES if case not in CLOSED])
def test_without_the_switch_there_are_none(case: str) -> None:
    assert objects(case, "NetworkPolicy") == []


def egress(case: str, labels: dict[str, str], protocol: str, port: int, *, to: dict[str, str] | None = None) -> bool:
    """Whether a pod gets out on this port, to a pod with labels of `to` where given."""
    for rule in policies(case, labels)[0]["egress"]:
        if not any((one["protocol"], one["port"]) == (protocol, port) for one in rule["ports"]):
            continue
        peers = rule.get("to", [])
        if to is None or not peers or any("podSelector" in one and matches(to, one["podSelector"]) for one in peers):
            return True
    return False


def ingress(case: str, labels: dict[str, str], sender: dict[str, str], port: str) -> bool:
    """Whether a pod of this namespace gets in on a named port."""
    for rule in policies(case, labels)[0]["ingress"]:
        if any(one["port"] == port for one in rule["ports"]) and any(
            matches(sender, one["podSelector"]) for one in rule["from"] if "podSelector" in one
        ):
            return True
    return False


SCRAPED: Final = {"orchestrator", "comment-worker", "celery-exporter", "rabbitmq"}
SERVERS: Final = {"postgres": (5432, "postgres"), "redis": (6379, "redis"), "rabbitmq": (5672, "amqp")}
NEEDED: Final = {
    "orchestrator": {"postgres", "redis", "rabbitmq"},
    "comment-worker": {"postgres", "rabbitmq"},
    "migrations": {"postgres"},
    "comment-cleanup": {"postgres"},
    "comment-monitoring-test": {"postgres"},
    "celery-exporter": {"rabbitmq"},
}


@pytest.mark.parametrize("case", CLOSED)
@pytest.mark.parametrize("app", NEEDED)
def test_every_pod_reaches_the_servers_it_needs_and_no_other(case: str, app: str) -> None:
    """Out of the one, and into the other where it is in the chart."""
    labels = {"app": app}
    if not any(found["app"] == app for _, found, _ in pods(case)):
        return
    inside = {found["app"] for _, found, _ in pods(case)} & SERVERS.keys()
    for server, (port, name) in SERVERS.items():
        wanted = server in NEEDED[app]
        assert egress(case, labels, "TCP", port, to={"app": server}) == wanted, (app, server)
        if server in inside:
            assert ingress(case, {"app": server}, labels, name) == wanted, (app, server)


@pytest.mark.parametrize("case", CLOSED)
def test_who_may_go_out_to_a_pod_of_ours_may_come_in_there(case: str) -> None:
    """A way that only one of its two policies allows is none."""
    ways = 0
    for name, labels, _ in pods(case):
        for rule in policies(case, labels)[0]["egress"]:
            for peer in rule.get("to", []):
                if "podSelector" not in peer or "namespaceSelector" in peer:
                    continue
                for app in {found["app"] for _, found, _ in pods(case) if matches(found, peer["podSelector"])}:
                    for port in rule["ports"]:
                        named = dict(SERVERS.values()).get(port["port"], port["port"])
                        assert ingress(case, {"app": app}, labels, named), (name, app, named)
                        ways += 1
    assert ways >= (2 if case.startswith("no-worker") else 3)


@pytest.mark.parametrize("case", CLOSED)
def test_names_are_resolved_over_udp_and_tcp(case: str) -> None:
    for name, labels, _ in pods(case):
        if labels["app"] not in SERVERS:
            assert egress(case, labels, "UDP", 53), name
            assert egress(case, labels, "TCP", 53), name


@pytest.mark.parametrize("case", CLOSED)
def test_prometheus_gets_in_from_its_namespace_to_what_it_scrapes_and_nowhere_else(case: str) -> None:
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    for name, labels, _ in pods(case):
        rules = [rule for rule in policies(case, labels)[0]["ingress"] if prometheus in rule["from"]]
        open_to_it = [port["port"] for rule in rules for port in rule["ports"]]
        assert open_to_it == (["metrics"] if labels["app"] in SCRAPED else []), name


@pytest.mark.parametrize("case", ["prod-monitored", "prod-keda", "all-outside", "all-inside", "no-worker"])
def test_what_is_scraped_is_what_prometheus_gets_in_to(case: str) -> None:
    """Each ServiceMonitor leads by its Service to pods; a way that is closed would show as a target that is down."""
    apps = set()
    for monitor in objects(case, "ServiceMonitor"):
        for service in objects(case, "Service"):
            if matches(service["metadata"]["labels"], monitor["spec"]["selector"]):
                apps.add(service["spec"]["selector"]["app"])
    assert apps == SCRAPED & {labels["app"] for _, labels, _ in pods(case)}


@pytest.mark.parametrize("case", CLOSED)
def test_only_the_workers_reach_the_platforms_and_nobody_the_clouds_metadata(case: str) -> None:
    for name, labels, _ in pods(case):
        blocks = [
            (peer["ipBlock"], rule) for rule in policies(case, labels)[0]["egress"]
            for peer in rule.get("to", []) if "ipBlock" in peer and peer["ipBlock"]["cidr"] == "0.0.0.0/0"
        ]  # fmt: skip
        assert bool(blocks) == (labels["app"] == "comment-worker"), name
        for block, rule in blocks:
            assert "169.254.0.0/16" in block["except"]
            assert [port["port"] for port in rule["ports"]] == [443]


def test_keda_gets_into_the_queue_where_it_scales_on_it() -> None:
    keda = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}
    for case, wanted in (("all-inside-keda", True), ("all-inside", False)):
        rules = policies(case, {"app": "rabbitmq"})[0]["ingress"]
        (rule,) = [one for one in rules if one["ports"] == [{"protocol": "TCP", "port": "amqp"}]]
        assert (keda in rule["from"]) == wanted


def test_what_is_outside_reaches_the_api_only() -> None:
    """Of a Service that leads out of the cluster, the metrics are no part."""
    (service,) = [one for one in objects("all-outside", "Service") if one["spec"].get("type") == "LoadBalancer"]
    assert [port["name"] for port in service["spec"]["ports"]] == ["http"]
