"""Rendering the chart with the Helm that is there, once for each set of values."""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.conftest import project_root

CHART: Final = project_root() / "chart"
TOOLS: Final = project_root() / ".tools" / "bin"
NAMESPACE: Final = "somewhere"

# What makes a chart without values file renderable: the servers are somewhere.
OUTSIDE: Final = {
    "postgres.existingSecret": "db",
    "redis.existingSecret": "cache",
    "rabbitmq.existingSecret": "queue",
}
ALL_ON: Final = {
    "orchestrator.commentMonitoring.networkPolicy.enabled": "true",
    "orchestrator.commentMonitoring.rbac.enabled": "true",
    "orchestrator.autoscaling.enabled": "true",
    "orchestrator.autoscaling.customMetrics.enabled": "true",
    "worker.autoscaling.enabled": "true",
    "monitoring.prometheus.crds": "true",
    "celeryExporter.enabled": "true",
    "tests.fail": "true",
}
IN_CHART: Final = {
    f"{server}.{name}": value
    for server in ("postgres", "redis", "rabbitmq")
    for name, value in (("enabled", "true"), ("password", "secret"))
}
KEDA: Final = {"orchestrator.autoscaling.mode": "keda", "worker.autoscaling.mode": "keda"}
LOAD_BALANCER: Final = {"orchestrator.service.type": "LoadBalancer"}
NO_REPLICAS: Final = {"orchestrator.replicas": "null", "worker.replicas": "null"}
EXPOSED: Final = {
    "ingress.enabled": "true",
    "ingress.hosts[0].host": "comments.example.org",
    "httpRoute.enabled": "true",
    "httpRoute.parentRefs[0].name": "public",
}
PERSISTENT: Final = {"postgres.storage": "8Gi", "rabbitmq.storage": "1Gi", "postgres.storageClassName": "fast"}

# Name: values file and switches. Every template is in some of them; a test sees to that.
CASES: Final[dict[str, tuple[str | None, dict[str, str]]]] = {
    "plain": (None, OUTSIDE),
    "no-redis": (None, {**OUTSIDE, "redis.existingSecret": ""}),
    "dev": ("values-dev.yaml", {}),
    "dev-guide": (
        "values-dev.yaml",
        {
            "orchestrator.commentMonitoring.enabled": "true",
            "monitoring.prometheus.enabled": "true",
            "postgres.enabled": "true",
            "redis.enabled": "true",
        },
    ),
    "dev-policies": ("values-dev.yaml", {"orchestrator.commentMonitoring.networkPolicy.enabled": "true"}),
    "prod": ("values-prod.yaml", {}),
    "prod-monitored": ("values-prod.yaml", {"monitoring.prometheus.crds": "true"}),
    "prod-keda": ("values-prod.yaml", {"monitoring.prometheus.crds": "true", **KEDA}),
    "all-outside": (None, {**OUTSIDE, **ALL_ON, **LOAD_BALANCER}),
    "all-inside": (None, {**IN_CHART, **ALL_ON, **PERSISTENT}),
    "all-inside-keda": (None, {**IN_CHART, **ALL_ON, **KEDA}),
    "no-worker": (None, {**OUTSIDE, **ALL_ON, "worker.enabled": "false", "cleanup.enabled": "false"}),
    "no-replicas": (None, {**OUTSIDE, **NO_REPLICAS}),
    "exposed": (None, {**OUTSIDE, **EXPOSED}),
}


def tool(name: str) -> str:
    """A program of `make tools`, else the one on PATH; without it the test is skipped, or fails in CI."""
    found = str(TOOLS / name) if (TOOLS / name).exists() else shutil.which(name)
    if not found:
        missing = f"{name} is not there: `make tools` brings it"
        (pytest.fail if os.environ.get("REQUIRE_SERVICES") else pytest.skip)(missing)
    return found


def helms() -> list[str]:
    """The Helms to render with: both majors of `make tools`, else what is on PATH."""
    return ["helm3", "helm4"] if (TOOLS / "helm3").exists() or os.environ.get("REQUIRE_SERVICES") else ["helm"]


def arguments(values: str | None, switches: dict[str, str]) -> list[str]:
    """Helm's, for a case."""
    files = ["--values", str(CHART / values)] if values else []
    return [*files, *(word for name, value in switches.items() for word in ("--set", f"{name}={value}"))]


def helm(*words: str, program: str = "helm") -> "subprocess.CompletedProcess[str]":
    """Runs Helm, without what it would keep in the home of whoever runs the tests."""
    return subprocess.run([tool(program), *words], capture_output=True, text=True, check=False, env=_environment())


def _environment() -> dict[str, str]:
    nowhere = dict.fromkeys(("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "KUBECONFIG"), "/nonexistent")
    return {**os.environ, **nowhere}


@functools.cache
def text_of(case: str, program: str) -> str:
    """The chart rendered as text."""
    values, switches = CASES[case]
    words = ["template", "threads-agent", str(CHART), "--namespace", NAMESPACE, *arguments(values, switches)]
    done = helm(*words, program=program)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def _objects(case: str) -> tuple[dict[str, Any], ...]:
    return tuple(one for one in yaml.safe_load_all(text_of(case, helms()[-1])) if one)


def objects(case: str, *kinds: str) -> list[dict[str, Any]]:
    """The objects of a case, of these kinds (none: all)."""
    return [one for one in _objects(case) if not kinds or one["kind"] in kinds]


def the(case: str, kind: str, name: str) -> dict[str, Any]:
    """The one of this kind and name."""
    (found,) = [one for one in objects(case, kind) if one["metadata"]["name"] == name]
    return found


def pods(case: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every pod that comes to be: whose, its labels, its spec."""
    return [(f"{one['kind']}/{one['metadata']['name']}", *pod) for one in objects(case) for pod in _pods_of(one)]


def _pods_of(one: dict[str, Any]) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    if one["kind"] == "Pod":
        yield one["metadata"]["labels"], one["spec"]
    elif one["kind"] == "CronJob":
        template = one["spec"]["jobTemplate"]["spec"]["template"]
        yield template["metadata"]["labels"], template["spec"]
    elif one["kind"] in {"Deployment", "StatefulSet", "Job"}:
        yield one["spec"]["template"]["metadata"]["labels"], one["spec"]["template"]["spec"]


def environment(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The variables of a pod's one container, each with its value or where that comes from."""
    (container,) = spec["containers"]
    return {one["name"]: one for one in container.get("env", [])}


def settings(case: str, name: str = "orchestrator") -> dict[str, str]:
    """The settings of the program in a Deployment's pods: of their own, and from the ConfigMap."""
    own = environment(the(case, "Deployment", name)["spec"]["template"]["spec"])
    data: dict[str, str] = the(case, "ConfigMap", "comment-monitoring-config")["data"]
    return data | {name: one["value"] for name, one in own.items() if "value" in one}


def matches(labels: dict[str, str], selector: dict[str, Any]) -> bool:
    """Whether a label selector takes these labels."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(_holds(labels, one) for one in selector.get("matchExpressions", []))


def _holds(labels: dict[str, str], expression: dict[str, Any]) -> bool:
    assert expression["operator"] == "In", "the chart uses no other"
    return labels.get(expression["key"]) in expression["values"]


def template_files() -> list[Path]:
    """The chart's templates, each of one object."""
    return sorted(file for file in (CHART / "templates").rglob("*.yaml"))
