"""What an upgrade changes: a new version of the chart alone replaces no pod, and pods keep their own settings."""

import functools
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import CASES, CHART, NAMESPACE, OUTSIDE, arguments, environment, helm, helms, the

INSIDE: Final = [case for case in CASES if case.startswith(("dev", "all-inside"))]


def rendered(chart: Path, case: str, *more: str, program: str = "helm") -> list[dict[str, Any]]:
    """The objects that this chart makes of a case."""
    values, switches = CASES[case]
    words = arguments(values, switches)
    done = helm("template", "threads-agent", str(chart), "--namespace", NAMESPACE, *words, *more, program=program)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def templates(found: list[dict[str, Any]]) -> dict[str, Any]:
    """By kind and name, what a controller compares to say whether its pods are the right ones."""
    return {f"{one['kind']}/{one['metadata']['name']}": one["spec"] for one in found
            if one["kind"] in {"Deployment", "StatefulSet", "CronJob", "Job"}}  # fmt: skip


@functools.cache
def next_version(folder: Path) -> Path:
    """The chart, and nothing in it but its version is another."""
    chart = folder / "chart"
    shutil.copytree(CHART, chart)
    file = chart / "Chart.yaml"
    described = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(described | {"version": "99.1.2", "appVersion": "99.0.0"}))
    return chart


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next_version(tmp_path_factory.mktemp("newer"))


@pytest.mark.parametrize("program", helms())
@pytest.mark.parametrize("case", CASES)
def test_a_version_of_the_chart_replaces_no_pod(case: str, program: str, newer: Path) -> None:
    """The same image, and so every template is the same: labels and digests with it."""
    pinned = ("--set", "image.tag=0.1.0")
    before, after = (templates(rendered(chart, case, *pinned, program=program)) for chart in (CHART, newer))
    assert after == before
    assert len(before) >= 3


@pytest.mark.parametrize("case", CASES)
def test_the_objects_say_which_version_they_are_of(case: str, newer: Path) -> None:
    """So the test above sees another version."""
    for one in rendered(newer, case):
        assert one["metadata"]["labels"]["helm.sh/chart"] == "threads-agent-99.1.2"
        assert one["metadata"]["labels"]["app.kubernetes.io/version"] == "99.0.0"
        assert one["metadata"]["labels"]["app.kubernetes.io/part-of"] == "comment-monitoring"
        assert one["metadata"]["labels"]["app.kubernetes.io/component"]


@pytest.mark.parametrize("case", INSIDE)
def test_an_image_of_a_new_version_replaces_no_server(case: str, newer: Path) -> None:
    def servers(chart: Path) -> dict[str, Any]:
        found = templates(rendered(chart, case))
        return {name: found[name] for name in ("StatefulSet/postgres", "StatefulSet/rabbitmq", "Deployment/redis")}

    assert servers(newer) == servers(CHART)


