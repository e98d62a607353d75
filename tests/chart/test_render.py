"""The chart renders, with Helm 3 and Helm 4, to objects that are valid for Kubernetes and the operators."""

import importlib
import re
from collections import Counter
from typing import Any, Final

import pytest
from tests.chart.conftest import (
    CASES,
    CHART,
    EXTERNAL_SERVERS,
    NAMESPACE,
    arguments,
    documents,
    get_object,
    helm,
    helm_programs,
    objects,
    run_helm,
    template_files,
    text_of,
    validate,
)

VERSIONS: Final = ("1.27", "1.31", "1.34", "1.37")
# The kinds of the operators, and the modules of their models. Importing them takes six seconds, so only their tests do.
CRDS: Final = {
    "ServiceMonitor": "prometheus_operator.v1",
    "PrometheusRule": "prometheus_operator.v1",
    "ScaledObject": "keda.v1alpha1",
    "TriggerAuthentication": "keda.v1alpha1",
}


def model(kind: str) -> Any:
    """The operator's own model of a kind."""
    return getattr(importlib.import_module(f"cloudcoil.models.{CRDS[kind]}"), kind)


@pytest.mark.parametrize("case", CASES)
def test_rendering_twice_gives_the_same_bytes(case: str) -> None:
    values, switches = CASES[case]
    words = ["template", "threads-agent", str(CHART), "--namespace", NAMESPACE, *arguments(values, switches)]
    assert run_helm(*words, program=helm_programs()[-1]).stdout == text_of(case, helm_programs()[-1])


@pytest.mark.parametrize("case", CASES)
def test_both_helm_majors_render_the_same_objects(case: str) -> None:
    """The order of the documents and blank lines between them may differ."""

    def by_name(program: str) -> dict[tuple[str, str], dict[str, Any]]:
        found = documents(text_of(case, program))
        return {(resource["kind"], resource["metadata"]["name"]): resource for resource in found}

    first, *others = map(by_name, helm_programs())
    assert all(other == first for other in others)


@pytest.mark.parametrize("program", helm_programs())
@pytest.mark.parametrize("values", ["values-dev.yaml", "values-prod.yaml"])
def test_helm_lint_reports_nothing(program: str, values: str) -> None:
    result = helm("lint", "--strict", str(CHART), "--values", str(CHART / values), program=program)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[WARNING]" not in result.stdout


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_every_object_is_valid_in_kubernetes(case: str, version: str) -> None:
    for resource in objects(case):
        if resource["kind"] not in {*CRDS, "HTTPRoute"}:
            validate(resource, version)


@pytest.mark.parametrize("case", ["prod-monitored", "prod-keda", "all-bundled", "all-bundled-keda"])
def test_every_custom_resource_is_valid_for_its_operator(case: str) -> None:
    """The models accept unknown fields, so the fields of the parsed model are compared with the rendered fields."""
    found = objects(case, *CRDS)
    assert found
    for resource in found:
        parsed = (
            model(resource["kind"]).model_validate(resource).model_dump(by_alias=True, exclude_unset=True, mode="json")
        )
        assert fields(parsed) == fields(resource)


def fields(value: Any, at: str = "") -> set[str]:
    """Every path in a document."""
    if isinstance(value, dict):
        return {path for key, inner in value.items() for path in {f"{at}.{key}", *fields(inner, f"{at}.{key}")}}
    if isinstance(value, list):
        return {path for index, inner in enumerate(value) for path in fields(inner, f"{at}[{index}]")}
    return set()


def test_comparing_fields_finds_a_field_that_the_operator_does_not_know() -> None:
    monitor = {**get_object("prod-monitored", "ServiceMonitor", "orchestrator")}
    monitor["spec"] = {**monitor["spec"], "endpoint": []}
    parsed = model("ServiceMonitor").model_validate(monitor).model_dump(by_alias=True, exclude_unset=True, mode="json")
    assert fields(monitor) - fields(parsed) == {".spec.endpoint"}


@pytest.mark.parametrize("case", CASES)
def test_no_object_is_rendered_twice(case: str) -> None:
    names = Counter((resource["kind"], resource["metadata"]["name"]) for resource in objects(case))
    assert [name for name, count in names.items() if count > 1] == []


