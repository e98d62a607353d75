"""Upgrades: a new version of the chart alone replaces no pod, and running pods keep their settings."""

import functools
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import (
    CASES,
    CHART,
    EXTERNAL_SERVERS,
    NAMESPACE,
    arguments,
    documents,
    environment,
    get_object,
    helm,
    helm_programs,
    values_file,
)

BUNDLED: Final = [case for case in CASES if case.startswith(("dev", "all-bundled"))]


# The same image, whatever the version of the chart.
PINNED: Final = ("--set", "image.tag=0.1.0")


def rendered(chart: Path, case: str, *more: str) -> list[dict[str, Any]]:
    """The objects that this chart renders for a case."""
    values, switches = CASES[case]
    words = arguments(values, switches)
    result = helm("template", "threads-agent", str(chart), "--namespace", NAMESPACE, *words, *more)
    assert result.returncode == 0, result.stderr
    return documents(result.stdout)


def templates(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The specs that a controller compares to decide whether to replace pods, by kind and name."""
    return {f"{resource['kind']}/{resource['metadata']['name']}": resource["spec"] for resource in found
            if resource["kind"] in {"Deployment", "StatefulSet", "CronJob", "Job"}}  # fmt: skip


@functools.cache
def next_version(folder: Path) -> Path:
    """A copy of the chart in which only the version differs."""
    chart = folder / "chart"
    shutil.copytree(CHART, chart)
    file = chart / "Chart.yaml"
    described = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(described | {"version": "99.1.2", "appVersion": "99.0.0"}))
    return chart


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next_version(tmp_path_factory.mktemp("newer"))


@pytest.mark.parametrize("case", CASES)
def test_a_new_version_of_the_chart_replaces_no_pod(case: str, newer: Path) -> None:
    """With the same image every pod template stays the same, including labels and checksums."""
    before, after = (templates(rendered(chart, case, *PINNED)) for chart in (CHART, newer))
    assert after == before
    assert len(before) >= 3


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_labelled_with_the_version(case: str, newer: Path) -> None:
    """This also shows that the test above compares two versions."""
    for resource in rendered(newer, case, *PINNED):
        assert resource["metadata"]["labels"]["helm.sh/chart"] == "threads-agent-99.1.2"
        assert resource["metadata"]["labels"]["app.kubernetes.io/version"] == "99.0.0"
        assert resource["metadata"]["labels"]["app.kubernetes.io/part-of"] == "comment-monitoring"
        assert resource["metadata"]["labels"]["app.kubernetes.io/component"]


@pytest.mark.parametrize("case", BUNDLED)
def test_a_new_image_replaces_no_bundled_server(case: str, newer: Path) -> None:
    def servers(chart: Path) -> dict[str, Any]:
        found = templates(rendered(chart, case))
        return {name: found[name] for name in ("StatefulSet/postgres", "StatefulSet/rabbitmq", "Deployment/redis")}

    assert servers(newer) == servers(CHART)


@pytest.mark.parametrize("case", BUNDLED)
@pytest.mark.parametrize("server", ["postgres", "rabbitmq"])
def test_bundled_servers_store_data_on_volumes_by_default(case: str, server: str) -> None:
    def spec_of(*more: str) -> dict[str, Any]:
        found: dict[str, Any] = templates(rendered(CHART, case, *more))[f"StatefulSet/{server}"]
        return found

    def volumes(spec: dict[str, Any]) -> dict[str, Any]:
        return {volume["name"]: volume for volume in spec["template"]["spec"]["volumes"]}

    spec = spec_of()
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["metadata"] == {"name": "data"}
    assert claim["spec"]["resources"]["requests"]["storage"].endswith("Gi")
    assert "data" not in volumes(spec)
    in_the_pod = spec_of("--set", f"{server}.storage=")
    assert "volumeClaimTemplates" not in in_the_pod
    assert volumes(in_the_pod)["data"] == {"name": "data", "emptyDir": {}}
    # At every start Kubernetes would make all files group-readable; RabbitMQ and PostgreSQL then refuse to start.
    assert spec["template"]["spec"]["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


@pytest.mark.parametrize(("switch", "warned"), [("postgres.storage=", True), ("postgres.storage=2Gi", False)])
def test_the_notes_warn_if_data_is_lost_with_its_pod(switch: str, warned: bool) -> None:
    """Only with Helm 4: Helm 3 needs a cluster to show the notes."""
    words = ("--values", str(CHART / "values-dev.yaml"), "--set", switch)
    result = helm("install", "x", str(CHART), "--dry-run=client", *words, program="helm4")
    assert result.returncode == 0, result.stderr
    assert ("lost with its pod: postgres" in result.stdout) == warned


@pytest.mark.parametrize("name", ["orchestrator", "comment-worker"])
def test_settings_are_variables_of_the_pod_template(name: str) -> None:
    """A ConfigMap changes in place: an old pod that restarts would read the settings of the new release."""
    switches = ("--set", "orchestrator.commentMonitoring.batchSize=7", "--set",
                "orchestrator.commentMonitoring.settings.COMMENT_WRITERS=3")  # fmt: skip

    def settings_of(*more: str) -> tuple[dict[str, Any], dict[str, Any]]:
        found = {
            f"{resource['kind']}/{resource['metadata']['name']}": resource
            for resource in rendered(CHART, "prod", *more)
        }
        pod = found[f"Deployment/{name}"]["spec"]["template"]["spec"]
        return environment(pod), found["ConfigMap/comment-monitoring-config"]["data"]

    (before, shared), (after, shared_after) = settings_of(), settings_of(*switches)
    assert shared_after == shared
    assert (before["COMMENT_BATCH_SIZE"]["value"], after["COMMENT_BATCH_SIZE"]["value"]) == ("25", "7")
    assert after["COMMENT_WRITERS"]["value"] == "3"


def test_only_the_log_level_can_be_set_with_kubectl_set_env() -> None:
    """If a person changes a variable that the pod template sets, Helm 4 reports a conflict at the next upgrade."""
    assert set(get_object("prod", "ConfigMap", "comment-monitoring-config")["data"]) == {"LOG_LEVEL"}
    for name in ("orchestrator", "comment-worker"):
        assert "LOG_LEVEL" not in environment(get_object("prod", "Deployment", name)["spec"]["template"]["spec"])


def outcome(program: str, settings: dict[str, Any]) -> tuple[int, str]:
    """Helm's exit code and output, with further settings from a values file."""
    values = values_file({"orchestrator": {"commentMonitoring": {"settings": settings}}})
    result = helm("template", "x", str(CHART), *arguments(None, EXTERNAL_SERVERS), "--values", values, program=program)
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize("program", helm_programs())
@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("COMMENT_WRITERS", 1, "1"),
        ("COMMENT_WRITERS", "16", "16"),
        ("COMMENT_MAX_REQUEST_BYTES", 268435456, "268435456"),
        ("COMMENT_MAX_REQUEST_BYTES", "1024", "1024"),
        ("COMMENT_CHECK_INTERVAL", 0, "0"),
        ("COMMENT_CHECK_INTERVAL", "0", "0"),
        ("COMMENT_SWEEP_INTERVAL", 0.5, "0.5"),
        ("COMMENT_SWEEP_INTERVAL", "60", "60"),
        ("COMMENT_RESEND_AFTER", "", ""),
    ],
)
def test_a_setting_reaches_the_pods_in_the_programs_format(program: str, name: str, value: Any, text: str) -> None:
    """Helm reads a number of a values file as a float, and would write a large number with an exponent."""
    code, output = outcome(program, {name: value})
    assert code == 0, output
    pods = [resource["spec"]["template"]["spec"] for resource in documents(output) if resource["kind"] == "Deployment"]
    assert {environment(pod)[name]["value"] for pod in pods} == {text}


