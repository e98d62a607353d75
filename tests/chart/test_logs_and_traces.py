"""The log level of running pods, and the destination of traces."""

from typing import Any

import pytest
from tests.chart.conftest import CHART, EXTERNAL_SERVERS, arguments, documents, helm

PODS = ("orchestrator", "comment-worker")
POLICIES = "orchestrator.commentMonitoring.networkPolicy"
COLLECTOR = "http://otel-collector.monitoring:4318"


def rendered(*switches: str) -> dict[tuple[str, str], dict[str, Any]]:
    words = [word for switch in switches for word in ("--set", switch)]
    external = {
        name: value
        for name, value in EXTERNAL_SERVERS.items()
        if "postgres.enabled=true" not in switches or "postgres" not in name
    }
    result = helm("template", "x", str(CHART), "--set", f"{POLICIES}.enabled=true", *arguments(None, external), *words)
    assert result.returncode == 0, result.stderr
    return {(resource["kind"], resource["metadata"]["name"]): resource for resource in documents(result.stdout)}


def container(objects: dict[tuple[str, str], dict[str, Any]], pod: str) -> dict[str, Any]:
    [container] = objects["Deployment", pod]["spec"]["template"]["spec"]["containers"]
    return dict(container)


def values(objects: dict[tuple[str, str], dict[str, Any]], pod: str) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container(objects, pod)["env"] if "value" in variable}


@pytest.mark.parametrize("pod", PODS)
def test_the_log_level_is_a_file_from_a_config_map(pod: str) -> None:
    objects = rendered()
    data = values(objects, pod)
    [mount] = [mount for mount in container(objects, pod)["volumeMounts"] if mount["name"] == "log-level"]
    # A file that is mounted by its subPath is never updated.
    assert mount == {"name": "log-level", "mountPath": "/etc/comment-monitor", "readOnly": True}
    volumes = objects["Deployment", pod]["spec"]["template"]["spec"]["volumes"]
    [volume] = [volume for volume in volumes if volume["name"] == "log-level"]
    # Each key of the ConfigMap becomes a file when it is set.
    assert volume["configMap"] == {"name": "comment-monitoring-log-level"}
    assert data["LOG_LEVEL_FILE"] == f"{mount['mountPath']}/level"
    assert "data" not in objects["ConfigMap", "comment-monitoring-log-level"]
    page = (CHART.parent / "docs" / "deployment.md").read_text()
    assert (
        """kubectl patch configmap comment-monitoring-log-level --type merge --patch '{"data": {"level": "DEBUG"}}'"""
        in page
    )


def test_traces_are_off_by_default() -> None:
    objects = rendered()
    for pod in PODS:
        data = values(objects, pod)
        assert {name: value for name, value in data.items() if name.startswith("OTEL_")} == {
            "OTEL_EXPORTER_OTLP_ENDPOINT": ""
        }
        assert 4318 not in ports(objects, pod)


def ports(objects: dict[tuple[str, str], dict[str, Any]], pod: str) -> dict[int, Any]:
    """The ports to which a pod may send, with their peers."""
    egress = objects["NetworkPolicy", pod]["spec"]["egress"]
    return {port["port"]: rule.get("to") for rule in egress for port in rule["ports"]}


@pytest.mark.parametrize("pod", PODS)
def test_traces_are_sent_to_the_endpoint_and_allowed_by_the_policies(pod: str) -> None:
    objects = rendered(
        f"tracing.endpoint={COLLECTOR}", "tracing.sampleRatio=0.25", "tracing.existingSecret=collector",
        f"{POLICIES}.collector.to[0].namespaceSelector.matchLabels.name=monitoring",
    )  # fmt: skip
    data = values(objects, pod)
    assert data["OTEL_EXPORTER_OTLP_ENDPOINT"] == COLLECTOR
    assert (data["OTEL_TRACES_SAMPLER"], data["OTEL_TRACES_SAMPLER_ARG"]) == ("parentbased_traceidratio", "0.25")
    environment = {variable["name"]: variable for variable in container(objects, pod)["env"]}
    names = list(environment)
    # A variable must be defined before the variable that refers to it.
    assert names.index("POD_NAME") < names.index("OTEL_RESOURCE_ATTRIBUTES")
    assert environment["OTEL_RESOURCE_ATTRIBUTES"]["value"].endswith(",k8s.pod.name=$(POD_NAME)")
    secret = environment["OTEL_EXPORTER_OTLP_HEADERS"]["valueFrom"]["secretKeyRef"]
    assert secret == {"name": "collector", "key": "headers"}
    assert ports(objects, pod)[4318] == [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    # Pods that run a single command send no traces.
    assert "OTEL_EXPORTER_OTLP_HEADERS" not in str(objects["Job", "migrations"])


@pytest.mark.parametrize(
    "wrong",
    ["endpoint=collector:4317", "sampleRatio=2", "sampleRatio=1.5", "sampleRatio=most", "existingSecret=Not_A_Name"],
)
def test_a_wrong_value_of_tracing_is_refused(wrong: str) -> None:
    result = helm("template", "x", str(CHART), "--set", f"tracing.{wrong}")
    assert result.returncode != 0
    assert "tracing" in result.stderr


def test_the_database_does_not_log_texts_of_comments() -> None:
    objects = rendered("postgres.enabled=true", "postgres.password=development")
    [container] = objects["StatefulSet", "postgres"]["spec"]["template"]["spec"]["containers"]
    assert {"log_min_messages=log", "log_min_error_statement=panic"} <= set(container["args"])
