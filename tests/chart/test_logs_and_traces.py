"""Where the level of a running pod comes from, and where traces go."""

from typing import Any

import pytest
import yaml
from tests.chart.conftest import CHART, OUTSIDE, arguments, helm

PODS = ("orchestrator", "comment-worker")
POLICIES = "orchestrator.commentMonitoring.networkPolicy"
COLLECTOR = "http://otel-collector.monitoring:4318"


def rendered(*switches: str) -> dict[tuple[str, str], dict[str, Any]]:
    words = [word for one in switches for word in ("--set", one)]
    outside = {
        name: value
        for name, value in OUTSIDE.items()
        if "postgres.enabled=true" not in switches or "postgres" not in name
    }
    done = helm("template", "x", str(CHART), "--set", f"{POLICIES}.enabled=true", *arguments(None, outside), *words)
    assert done.returncode == 0, done.stderr
    found = (one for one in yaml.safe_load_all(done.stdout) if one)
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def container(objects: dict[tuple[str, str], dict[str, Any]], pod: str) -> dict[str, Any]:
    [one] = objects["Deployment", pod]["spec"]["template"]["spec"]["containers"]
    return dict(one)


def values(objects: dict[tuple[str, str], dict[str, Any]], pod: str) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container(objects, pod)["env"] if "value" in one}


@pytest.mark.parametrize("pod", PODS)
def test_the_level_is_a_file_that_follows_a_config_map(pod: str) -> None:
    objects = rendered()
    data = values(objects, pod)
    [mount] = [one for one in container(objects, pod)["volumeMounts"] if one["name"] == "log-level"]
    # A file that is mounted by its subPath stays as it was at the start.
    assert mount == {"name": "log-level", "mountPath": "/etc/comment-monitor", "readOnly": True}
    volumes = objects["Deployment", pod]["spec"]["template"]["spec"]["volumes"]
    [volume] = [one for one in volumes if one["name"] == "log-level"]
    # Each of its keys is a file, once somebody sets it.
    assert volume["configMap"] == {"name": "comment-monitoring-log-level"}
    assert data["LOG_LEVEL_FILE"] == f"{mount['mountPath']}/level"
    assert "data" not in objects["ConfigMap", "comment-monitoring-log-level"]
    page = (CHART.parent / "docs" / "deployment.md").read_text()
    assert (
        """kubectl patch configmap comment-monitoring-log-level --type merge --patch '{"data": {"level": "DEBUG"}}'"""
        in page
    )


def test_by_default_nothing_is_traced() -> None:
    objects = rendered()
    for pod in PODS:
        data = values(objects, pod)
        assert {name: value for name, value in data.items() if name.startswith("OTEL_")} == {
            "OTEL_EXPORTER_OTLP_ENDPOINT": ""
        }
        assert 4318 not in ports(objects, pod)


def ports(objects: dict[tuple[str, str], dict[str, Any]], pod: str) -> dict[int, Any]:
    """The ports that a pod may reach, with their peers."""
    egress = objects["NetworkPolicy", pod]["spec"]["egress"]
    return {port["port"]: rule.get("to") for rule in egress for port in rule["ports"]}


@pytest.mark.parametrize("pod", PODS)
def test_with_an_endpoint_traces_go_there_and_the_policies_let_them(pod: str) -> None:
    objects = rendered(
        f"tracing.endpoint={COLLECTOR}", "tracing.sampleRatio=0.25", "tracing.existingSecret=collector",
        f"{POLICIES}.collector.to[0].namespaceSelector.matchLabels.name=monitoring",
    )  # fmt: skip
    data = values(objects, pod)
    assert data["OTEL_EXPORTER_OTLP_ENDPOINT"] == COLLECTOR
    assert (data["OTEL_TRACES_SAMPLER"], data["OTEL_TRACES_SAMPLER_ARG"]) == ("parentbased_traceidratio", "0.25")
    environment = {one["name"]: one for one in container(objects, pod)["env"]}
    names = list(environment)
    # What is referred to stands before.
    assert names.index("POD_NAME") < names.index("OTEL_RESOURCE_ATTRIBUTES")
    assert environment["OTEL_RESOURCE_ATTRIBUTES"]["value"].endswith(",k8s.pod.name=$(POD_NAME)")
    secret = environment["OTEL_EXPORTER_OTLP_HEADERS"]["valueFrom"]["secretKeyRef"]
    assert secret == {"name": "collector", "key": "headers"}
    assert ports(objects, pod)[4318] == [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    # Of those that end by themselves none needs it.
    assert "OTEL_EXPORTER_OTLP_HEADERS" not in str(objects["Job", "migrations"])


@pytest.mark.parametrize(
    "wrong",
    ["endpoint=collector:4317", "sampleRatio=2", "sampleRatio=1.5", "sampleRatio=most", "existingSecret=Not_A_Name"],
)
def test_what_can_not_be_is_refused(wrong: str) -> None:
    done = helm("template", "x", str(CHART), "--set", f"tracing.{wrong}")
    assert done.returncode != 0
    assert "tracing" in done.stderr


def test_the_database_logs_nothing_that_people_wrote() -> None:
    objects = rendered("postgres.enabled=true", "postgres.password=development")
    [one] = objects["StatefulSet", "postgres"]["spec"]["template"]["spec"]["containers"]
    assert {"log_min_messages=log", "log_min_error_statement=panic"} <= set(one["args"])