@pytest.mark.parametrize("program", helm_programs())
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COMMENT_WRITERS", 17),
        ("COMMENT_WRITERS", "17"),
        ("COMMENT_WRITERS", 0),
        ("COMMENT_WRITERS", "0"),
        ("COMMENT_WRITERS", 2.5),
        ("COMMENT_WRITERS", "2.5"),
        ("COMMENT_WRITERS", "many"),
        ("COMMENT_WRITERS", "-1"),
        pytest.param("COMMENT_WRITERS", " 4", id="COMMENT_WRITERS-leading-space"),
        ("COMMENT_WRITERS", True),
        pytest.param("COMMENT_WRITERS", [4], id="COMMENT_WRITERS-list"),
        ("COMMENT_MAX_REQUEST_BYTES", 268435457),
        ("COMMENT_MAX_REQUEST_BYTES", "16Mi"),
        ("COMMENT_SWEEP_INTERVAL", 0),
        ("COMMENT_SWEEP_INTERVAL", "0"),
        ("COMMENT_SWEEP_INTERVAL", "60.1"),
        ("COMMENT_NO_SUCH", 1),
        pytest.param("POSTGRES_DSN", "postgresql://somewhere", id="POSTGRES_DSN"),
    ],
)
def test_a_setting_that_the_program_would_refuse_is_refused(program: str, name: str, value: Any) -> None:
    code, output = outcome(program, {name: value})
    assert code, output
    assert name in output
