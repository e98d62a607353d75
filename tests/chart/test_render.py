"""The chart renders, with both Helms, to objects that Kubernetes and the operators take."""

import re
from collections import Counter
from typing import Any, Final

import cloudcoil.models.keda.v1alpha1 as keda
import cloudcoil.models.prometheus_operator.v1 as prometheus
import kubernetes_validate
import pytest
from tests.chart.conftest import CASES, CHART, OUTSIDE, arguments, helm, helms, objects, template_files, text_of, the

VERSIONS: Final = ("1.27", "1.31", "1.34", "1.37")
CRDS: Final[dict[str, Any]] = {
    "ServiceMonitor": prometheus.ServiceMonitor,
    "PrometheusRule": prometheus.PrometheusRule,
    "ScaledObject": keda.ScaledObject,
    "TriggerAuthentication": keda.TriggerAuthentication,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("program", helms())
def test_rendering_twice_gives_the_same_bytes(case: str, program: str) -> None:
    values, switches = CASES[case]
    again = helm(
        "template", "threads-agent", str(CHART), "--namespace", "somewhere", *arguments(values, switches),
        program=program,
    )  # fmt: skip
    assert again.stdout == text_of(case, program)


@pytest.mark.parametrize("program", helms())
@pytest.mark.parametrize("values", ["values-dev.yaml", "values-prod.yaml"])
def test_lint_has_nothing_to_say(program: str, values: str) -> None:
    done = helm("lint", "--strict", str(CHART), "--values", str(CHART / values), program=program)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_every_object_is_one_of_kubernetes(case: str, version: str) -> None:
    """Strictly: an unknown field is an error."""
    for one in objects(case):
        if one["kind"] not in {*CRDS, "HTTPRoute"}:
            kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("case", ["prod-monitored", "prod-keda", "all-inside", "all-inside-keda"])
def test_every_custom_resource_is_one_of_its_operator(case: str) -> None:
    """The models take unknown fields, so what they understood is held against what was written."""
    found = objects(case, *CRDS)
    assert found
    for one in found:
        model = CRDS[one["kind"]].model_validate(one)
        understood = model.model_dump(by_alias=True, exclude_unset=True, mode="json")
        assert fields(understood) == fields(one)


def fields(value: Any, at: str = "") -> set[str]:
    """Every path in a document."""
    if isinstance(value, dict):
        return {path for key, inner in value.items() for path in {f"{at}.{key}", *fields(inner, f"{at}.{key}")}}
    if isinstance(value, list):
        return {path for index, inner in enumerate(value) for path in fields(inner, f"{at}[{index}]")}
    return set()


def test_the_comparison_of_fields_finds_one_that_an_operator_does_not_know() -> None:
    one = {**the("prod-monitored", "ServiceMonitor", "orchestrator")}
    one["spec"] = {**one["spec"], "endpoint": []}
    understood = prometheus.ServiceMonitor.model_validate(one).model_dump(
        by_alias=True, exclude_unset=True, mode="json"
    )
    assert fields(one) - fields(understood) == {".spec.endpoint"}


@pytest.mark.parametrize("case", CASES)
def test_no_object_is_made_twice(case: str) -> None:
    names = Counter((one["kind"], one["metadata"]["name"]) for one in objects(case))
    assert [name for name, count in names.items() if count > 1] == []


def test_each_template_makes_one_object_and_is_rendered_in_some_case() -> None:
    rendered = {
        source
        for case in CASES
        for source in re.findall(r"^# Source: threads-agent/(\S+)$", text_of(case, helms()[-1]), re.MULTILINE)
    }
    files = template_files()
    assert {str(file.relative_to(CHART)) for file in files} == rendered
    for file in files:
        assert file.read_text().count("\nkind: ") == 1, file


def test_the_names_are_the_documented_ones() -> None:
    names = {(one["kind"], one["metadata"]["name"]) for one in objects("prod-monitored")}
    assert names >= {
        ("Deployment", "orchestrator"), ("Service", "orchestrator"), ("Deployment", "comment-worker"),
        ("Job", "migrations"), ("ServiceMonitor", "orchestrator"), ("HorizontalPodAutoscaler", "orchestrator"),
        ("ServiceAccount", "comment-monitoring-sa"), ("Role", "comment-monitoring-role"),
        ("ConfigMap", "comment-monitoring-config"), ("PrometheusRule", "orchestrator"),
    }  # fmt: skip


def test_custom_resources_are_made_where_the_cluster_knows_them() -> None:
    words = ("template", "threads-agent", str(CHART), "--values", str(CHART / "values-dev.yaml"))
    known = ("monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1/PrometheusRule")
    without, knows = helm(*words), helm(*words, *(word for one in known for word in ("--api-versions", one)))
    assert "kind: ServiceMonitor" not in without.stdout
    # Of orchestrator, workers, and the RabbitMQ that is in the chart.
    assert knows.stdout.count("kind: ServiceMonitor") == 3
    assert knows.stdout.count("kind: PrometheusRule") == 1


@pytest.mark.parametrize("program", helms())
def test_the_guides_command_renders(program: str) -> None:
    done = helm(
        "template",
        "threads-agent",
        str(CHART),
        "--values",
        str(CHART / "values-dev.yaml"),
        "--dry-run",
        program=program,
    )
    assert done.returncode == 0, done.stderr
    assert "kind: Deployment" in done.stdout


@pytest.mark.parametrize(
    "case", [name for name in CASES if name not in {"plain", "no-redis", "no-replicas", "exposed"}]
)
def test_no_replicas_under_an_autoscaler_and_never_two_of_them_on_one_deployment(case: str) -> None:
    scaled = Counter(
        one["spec"]["scaleTargetRef"]["name"] for one in objects(case, "HorizontalPodAutoscaler", "ScaledObject")
    )
    assert set(scaled.values()) <= {1}
    for one in objects(case, "Deployment"):
        name = one["metadata"]["name"]
        # In development they are left to whoever scales by hand.
        by_hand = case.startswith("dev") and name in {"orchestrator", "comment-worker"}
        assert ("replicas" in one["spec"]) == (name not in scaled and not by_hand), name
    assert ("prod" in case or "all" in case or "no-worker" in case) == bool(scaled)


def test_replicas_that_are_null_are_left_to_whoever_sets_them() -> None:
    assert all("replicas" not in one["spec"] for one in objects("no-replicas", "Deployment"))


def test_the_notes_name_commands_and_what_was_not_made() -> None:
    """Helm shows them at an installation only, so they are read as a template here."""
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


@pytest.mark.parametrize(("runbooks", "warned"), [("docs/runbooks", True), ("https://wiki.example.org/r", False)])
def test_the_notes_warn_of_runbooks_that_nobody_reaches(runbooks: str, warned: bool) -> None:
    """Of Helm 4 alone: 3 asks a cluster before it shows them."""
    switches = {**OUTSIDE, "orchestrator.commentMonitoring.alerts.runbooks": runbooks}
    done = helm("install", "x", str(CHART), "--dry-run=client", *arguments(None, switches), program="helm4")
    assert done.returncode == 0, done.stderr
    assert ("runbooks are broken" in done.stdout) == warned
