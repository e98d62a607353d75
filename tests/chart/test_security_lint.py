"""A second opinion on security: checkov's, on six of the cases. What is not heeded stands here with its reason."""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from tests.chart.conftest import NAMESPACE, helms, text_of, tool

NOT_HEEDED: Final = {
    "CKV_K8S_15": "IfNotPresent: a version's tag is never moved, and a pod restarts where no registry answers",
    "CKV_K8S_43": "a digest is the deployer's to set (image.tag takes one), no default's",
    "CKV_K8S_35": "the settings are environment variables by the guide; the Secrets are read by nobody else",
    "CKV_K8S_21": "the namespace is the installation's: `helm --namespace`",
    "CKV_K8S_40": "999 is the user of the official servers' images, which are for development only",
}
# Checks that are right in general, and the pods for which they are not.
NOT_HEEDED_FOR: Final[dict[str, tuple[str, ...]]] = {
    # A pod of `helm test` ends by itself; a server that is killed for being slow is slower after it.
    "CKV_K8S_8": ("test-", "postgres", "redis", "rabbitmq"),
    "CKV_K8S_9": ("test-",),
    # It asks the Kubernetes API: that is what it tests.
    "CKV_K8S_38": ("test-endpoints",),
}


def findings(file: Path) -> "subprocess.CompletedProcess[str]":
    """What checkov says of rendered objects, as JSON."""
    words = ["--framework", "kubernetes", "--skip-download", "--quiet", "--compact", "--output", "json"]
    skipped = ["--skip-check", ",".join(NOT_HEEDED)]
    return subprocess.run(
        [tool("checkov"), *words, *skipped, "--file", str(file)], capture_output=True, text=True, check=False
    )


def failed(said: str) -> list[tuple[str, str, str]]:
    """The identifier, the object and the sentence of each check that an object did not pass."""
    report = json.loads(said)
    assert report["summary"]["passed"] > 50
    assert report["summary"]["parsing_errors"] == 0
    found = [(one["check_id"], one["resource"], one["check_name"]) for one in report["results"]["failed_checks"]]
    return [one for one in found if not excused(one[0], one[1])]


def excused(check: str, resource: str) -> bool:
    """The resource is `KIND.NAMESPACE.NAME`, with labels behind it for a pod of a template."""
    return resource.split(".")[2].startswith(NOT_HEEDED_FOR.get(check, ()))


@pytest.mark.parametrize("case", ["prod-monitored", "prod-keda", "dev-policies", "all-inside", "all-outside", "dev"])
def test_checkov_has_nothing_to_say(case: str, tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(text_of(case, helms()[-1]))
    found = failed(findings(file).stdout)
    if case == "dev":
        # Its NetworkPolicies are switched off.
        found = [one for one in found if one[0] != "CKV2_K8S_6"]
    assert found == []


def test_checkov_would_find_a_pod_that_is_root(tmp_path: Path) -> None:
    container: dict[str, Any] = {"name": "x", "image": "x:1", "securityContext": {"privileged": True}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": NAMESPACE},
           "spec": {"containers": [container]}}  # fmt: skip
    file = tmp_path / "objects.yaml"
    file.write_text(json.dumps(pod))
    report = json.loads(findings(file).stdout)
    assert "CKV_K8S_16" in {one["check_id"] for one in report["results"]["failed_checks"]}
