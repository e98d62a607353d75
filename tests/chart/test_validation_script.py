"""The validation script reports the cause if a deployment does not start, and skips checks that depend on it."""

import os
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from tests.chart.conftest import TOOLS, tool
from tests.conftest import project_root
from tests.support.kubernetes_api import kubernetes

SCRIPT: Final = project_root() / "scripts" / "validate-comment-monitoring-deployment.sh"
NAMES: Final = ("orchestrator", "comment-worker")


def deployment(name: str) -> dict[str, Any]:
    """A Deployment with one pod that is not ready."""
    status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "unavailableReplicas": 1}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "generation": 1},
            "spec": {"replicas": 1}, "status": status}  # fmt: skip


def pod(name: str, *, scheduled: str = "", waiting: dict[str, str] | None = None, restarts: int = 0) -> dict[str, Any]:
    """A pod that is not ready: not scheduled, or with a container that waits."""
    conditions = [{"type": "Ready", "status": "False"}]
    conditions.append({"type": "PodScheduled", "status": "False" if scheduled else "True", "message": scheduled})
    container = {"name": name, "ready": False, "restartCount": restarts, "state": {"waiting": waiting or {}}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{name}-7c9-x2", "labels": {"app": name}},
            "spec": {"containers": [{"name": name}]},
            "status": {"conditions": conditions, "containerStatuses": [] if scheduled else [container]}}  # fmt: skip


def validated(folder: Path, *pods: dict[str, Any], logs: dict[str, str] | None = None) -> list[str]:
    """The lines that the script prints for a namespace with these pods."""
    tool("kubectl")
    objects = [deployment(name) for name in NAMES]
    with kubernetes(folder, *objects, *pods, logs=logs) as config:
        environment = {
            **os.environ,
            "KUBECONFIG": str(config),
            "HOME": str(folder),
            "PATH": f"{TOOLS}:{os.environ['PATH']}",
        }
        result = subprocess.run([str(SCRIPT), "--namespace", "x", "--timeout", "1"], capture_output=True, text=True,
                              check=False, timeout=120, env=environment)  # fmt: skip
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stdout.splitlines()


def failures(lines: list[str]) -> list[str]:
    """The failures of pods; other checks fail because the fake cluster has only pods and Deployments."""
    return [line for line in lines if line.startswith("FAIL") and ("deployment " in line or "pod" in line)]


CONFIG_ERROR: Final = {"reason": "CreateContainerConfigError", "message": 'secret "orchestrator-db" not found'}


def test_a_missing_secret_is_reported_once_for_each_deployment(tmp_path: Path) -> None:
    lines = validated(tmp_path, *(pod(name, waiting=CONFIG_ERROR) for name in NAMES))
    assert failures(lines) == [
        f'FAIL  deployment {name} is rolled out: CreateContainerConfigError: secret "orchestrator-db" not found'
        for name in NAMES
    ]
    assert "no pod of orchestrator is ready" in lines[-2]
    assert not [line for line in lines if "metric" in line or "comment:" in line or "/health" in line]
    assert lines[-1].endswith("1 skipped") or lines[-1].endswith("2 skipped")


def test_the_last_log_line_of_a_crashed_pod_is_reported(tmp_path: Path) -> None:
    crash = {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}
    words = "COMMENT_BATCH_SIZE=4: must be 5 to 25"
    lines = validated(
        tmp_path, pod("orchestrator", waiting=crash, restarts=6), pod("comment-worker", waiting=CONFIG_ERROR),
        logs={"orchestrator-7c9-x2": f"starting\n{words}\n\n"},
    )  # fmt: skip
    assert failures(lines)[0] == (
        "FAIL  deployment orchestrator is rolled out: pod orchestrator-7c9-x2 is in a crash loop; its last log "
        f"line: {words}"
    )
    assert len(failures(lines)) == 2


def test_a_volume_that_cannot_be_mounted_is_named(tmp_path: Path) -> None:
    creating = {"reason": "ContainerCreating"}
    words = 'MountVolume.SetUp failed for volume "private-ca" : secret "private-ca" not found'
    events = [
        {"apiVersion": "v1", "kind": "Event", "metadata": {"name": f"e{number}"}, "reason": reason, "message": message,
         "involvedObject": {"kind": "Pod", "name": name}}
        for number, (name, reason, message) in enumerate([
            ("orchestrator-7c9-x2", "Scheduled", "assigned"),
            ("orchestrator-7c9-x2", "FailedMount", "failed to sync secret cache: timed out"),
            ("orchestrator-7c9-x2", "FailedMount", words),
            ("another-pod", "FailedMount", "secret of another not found"),
        ])
    ]  # fmt: skip
    pods = (pod("orchestrator", waiting=creating), pod("comment-worker", waiting=CONFIG_ERROR))
    lines = validated(tmp_path, *pods, *events)
    assert failures(lines)[0] == f"FAIL  deployment orchestrator is rolled out: {words}"


def test_the_schedulers_message_is_reported_for_a_pending_pod(tmp_path: Path) -> None:
    taints = "0/3 nodes are available: 3 node(s) had untolerated taint {team: a}."
    lines = validated(tmp_path, *(pod(name, scheduled=taints) for name in NAMES))
    assert f"FAIL  deployment orchestrator is rolled out: {taints}" in lines


@pytest.mark.parametrize("words", ["kill $forward", "kill $!"], ids=["variable", "last-background"])
def test_the_script_kills_no_process_by_a_pid_that_may_be_reused(words: str) -> None:
    assert words not in SCRIPT.read_text()
