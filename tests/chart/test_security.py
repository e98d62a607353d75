"""Least privilege: the Pod Security Standard `restricted`, a read-only root, no token, a policy for every pod."""

from typing import Any, Final

import pytest
from tests.chart.conftest import CASES, get_object, matches, objects, pods

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
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert not security.get("privileged"), name
            assert all("hostPort" not in port for port in container.get("ports", [])), name
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}, name


@pytest.mark.parametrize("case", CASES)
def test_every_container_has_a_read_only_root_and_limits(case: str) -> None:
    for name, _, spec in pods(case):
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert set(container["resources"]) == {"requests", "limits"}, name
            for kind in ("requests", "limits"):
                assert set(container["resources"][kind]) >= {"memory", "cpu"}, name


@pytest.mark.parametrize("case", CASES)
def test_no_pod_spec_contains_a_password(case: str) -> None:
    for name, _, spec in pods(case):
        for container in spec["containers"]:
            for variable in container.get("env", []):
                if "value" in variable:
                    assert not any(word in variable["name"] for word in ("PASS", "DSN", "URL")), name


@pytest.mark.parametrize("case", CASES)
def test_only_the_pod_that_uses_the_kubernetes_api_has_a_token(case: str) -> None:
    with_token = {name for name, _, spec in pods(case) if spec.get("automountServiceAccountToken") is not False}
    rbac = {role["metadata"]["name"] for role in objects(case, "Role")}
    assert with_token == ({"Pod/test-endpoints"} if rbac else set())


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith(("prod", "all"))])
def test_the_role_matches_the_guide_and_is_bound_to_its_account(case: str) -> None:
    assert get_object(case, "Role", "comment-monitoring-role")["rules"] == [
        {"apiGroups": [""], "resources": ["pods", "services", "endpoints"], "verbs": ["get", "list", "watch"]}
    ]
    (binding,) = objects(case, "RoleBinding")
    assert binding["roleRef"]["name"] == "comment-monitoring-role"
    assert [subject["name"] for subject in binding["subjects"]] == ["comment-monitoring-sa"]
    bound = {name for name, _, spec in pods(case) if spec.get("serviceAccountName") == "comment-monitoring-sa"}
    assert "Pod/test-endpoints" in bound


def policies(case: str, labels: dict[str, str]) -> list[dict[str, Any]]:
    """The policies that select a pod."""
    return [
        policy["spec"] for policy in objects(case, "NetworkPolicy") if matches(labels, policy["spec"]["podSelector"])
    ]


@pytest.mark.parametrize("case", CLOSED)
def test_every_pod_has_exactly_one_policy_for_both_directions(case: str) -> None:
    for name, labels, _ in pods(case):
        found = policies(case, labels)
        assert len(found) == 1, name
        assert set(found[0]["policyTypes"]) == {"Ingress", "Egress"}, name


@pytest.mark.parametrize("case", [case for case in CASES if case not in CLOSED])
def test_policies_are_rendered_only_if_switched_on(case: str) -> None:
    assert objects(case, "NetworkPolicy") == []


def egress(case: str, labels: dict[str, str], protocol: str, port: int, *, to: dict[str, str] | None = None) -> bool:
    """Whether a pod may send to this port, of a pod with the labels `to` if given."""
    for rule in policies(case, labels)[0]["egress"]:
        if not any((allowed["protocol"], allowed["port"]) == (protocol, port) for allowed in rule["ports"]):
            continue
        peers = rule.get("to", [])
        if to is None or not peers or any("podSelector" in peer and matches(to, peer["podSelector"]) for peer in peers):
            return True
    return False