def test_each_template_has_one_object_and_is_rendered_in_a_case() -> None:
    rendered = {
        source
        for case in CASES
        for source in re.findall(r"^# Source: threads-agent/(\S+)$", text_of(case, helm_programs()[-1]), re.MULTILINE)
    }
    files = template_files()
    assert {str(file.relative_to(CHART)) for file in files} == rendered
    for file in files:
        assert file.read_text().count("\nkind: ") == 1, file


def test_objects_have_the_documented_names() -> None:
    names = {(resource["kind"], resource["metadata"]["name"]) for resource in objects("prod-monitored")}
    assert names >= {
        ("Deployment", "orchestrator"), ("Service", "orchestrator"), ("Deployment", "comment-worker"),
        ("Job", "migrations"), ("ServiceMonitor", "orchestrator"), ("HorizontalPodAutoscaler", "orchestrator"),
        ("ServiceAccount", "comment-monitoring-sa"), ("Role", "comment-monitoring-role"),
        ("ConfigMap", "comment-monitoring-config"), ("PrometheusRule", "orchestrator"),
    }  # fmt: skip


def test_custom_resources_are_rendered_if_the_cluster_knows_their_kinds() -> None:
    words = ("template", "threads-agent", str(CHART), "--values", str(CHART / "values-dev.yaml"))
    known = ("monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1/PrometheusRule")
    without, knows = helm(*words), helm(*words, *(word for version in known for word in ("--api-versions", version)))
    assert "kind: ServiceMonitor" not in without.stdout
    # The monitors of the orchestrator, the workers, and the bundled RabbitMQ.
    assert knows.stdout.count("kind: ServiceMonitor") == 3
    assert knows.stdout.count("kind: PrometheusRule") == 1


@pytest.mark.parametrize("program", helm_programs())
def test_the_command_of_the_guide_renders(program: str) -> None:
    result = helm(
        "template",
        "threads-agent",
        str(CHART),
        "--values",
        str(CHART / "values-dev.yaml"),
        "--dry-run",
        program=program,
    )
    assert result.returncode == 0, result.stderr
    assert "kind: Deployment" in result.stdout


@pytest.mark.parametrize(
    "case", [name for name in CASES if name not in {"plain", "no-redis", "no-replicas", "exposed"}]
)
def test_a_deployment_has_either_replicas_or_exactly_one_autoscaler(case: str) -> None:
    scaled = Counter(
        scaled_object["spec"]["scaleTargetRef"]["name"]
        for scaled_object in objects(case, "HorizontalPodAutoscaler", "ScaledObject")
    )
    assert set(scaled.values()) <= {1}
    for deployment in objects(case, "Deployment"):
        name = deployment["metadata"]["name"]
        # In development these two are scaled by hand.
        by_hand = case.startswith("dev") and name in {"orchestrator", "comment-worker"}
        assert ("replicas" in deployment["spec"]) == (name not in scaled and not by_hand), name
    assert ("prod" in case or "all" in case or "no-worker" in case) == bool(scaled)


def test_null_replicas_are_omitted() -> None:
    assert all("replicas" not in deployment["spec"] for deployment in objects("no-replicas", "Deployment"))


def test_the_notes_name_the_commands_and_the_values_for_missing_parts() -> None:
    """Helm shows the notes only when it installs, so the test reads the template."""
    notes = (CHART / "templates" / "NOTES.txt").read_text()
    for words in (
        "helm test",
        "validate-comment-monitoring-deployment.sh",
        "port-forward",
        "CreateContainerConfigError",
        "monitoring.prometheus.crds",
        "orchestrator.commentMonitoring.alerts.runbooks=https",
    ):
        assert words in notes


@pytest.mark.parametrize(
    ("runbooks", "warned"),
    [("docs/runbooks", True), ("https://wiki.example.org/r", False)],
    ids=["relative", "absolute"],
)
def test_the_notes_warn_if_links_to_runbooks_are_relative(runbooks: str, warned: bool) -> None:
    """Only with Helm 4: Helm 3 needs a cluster to show the notes."""
    switches = {**EXTERNAL_SERVERS, "orchestrator.commentMonitoring.alerts.runbooks": runbooks}
    result = helm("install", "x", str(CHART), "--dry-run=client", *arguments(None, switches), program="helm4")
    assert result.returncode == 0, result.stderr
    assert ("runbooks are broken" in result.stdout) == warned
