"""How many pods a Deployment is told to have, given what the cluster says of those that run."""

import os
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import CHART, helms, tool
from tests.support.kubernetes_api import kubernetes

NAMESPACE_THERE: Final = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"}}
PRODUCTION: Final = ("--values", str(CHART / "values-prod.yaml"))
KEDA: Final = (*PRODUCTION, "--set", "orchestrator.autoscaling.mode=keda")
DEVELOPMENT: Final = ("--values", str(CHART / "values-dev.yaml"))


def owned(name: str) -> dict[str, Any]:
    """The metadata of an object of this release; Helm 4 wants to see that, also where it only renders."""
    annotations = {"meta.helm.sh/release-name": "threads-agent", "meta.helm.sh/release-namespace": "default"}
    return {"name": name, "annotations": annotations, "labels": {"app.kubernetes.io/managed-by": "Helm"}}


def running(count: int, *managers: tuple[str, str, tuple[str, ...]]) -> dict[str, Any]:
    """The Deployment with so many pods, and who set which fields of its spec by which operation."""
    fields = [
        {"manager": name, "operation": operation, "fieldsV1": {"f:spec": {f"f:{field}": {} for field in fields}}}
        for name, operation, fields in managers
    ]
    metadata = owned("orchestrator") | ({"managedFields": fields} if fields else {})
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": count}}


AUTOSCALER: Final = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": owned("orchestrator"),
}
HELM_3: Final = ("helm", "Update", ("replicas", "template"))
HELM_4_WITH: Final = ("helm", "Apply", ("replicas", "template"))
HELM_4_WITHOUT: Final = ("helm", "Apply", ("template",))
SCALER: Final = ("kube-controller-manager", "Update", ("replicas",))
STATUS: Final = ("kube-controller-manager", "Update", ())
PERSON: Final = ("kubectl", "Update", ("replicas",))
RESTART: Final = ("kubectl-rollout", "Update", ("template",))


