"""checkov's security checks on six of the cases. Each skipped check is listed with its reason."""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from tests.chart.conftest import NAMESPACE, helm_programs, text_of, tool

SKIPPED: Final = {
    "CKV_K8S_15": "IfNotPresent: the tag of a version never moves, and a pod restarts even if no registry answers",
    "CKV_K8S_43": "a digest is set by the operator (image.tag accepts it), not by default",
    "CKV_K8S_35": "the guide requires environment variables; no other pod reads the Secrets",
    "CKV_K8S_21": "the namespace is chosen at installation: `helm --namespace`",
    "CKV_K8S_40": "999 is the user of the servers' official images, which are for development only",
}
CHECKED: Final = ("prod-monitored", "prod-keda", "dev-policies", "all-bundled", "all-external", "dev")
# Checks that do not apply to some pods, and these pods.
SKIPPED_FOR: Final[dict[str, tuple[str, ...]]] = {
    # A pod of `helm test` ends by itself; a server that is killed because it is slow is slower afterwards.
    "CKV_K8S_8": ("test-", "postgres", "redis", "rabbitmq"),
    "CKV_K8S_9": ("test-",),
    # It tests the Kubernetes API, so it needs its token.
    "CKV_K8S_38": ("test-endpoints",),
}


def checkov(file: Path) -> dict[str, Any]:
    """The report of checkov on rendered objects."""
    words = ["--framework", "kubernetes", "--skip-download", "--quiet", "--compact", "--output", "json"]
    words += ["--skip-check", ",".join(SKIPPED), "--file", str(file)]
    result = subprocess.run([tool("checkov"), *words], capture_output=True, text=True, check=False)
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def failures(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The identifier, the object and the title of each failed check that is not skipped for its object."""
    assert report["summary"]["passed"] > 50
    assert report["summary"]["parsing_errors"] == 0
    found = [
        (check["check_id"], check["resource"], check["check_name"]) for check in report["results"]["failed_checks"]
    ]
    return [failure for failure in found if not skipped(failure[0], failure[1])]


def skipped(check: str, resource: str) -> bool:
    """The resource is `KIND.NAMESPACE.NAME`, followed by labels if it is a pod of a template."""
    return resource.split(".")[2].startswith(SKIPPED_FOR.get(check, ()))


@pytest.mark.parametrize("case", CHECKED)
def test_checkov_reports_nothing(case: str, tmp_path: Path) -> None:
    """One run for each case: in a common run the NetworkPolicies of one case would count for the pods of another."""
    file = tmp_path / "objects.yaml"
    file.write_text(text_of(case, helm_programs()[-1]))
    found = failures(checkov(file))
    if case == "dev":
        # The NetworkPolicies of this case are switched off.
        assert "CKV2_K8S_6" in {check for check, _, _ in found}
        found = [failure for failure in found if failure[0] != "CKV2_K8S_6"]
    assert found == []


def test_checkov_reports_a_privileged_pod(tmp_path: Path) -> None:
    container: dict[str, Any] = {"name": "x", "image": "x:1", "securityContext": {"privileged": True}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": NAMESPACE},
           "spec": {"containers": [container]}}  # fmt: skip
    file = tmp_path / "objects.yaml"
    file.write_text(json.dumps(pod))
    assert "CKV_K8S_16" in {check["check_id"] for check in checkov(file)["results"]["failed_checks"]}
