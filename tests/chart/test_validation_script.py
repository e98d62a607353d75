"""What the validation script says of a deployment that does not start: the cause, and nothing that follows from it."""

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
    """With one pod that is not ready."""
    status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "unavailableReplicas": 1}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "generation": 1},
            "spec": {"replicas": 1}, "status": status}  # fmt: skip


def pod(name: str, *, scheduled: str = "", waiting: dict[str, str] | None = None, restarts: int = 0) -> dict[str, Any]:
    """A pod that is not ready, and why."""
    conditions = [{"type": "Ready", "status": "False"}]
    conditions.append({"type": "PodScheduled", "status": "False" if scheduled else "True", "message": scheduled})
    container = {"name": name, "ready": False, "restartCount": restarts, "state": {"waiting": waiting or {}}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{name}-7c9-x2", "labels": {"app": name}},
            "spec": {"containers": [{"name": name}]},
            "status": {"conditions": conditions, "containerStatuses": [] if scheduled else [container]}}  # fmt: skip


def said(folder: Path, *pods: dict[str, Any], logs: dict[str, str] | None = None) -> list[str]:
    """What the script prints of a namespace with these pods."""
    tool("kubectl")
    objects = [deployment(name) for name in NAMES]
    with kubernetes(folder, *objects, *pods, logs=logs) as config:
        environment = {
            **os.environ,
            "KUBECONFIG": str(config),
            "HOME": str(folder),
            "PATH": f"{TOOLS}:{os.environ['PATH']}",
        }
        done = subprocess.run([str(SCRIPT), "--namespace", "x", "--timeout", "1"], capture_output=True, text=True,
                              check=False, timeout=120, env=environment)  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout.splitlines()


def failures(lines: list[str]) -> list[str]:
    """Those of the pods: the fake cluster has none of the other objects."""
    return [line for line in lines if line.startswith("FAIL") and ("deployment " in line or "pod" in line)]


CONFIG_ERROR: Final = {"reason": "CreateContainerConfigError", "message": 'secret "orchestrator-db" not found'}


def test_a_missing_secret_is_said_once_for_each_deployment_and_nothing_follows(tmp_path: Path) -> None:
    lines = said(tmp_path, *(pod(name, waiting=CONFIG_ERROR) for name in NAMES))
    assert failures(lines) == [
        f'FAIL  deployment {name} is rolled out: CreateContainerConfigError: secret "orchestrator-db" not found'
        for name in NAMES
    ]
    assert "no pod of orchestrator is ready" in lines[-2]
    assert not [line for line in lines if "metric" in line or "comment:" in line or "/health" in line]
    assert lines[-1].endswith("1 skipped") or lines[-1].endswith("2 skipped")


def test_a_pod_that_crashed_says_its_last_words(tmp_path: Path) -> None:
    crash = {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}
    words = "COMMENT_BATCH_SIZE=4: must be 5 to 25"
    lines = said(
        tmp_path, pod("orchestrator", waiting=crash, restarts=6), pod("comment-worker", waiting=CONFIG_ERROR),
        logs={"orchestrator-7c9-x2": f"starting\n{words}\n\n"},
    )  # fmt: skip
    assert failures(lines)[0] == (
        "FAIL  deployment orchestrator is rolled out: pod orchestrator-7c9-x2 is in a crash loop; its last log "
        f"line: {words}"
    )
    assert len(failures(lines)) == 2


def test_what_a_pod_can_not_mount_is_named(tmp_path: Path) -> None:
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
    lines = said(tmp_path, *pods, *events)
    assert failures(lines)[0] == f"FAIL  deployment orchestrator is rolled out: {words}"


def test_a_pod_without_a_node_says_what_the_scheduler_says(tmp_path: Path) -> None:
    taints = "0/3 nodes are available: 3 node(s) had untolerated taint {team: a}."
    lines = said(tmp_path, *(pod(name, scheduled=taints) for name in NAMES))
    assert f"FAIL  deployment orchestrator is rolled out: {taints}" in lines


@pytest.mark.parametrize("words", ["kill $forward", "kill $!"])
def test_no_process_is_ended_by_a_number_that_may_be_anothers(words: str) -> None:
    assert words not in SCRIPT.read_text()
