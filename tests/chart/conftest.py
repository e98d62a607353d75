"""Renders the chart with Helm 3 and Helm 4; each rendering, parsing and validation is done once per test process."""

import atexit
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import kubernetes_validate.utils
import pytest
import yaml
from tests.conftest import project_root

CHART: Final = project_root() / "chart"
TOOLS: Final = project_root() / ".tools" / "bin"
NAMESPACE: Final = "somewhere"

# Makes a chart without a values file renderable: the servers are outside the chart.
EXTERNAL_SERVERS: Final = {
    "postgres.existingSecret": "db",
    "redis.existingSecret": "cache",
    "rabbitmq.existingSecret": "queue",
}
ALL_FEATURES: Final = {
    "orchestrator.commentMonitoring.networkPolicy.enabled": "true",
    "orchestrator.commentMonitoring.rbac.enabled": "true",
    "orchestrator.autoscaling.enabled": "true",
    "orchestrator.autoscaling.customMetrics.enabled": "true",
    "worker.autoscaling.enabled": "true",
    "monitoring.prometheus.crds": "true",
    "celeryExporter.enabled": "true",
    "tests.fail": "true",
}
BUNDLED_SERVERS: Final = {
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

# Name: values file and switches. A test checks that every template is rendered in at least one case.
CASES: Final[dict[str, tuple[str | None, dict[str, str]]]] = {
    "plain": (None, EXTERNAL_SERVERS),
    "no-redis": (None, {**EXTERNAL_SERVERS, "redis.existingSecret": ""}),
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
    "all-external": (None, {**EXTERNAL_SERVERS, **ALL_FEATURES, **LOAD_BALANCER}),
    "all-bundled": (None, {**BUNDLED_SERVERS, **ALL_FEATURES, **PERSISTENT}),
    "all-bundled-keda": (None, {**BUNDLED_SERVERS, **ALL_FEATURES, **KEDA}),
    "no-worker": (
        None,
        {**EXTERNAL_SERVERS, **ALL_FEATURES, "worker.enabled": "false", "cleanup.enabled": "false"},
    ),
    "no-replicas": (None, {**EXTERNAL_SERVERS, **NO_REPLICAS}),
    "exposed": (None, {**EXTERNAL_SERVERS, **EXPOSED}),
}


def tool(name: str) -> str:
    """A program of `make tools`, else the program on PATH; if it is missing, the test is skipped, or fails in CI."""
    found = str(TOOLS / name) if (TOOLS / name).exists() else shutil.which(name)
    if not found:
        missing = f"{name} is missing: `make tools` installs it"
        (pytest.fail if os.environ.get("REQUIRE_SERVICES") else pytest.skip)(missing)
    return found


def helm_programs() -> list[str]:
    """The Helm programs to render with: both majors of `make tools`, else `helm` on PATH.

    Only tests of behaviour in which the majors differ use both: the schema check, numbers and nulls of values, notes,
    and `lookup`. The other tests use Helm 4, and one test compares the output of both for every case of CASES.
    """
    return ["helm3", "helm4"] if (TOOLS / "helm3").exists() or os.environ.get("REQUIRE_SERVICES") else ["helm"]


def arguments(values: str | None, switches: dict[str, str]) -> list[str]:
    """Helm's arguments for a case."""
    files = ["--values", str(CHART / values)] if values else []
    return [*files, *(word for name, value in switches.items() for word in ("--set", f"{name}={value}"))]


def run_helm(*words: str, program: str = "helm") -> "subprocess.CompletedProcess[str]":
    """Runs Helm without the cache, configuration and kubeconfig of the user who runs the tests."""
    return subprocess.run([tool(program), *words], capture_output=True, text=True, check=False, env=_environment())


# Equal arguments give equal output, except if a test rewrites a file that they name: `values_file` prevents that.
helm = functools.cache(run_helm)


def _environment() -> dict[str, str]:
    nowhere = dict.fromkeys(("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "KUBECONFIG"), "/nonexistent")
    return {**os.environ, **nowhere}


@functools.cache
def _values_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="chart-values-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def values_file(values: dict[str, Any]) -> str:
    """Writes a values file named after its content, so that equal values are equal arguments for `helm`."""
    text = json.dumps(values)
    file = _values_folder() / f"{hashlib.sha256(text.encode()).hexdigest()}.yaml"
    file.write_text(text)
    return str(file)


@functools.cache
def text_of(case: str, program: str) -> str:
    """The chart rendered as text."""
    values, switches = CASES[case]
    words = ["template", "threads-agent", str(CHART), "--namespace", NAMESPACE, *arguments(values, switches)]
    result = helm(*words, program=program)
    assert result.returncode == 0, result.stderr
    return result.stdout


def documents(text: str) -> list[dict[str, Any]]:
    """The objects of a rendering; parsed by libyaml, which is several times faster."""
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


@functools.cache
def _objects(case: str) -> tuple[dict[str, Any], ...]:
    return tuple(documents(text_of(case, helm_programs()[-1])))


def objects(case: str, *kinds: str) -> list[dict[str, Any]]:
    """The objects of a case, of these kinds (none: all). They are shared: do not change them."""
    return [resource for resource in _objects(case) if not kinds or resource["kind"] in kinds]


def get_object(case: str, kind: str, name: str) -> dict[str, Any]:
    """The only object of this kind and name."""
    (found,) = [resource for resource in objects(case, kind) if resource["metadata"]["name"] == name]
    return found


# The package reads its files, up to 1.5 MB of definitions, for every object that it validates.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


@functools.cache
def _validate(resource: str, version: str) -> None:
    kubernetes_validate.validate(json.loads(resource), version, strict=True)


def validate(resource: dict[str, Any], version: str) -> None:
    """Checks an object against the schema of this Kubernetes version; an unknown field is an error."""
    _validate(json.dumps(resource, sort_keys=True), version)


def pods(case: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The name of the owner, the labels and the spec of every pod."""
    return [
        (f"{resource['kind']}/{resource['metadata']['name']}", *pod)
        for resource in objects(case)
        for pod in _pods_of(resource)
    ]


def _pods_of(resource: dict[str, Any]) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    if resource["kind"] == "Pod":
        yield resource["metadata"]["labels"], resource["spec"]
    elif resource["kind"] == "CronJob":
        template = resource["spec"]["jobTemplate"]["spec"]["template"]
        yield template["metadata"]["labels"], template["spec"]
    elif resource["kind"] in {"Deployment", "StatefulSet", "Job"}:
        yield resource["spec"]["template"]["metadata"]["labels"], resource["spec"]["template"]["spec"]


def environment(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The variables of a pod's only container, each with its value or the source of the value."""
    (container,) = spec["containers"]
    return {variable["name"]: variable for variable in container.get("env", [])}


def settings(case: str, name: str = "orchestrator") -> dict[str, str]:
    """The settings of the program in a Deployment's pods: from the pod's environment and the ConfigMap."""
    own = environment(get_object(case, "Deployment", name)["spec"]["template"]["spec"])
    data: dict[str, str] = get_object(case, "ConfigMap", "comment-monitoring-config")["data"]
    return data | {name: variable["value"] for name, variable in own.items() if "value" in variable}


def matches(labels: dict[str, str], selector: dict[str, Any]) -> bool:
    """Whether a label selector matches these labels."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(_holds(labels, expression) for expression in selector.get("matchExpressions", []))


def _holds(labels: dict[str, str], expression: dict[str, Any]) -> bool:
    assert expression["operator"] == "In", "the chart uses no other operator"
    return labels.get(expression["key"]) in expression["values"]


def slug(value: object) -> str:
    """The id of a parametrized case: the value as text, without characters that a shell interprets."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^\w.=]+", "-", text)[:80].strip("-")


def template_files() -> list[Path]:
    """The chart's templates, each of one object."""
    return sorted(file for file in (CHART / "templates").rglob("*.yaml"))