def ingress(case: str, labels: dict[str, str], sender: dict[str, str], port: str) -> bool:
    """Whether a pod of this namespace may connect to a named port."""
    for rule in policies(case, labels)[0]["ingress"]:
        if any(allowed["port"] == port for allowed in rule["ports"]) and any(
            matches(sender, peer["podSelector"]) for peer in rule["from"] if "podSelector" in peer
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
def test_every_pod_reaches_exactly_the_servers_it_needs(case: str, app: str) -> None:
    """Its own policy allows it, and so does the policy of the server if it is bundled."""
    labels = {"app": app}
    if not any(found["app"] == app for _, found, _ in pods(case)):
        return
    bundled = {found["app"] for _, found, _ in pods(case)} & SERVERS.keys()
    for server, (port, name) in SERVERS.items():
        wanted = server in NEEDED[app]
        assert egress(case, labels, "TCP", port, to={"app": server}) == wanted, (app, server)
        if server in bundled:
            assert ingress(case, {"app": server}, labels, name) == wanted, (app, server)


@pytest.mark.parametrize("case", CLOSED)
def test_a_connection_allowed_out_of_a_pod_is_allowed_into_its_peer(case: str) -> None:
    """A connection works only if the policies of both pods allow it."""
    connections = 0
    for name, labels, _ in pods(case):
        for rule in policies(case, labels)[0]["egress"]:
            for peer in rule.get("to", []):
                if "podSelector" not in peer or "namespaceSelector" in peer:
                    continue
                for app in {found["app"] for _, found, _ in pods(case) if matches(found, peer["podSelector"])}:
                    for port in rule["ports"]:
                        named = dict(SERVERS.values()).get(port["port"], port["port"])
                        assert ingress(case, {"app": app}, labels, named), (name, app, named)
                        connections += 1
    assert connections >= (2 if case.startswith("no-worker") else 3)


@pytest.mark.parametrize("case", CLOSED)
def test_every_pod_reaches_dns_over_udp_and_tcp(case: str) -> None:
    for name, labels, _ in pods(case):
        if labels["app"] not in SERVERS:
            assert egress(case, labels, "UDP", 53), name
            assert egress(case, labels, "TCP", 53), name


@pytest.mark.parametrize("case", CLOSED)
def test_prometheus_reaches_exactly_the_metrics_ports_of_scraped_pods(case: str) -> None:
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    for name, labels, _ in pods(case):
        rules = [rule for rule in policies(case, labels)[0]["ingress"] if prometheus in rule["from"]]
        ports = [port["port"] for rule in rules for port in rule["ports"]]
        assert ports == (["metrics"] if labels["app"] in SCRAPED else []), name


@pytest.mark.parametrize("case", ["prod-monitored", "prod-keda", "all-external", "all-bundled", "no-worker"])
def test_service_monitors_select_exactly_the_scraped_pods(case: str) -> None:
    """Otherwise a target would be reported as down because a policy blocks it."""
    apps = set()
    for monitor in objects(case, "ServiceMonitor"):
        for service in objects(case, "Service"):
            if matches(service["metadata"]["labels"], monitor["spec"]["selector"]):
                apps.add(service["spec"]["selector"]["app"])
    assert apps == SCRAPED & {labels["app"] for _, labels, _ in pods(case)}


@pytest.mark.parametrize("case", CLOSED)
def test_only_workers_reach_the_platforms_and_no_pod_the_cloud_metadata(case: str) -> None:
    for name, labels, _ in pods(case):
        blocks = [
            (peer["ipBlock"], rule) for rule in policies(case, labels)[0]["egress"]
            for peer in rule.get("to", []) if "ipBlock" in peer and peer["ipBlock"]["cidr"] == "0.0.0.0/0"
        ]  # fmt: skip
        assert bool(blocks) == (labels["app"] == "comment-worker"), name
        for block, rule in blocks:
            assert "169.254.0.0/16" in block["except"]
            assert [port["port"] for port in rule["ports"]] == [443]


def test_keda_reaches_the_broker_only_if_keda_is_used() -> None:
    keda = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}
    for case, wanted in (("all-bundled-keda", True), ("all-bundled", False)):
        rules = policies(case, {"app": "rabbitmq"})[0]["ingress"]
        (rule,) = [rule for rule in rules if rule["ports"] == [{"protocol": "TCP", "port": "amqp"}]]
        assert (keda in rule["from"]) == wanted


def test_a_load_balancer_exposes_the_api_without_the_metrics() -> None:
    (service,) = [
        service for service in objects("all-external", "Service") if service["spec"].get("type") == "LoadBalancer"
    ]
    assert [port["name"] for port in service["spec"]["ports"]] == ["http"]