@pytest.mark.parametrize("case", INSIDE)
@pytest.mark.parametrize("server", ["postgres", "rabbitmq"])
def test_the_servers_data_is_on_volumes_unless_somebody_says_otherwise(case: str, server: str) -> None:
    def of(*more: str) -> dict[str, Any]:
        found: dict[str, Any] = templates(rendered(CHART, case, *more))[f"StatefulSet/{server}"]
        return found

    def volumes(spec: dict[str, Any]) -> dict[str, Any]:
        return {one["name"]: one for one in spec["template"]["spec"]["volumes"]}

    spec = of()
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["metadata"] == {"name": "data"}
    assert claim["spec"]["resources"]["requests"]["storage"].endswith("Gi")
    assert "data" not in volumes(spec)
    in_the_pod = of("--set", f"{server}.storage=")
    assert "volumeClaimTemplates" not in in_the_pod
    assert volumes(in_the_pod)["data"] == {"name": "data", "emptyDir": {}}
    # What was once made group-readable RabbitMQ's cookie is refused for, and PostgreSQL's folder.
    assert spec["template"]["spec"]["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


@pytest.mark.parametrize(("switch", "warned"), [("postgres.storage=", True), ("postgres.storage=2Gi", False)])
def test_the_notes_name_data_that_goes_with_its_pod(switch: str, warned: bool) -> None:
    """Of Helm 4 alone: 3 asks a cluster before it shows them."""
    words = ("--values", str(CHART / "values-dev.yaml"), "--set", switch)
    done = helm("install", "x", str(CHART), "--dry-run=client", *words, program="helm4")
    assert done.returncode == 0, done.stderr
    assert ("lost with its pod: postgres" in done.stdout) == warned


@pytest.mark.parametrize("name", ["orchestrator", "comment-worker"])
@pytest.mark.parametrize("program", helms())
def test_settings_are_the_pods_own(name: str, program: str) -> None:
    """A ConfigMap changes in place: a pod of the old release that restarts would read the settings of the new one."""
    switches = ("--set", "orchestrator.commentMonitoring.batchSize=7", "--set",
                "orchestrator.commentMonitoring.settings.COMMENT_WRITERS=3")  # fmt: skip

    def of(*more: str) -> tuple[dict[str, Any], dict[str, Any]]:
        found = {
            f"{one['kind']}/{one['metadata']['name']}": one for one in rendered(CHART, "prod", *more, program=program)
        }
        pod = found[f"Deployment/{name}"]["spec"]["template"]["spec"]
        return environment(pod), found["ConfigMap/comment-monitoring-config"]["data"]

    (before, shared), (after, shared_after) = of(), of(*switches)
    assert shared_after == shared
    assert (before["COMMENT_BATCH_SIZE"]["value"], after["COMMENT_BATCH_SIZE"]["value"]) == ("25", "7")
    assert after["COMMENT_WRITERS"]["value"] == "3"


def test_the_level_alone_is_left_to_kubectl_set_env() -> None:
    """A variable of the pod's own that a person sets is one that Helm 4 stops at."""
    assert set(the("prod", "ConfigMap", "comment-monitoring-config")["data"]) == {"LOG_LEVEL"}
    for name in ("orchestrator", "comment-worker"):
        assert "LOG_LEVEL" not in environment(the("prod", "Deployment", name)["spec"]["template"]["spec"])


def outcome(program: str, folder: Path, settings: dict[str, Any]) -> tuple[int, str]:
    """How Helm ends with further settings from a values file, and what it says."""
    values = folder / "values.yaml"
    values.write_text(yaml.safe_dump({"orchestrator": {"commentMonitoring": {"settings": settings}}}))
    done = helm("template", "x", str(CHART), *arguments(None, OUTSIDE), "--values", str(values), program=program)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("program", helms())
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
def test_a_setting_reaches_the_pods_as_the_program_reads_it(
    program: str, name: str, value: Any, text: str, tmp_path: Path
) -> None:
    """A number of a values file is a float to Helm, which writes a large one with an exponent."""
    code, said = outcome(program, tmp_path, {name: value})
    assert code == 0, said
    pods = [one["spec"]["template"]["spec"] for one in yaml.safe_load_all(said) if one and one["kind"] == "Deployment"]
    assert {environment(pod)[name]["value"] for pod in pods} == {text}


@pytest.mark.parametrize("program", helms())
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
        ("COMMENT_WRITERS", " 4"),
        ("COMMENT_WRITERS", True),
        ("COMMENT_WRITERS", [4]),
        ("COMMENT_MAX_REQUEST_BYTES", 268435457),
        ("COMMENT_MAX_REQUEST_BYTES", "16Mi"),
        ("COMMENT_SWEEP_INTERVAL", 0),
        ("COMMENT_SWEEP_INTERVAL", "0"),
        ("COMMENT_SWEEP_INTERVAL", "60.1"),
        ("COMMENT_NO_SUCH", 1),
        ("POSTGRES_DSN", "postgresql://somewhere"),
    ],
)
def test_a_setting_with_which_the_program_would_not_start_is_refused(
    program: str, name: str, value: Any, tmp_path: Path
) -> None:
    code, said = outcome(program, tmp_path, {name: value})
    assert code, said
    assert name in said