def told(folder: Path, program: str, values: tuple[str, ...], *objects: dict[str, Any]) -> int | None:
    """The replicas in the Deployment `orchestrator`; None: it has none."""
    with kubernetes(folder, *objects) as config:
        words = ["template", "threads-agent", str(CHART), "--dry-run=server", "--disable-openapi-validation", *values]
        environment = {**os.environ, "KUBECONFIG": str(config), "HELM_CACHE_HOME": str(folder), "NO_PROXY": "127.0.0.1"}
        done = subprocess.run([tool(program), *words], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    (found,) = [one for one in yaml.safe_load_all(done.stdout)
                if one and (one["kind"], one["metadata"]["name"]) == ("Deployment", "orchestrator")]  # fmt: skip
    count: int | None = found["spec"].get("replicas")
    return count


@pytest.mark.parametrize("program", helms())
@pytest.mark.parametrize("values", [PRODUCTION, KEDA, DEVELOPMENT], ids=["hpa", "keda", "by hand"])
class TestTheNumberIsNotTheCharts:
    """An autoscaler's, or a person's."""

    @pytest.mark.parametrize("count", [1, 7])
    def test_helm_3_keeps_what_runs(self, program: str, values: tuple[str, ...], count: int, tmp_path: Path) -> None:
        """What its last manifest had and the new one has not, it removes: also what another has set since."""
        for managers in ((HELM_3,), (HELM_3, SCALER), (), (HELM_3, PERSON)):
            live = running(count, *managers)
            assert told(tmp_path, program, values, NAMESPACE_THERE, AUTOSCALER, live) == count

    def test_helm_4_names_it_while_it_is_its_only_owner(
        self, program: str, values: tuple[str, ...], tmp_path: Path
    ) -> None:
        live = running(3, HELM_4_WITH, STATUS, RESTART)
        assert told(tmp_path, program, values, NAMESPACE_THERE, AUTOSCALER, live) == 3

    @pytest.mark.parametrize("owner", [SCALER, PERSON], ids=["autoscaler", "person"])
    @pytest.mark.parametrize("helm_4", [HELM_4_WITH, HELM_4_WITHOUT], ids=["with", "without"])
    def test_helm_4_leaves_it_to_another_owner(
        self, program: str, values: tuple[str, ...], owner: Any, helm_4: Any, tmp_path: Path
    ) -> None:
        """It would be a conflict as soon as that one changes it."""
        assert told(tmp_path, program, values, NAMESPACE_THERE, running(5, helm_4, owner)) is None


@pytest.mark.parametrize("program", helms())
@pytest.mark.parametrize("manager", [HELM_3, HELM_4_WITH], ids=["helm 3", "helm 4"])
def test_an_autoscaler_that_comes_has_pods_to_begin_with(program: str, manager: Any, tmp_path: Path) -> None:
    """It never adds any to none."""
    for count, wanted in ((0, 2), (1, 2), (2, 2), (9, 9)):
        assert told(tmp_path, program, PRODUCTION, NAMESPACE_THERE, running(count, manager)) == wanted
    # Set to none under an autoscaler, the release was put to sleep on purpose.
    assert told(tmp_path, program, PRODUCTION, NAMESPACE_THERE, AUTOSCALER, running(0, manager)) == 0


@pytest.mark.parametrize("program", helms())
def test_an_installation_begins_with_the_autoscalers_least(program: str, tmp_path: Path) -> None:
    assert told(tmp_path, program, PRODUCTION, NAMESPACE_THERE) == 2
    assert told(tmp_path, program, DEVELOPMENT, NAMESPACE_THERE) is None


@pytest.mark.parametrize("program", helms())
def test_what_the_values_say_counts_where_it_is_the_charts(program: str, tmp_path: Path) -> None:
    fixed = (*PRODUCTION, "--set", "orchestrator.autoscaling.enabled=false", "--set", "orchestrator.replicas=4")
    assert told(tmp_path, program, fixed, NAMESPACE_THERE, running(7, HELM_4_WITH)) == 4


def stateful(server: str, claim: dict[str, Any] | None = None) -> dict[str, Any]:
    """A StatefulSet that is there, its data on a volume of this claim, or in its pod."""
    spec = {"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}]} if claim else {}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": owned(server), "spec": spec}


def claim(size: str, storage_class: str | None = None) -> dict[str, Any]:
    """For so much, of this class."""
    more = {"storageClassName": storage_class} if storage_class else {}
    return {"resources": {"requests": {"storage": size}}, **more}


def in_development(
    folder: Path, program: str, switches: tuple[str, ...], *there: dict[str, Any]
) -> "subprocess.CompletedProcess[str]":
    """The chart in development, rendered where these objects are."""
    with kubernetes(folder, NAMESPACE_THERE, *there) as config:
        words = [
            "template",
            "threads-agent",
            str(CHART),
            *DEVELOPMENT,
            "--dry-run=server",
            "--disable-openapi-validation",
        ]
        environment = {**os.environ, "KUBECONFIG": str(config), "HELM_CACHE_HOME": str(folder)}
        command = [tool(program), *words, *(word for one in switches for word in ("--set", one))]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("program", helms())
@pytest.mark.parametrize("server", ["postgres", "rabbitmq"])
def test_data_that_is_in_a_pod_stays_there_and_the_pod_too(program: str, server: str, tmp_path: Path) -> None:
    """Made by a release before volumes were the default. Kubernetes adds none, and with the pod the data would go."""

    def made(*there: dict[str, Any]) -> dict[str, Any]:
        done = in_development(tmp_path, program, (), *there)
        assert done.returncode == 0, done.stderr
        (found,) = [one for one in yaml.safe_load_all(done.stdout)
                    if one and (one["kind"], one["metadata"]["name"]) == ("StatefulSet", server)]  # fmt: skip
        spec: dict[str, Any] = found["spec"]
        return spec

    kept = made(stateful(server))
    # Of its one pod the number is 0. (OnDelete is refused while the default partition of before is still there.)
    assert kept["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}
    assert "volumeClaimTemplates" not in kept
    assert {"name": "data", "emptyDir": {}} in kept["template"]["spec"]["volumes"]
    for there in ((), (stateful(server, claim("1Gi")),)):
        spec = made(*there)
        assert "updateStrategy" not in spec
        assert [one["metadata"]["name"] for one in spec["volumeClaimTemplates"]] == ["data"]


@pytest.mark.parametrize("program", helms())
@pytest.mark.parametrize("server", ["postgres", "rabbitmq"])
def test_another_claim_is_refused_before_anything_changes(program: str, server: str, tmp_path: Path) -> None:
    """Kubernetes would do so in the middle of the upgrade."""
    there = stateful(server, claim("8Gi", "fast"))
    for switches, words in (
        (
            (f"{server}.storageClassName=fast",),
            f'{server}.storage: "1Gi" is not the size of the existing claim, 8Gi',
        ),
        ((f"{server}.storage=", f"{server}.storageClassName=fast"), f'{server}.storage: "" is not'),
        ((f"{server}.storage=8Gi",), f'{server}.storageClassName: "" is not that of the existing claim, "fast"'),
        ((f"{server}.storage=8Gi", f"{server}.storageClassName=fast"), ""),
    ):
        done = in_development(tmp_path, program, switches, there)
        assert (done.returncode == 0) == (not words), done.stderr
        assert words in done.stderr
