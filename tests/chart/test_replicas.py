"""The number of pods in a rendered Deployment, and the volumes of servers, given the objects in the cluster."""

import os
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from tests.chart.conftest import CHART, documents, helm_programs, tool
from tests.support.kubernetes_api import kubernetes

CLUSTER_ROOT_CA: Final = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"}}
PRODUCTION: Final = ("--values", str(CHART / "values-prod.yaml"))
KEDA: Final = (*PRODUCTION, "--set", "orchestrator.autoscaling.mode=keda")
DEVELOPMENT: Final = ("--values", str(CHART / "values-dev.yaml"))


def owned(name: str) -> dict[str, Any]:
    """The metadata of an object of this release; Helm 4 checks it even when it only renders."""
    annotations = {"meta.helm.sh/release-name": "threads-agent", "meta.helm.sh/release-namespace": "default"}
    return {"name": name, "annotations": annotations, "labels": {"app.kubernetes.io/managed-by": "Helm"}}


def running(count: int, *managers: tuple[str, str, tuple[str, ...]]) -> dict[str, Any]:
    """The Deployment with `count` pods; each manager is a name, an operation and the fields of the spec that it set."""
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


def rendered_replicas(folder: Path, program: str, values: tuple[str, ...], *objects: dict[str, Any]) -> int | None:
    """The replicas in the rendered Deployment `orchestrator`; None: the field is omitted."""
    with kubernetes(folder, *objects) as config:
        words = ["template", "threads-agent", str(CHART), "--dry-run=server", "--disable-openapi-validation", *values]
        environment = {**os.environ, "KUBECONFIG": str(config), "HELM_CACHE_HOME": str(folder), "NO_PROXY": "127.0.0.1"}
        result = subprocess.run([tool(program), *words], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    (found,) = [resource for resource in documents(result.stdout)
                if (resource["kind"], resource["metadata"]["name"]) == ("Deployment", "orchestrator")]  # fmt: skip
    count: int | None = found["spec"].get("replicas")
    return count


@pytest.mark.parametrize(
    ("values", "program"),
    [
        pytest.param(values, program, id=f"{name}-{program}")
        for name, values in (("hpa", PRODUCTION), ("keda", KEDA), ("manual", DEVELOPMENT))
        for program in (helm_programs()[-1:] if name == "keda" else helm_programs())
    ],
)
class TestReplicasNotSetByTheValues:
    """An autoscaler or a person sets the number of pods."""

    @pytest.mark.parametrize("count", [1, 7])
    def test_helm_3_keeps_the_running_number(
        self, program: str, values: tuple[str, ...], count: int, tmp_path: Path
    ) -> None:
        """Helm 3 would remove a field that only its last manifest has, even if it was set by another manager since."""
        for managers in ((HELM_3,), (HELM_3, SCALER), (), (HELM_3, PERSON)):
            live = running(count, *managers)
            assert rendered_replicas(tmp_path, program, values, CLUSTER_ROOT_CA, AUTOSCALER, live) == count

    def test_helm_4_sets_the_number_while_it_is_the_only_owner(
        self, program: str, values: tuple[str, ...], tmp_path: Path
    ) -> None:
        live = running(3, HELM_4_WITH, STATUS, RESTART)
        assert rendered_replicas(tmp_path, program, values, CLUSTER_ROOT_CA, AUTOSCALER, live) == 3

    @pytest.mark.parametrize("owner", [SCALER, PERSON], ids=["autoscaler", "person"])
    @pytest.mark.parametrize("helm_4", [HELM_4_WITH, HELM_4_WITHOUT], ids=["replicas", "no-replicas"])
    def test_helm_4_omits_a_number_that_another_manager_owns(
        self, program: str, values: tuple[str, ...], owner: Any, helm_4: Any, tmp_path: Path
    ) -> None:
        """Setting it would be a conflict as soon as the other manager changes it."""
        assert rendered_replicas(tmp_path, program, values, CLUSTER_ROOT_CA, running(5, helm_4, owner)) is None


@pytest.mark.parametrize("program", helm_programs())
@pytest.mark.parametrize("manager", [HELM_3, HELM_4_WITH], ids=["helm-3", "helm-4"])
def test_a_new_autoscaler_starts_from_at_least_its_minimum(program: str, manager: Any, tmp_path: Path) -> None:
    """An autoscaler never scales up from zero pods."""
    for count, wanted in ((0, 2), (1, 2), (2, 2), (9, 9)):
        assert rendered_replicas(tmp_path, program, PRODUCTION, CLUSTER_ROOT_CA, running(count, manager)) == wanted
    # Zero pods under an existing autoscaler were set on purpose, to pause the release.
    assert rendered_replicas(tmp_path, program, PRODUCTION, CLUSTER_ROOT_CA, AUTOSCALER, running(0, manager)) == 0


@pytest.mark.parametrize("program", helm_programs())
def test_an_installation_starts_with_the_autoscalers_minimum(program: str, tmp_path: Path) -> None:
    assert rendered_replicas(tmp_path, program, PRODUCTION, CLUSTER_ROOT_CA) == 2
    assert rendered_replicas(tmp_path, program, DEVELOPMENT, CLUSTER_ROOT_CA) is None


@pytest.mark.parametrize("program", helm_programs())
def test_replicas_of_the_values_apply_without_an_autoscaler(program: str, tmp_path: Path) -> None:
    fixed = (*PRODUCTION, "--set", "orchestrator.autoscaling.enabled=false", "--set", "orchestrator.replicas=4")
    assert rendered_replicas(tmp_path, program, fixed, CLUSTER_ROOT_CA, running(7, HELM_4_WITH)) == 4


def stateful(server: str, claim: dict[str, Any] | None = None) -> dict[str, Any]:
    """An existing StatefulSet with its data on a volume of this claim, or in its pod."""
    spec = {"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}]} if claim else {}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": owned(server), "spec": spec}


def claim(size: str, storage_class: str | None = None) -> dict[str, Any]:
    """A volume claim of this size and storage class."""
    more = {"storageClassName": storage_class} if storage_class else {}
    return {"resources": {"requests": {"storage": size}}, **more}


def in_development(
    folder: Path, program: str, switches: tuple[str, ...], *existing: dict[str, Any]
) -> "subprocess.CompletedProcess[str]":
    """Renders the chart for development in a cluster with these objects."""
    with kubernetes(folder, CLUSTER_ROOT_CA, *existing) as config:
        words = [
            "template",
            "threads-agent",
            str(CHART),
            *DEVELOPMENT,
            "--dry-run=server",
            "--disable-openapi-validation",
        ]
        environment = {**os.environ, "KUBECONFIG": str(config), "HELM_CACHE_HOME": str(folder)}
        command = [tool(program), *words, *(word for switch in switches for word in ("--set", switch))]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("program", helm_programs())
@pytest.mark.parametrize("server", ["postgres", "rabbitmq"])
def test_a_server_without_a_volume_keeps_its_pod_and_data(program: str, server: str, tmp_path: Path) -> None:
    """A release before volumes were the default created it: Kubernetes adds no volume, and a new pod loses the data."""

    def spec_of(*existing: dict[str, Any]) -> dict[str, Any]:
        result = in_development(tmp_path, program, (), *existing)
        assert result.returncode == 0, result.stderr
        (found,) = [resource for resource in documents(result.stdout)
                    if (resource["kind"], resource["metadata"]["name"]) == ("StatefulSet", server)]  # fmt: skip
        spec: dict[str, Any] = found["spec"]
        return spec

    kept = spec_of(stateful(server))
    # Partition 1 excludes the only pod, number 0. (OnDelete would be refused while the old default partition is set.)
    assert kept["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}
    assert "volumeClaimTemplates" not in kept
    assert {"name": "data", "emptyDir": {}} in kept["template"]["spec"]["volumes"]
    for existing in ((), (stateful(server, claim("1Gi")),)):
        spec = spec_of(*existing)
        assert "updateStrategy" not in spec
        assert [claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]] == ["data"]


@pytest.mark.parametrize("program", helm_programs())
@pytest.mark.parametrize("server", ["postgres", "rabbitmq"])
def test_a_changed_volume_claim_is_refused_before_the_upgrade(program: str, server: str, tmp_path: Path) -> None:
    """Kubernetes would refuse it only in the middle of the upgrade."""
    existing = stateful(server, claim("8Gi", "fast"))
    for switches, words in (
        (
            (f"{server}.storageClassName=fast",),
            f'{server}.storage: "1Gi" is not the size of the existing claim, 8Gi',
        ),
        ((f"{server}.storage=", f"{server}.storageClassName=fast"), f'{server}.storage: "" is not'),
        ((f"{server}.storage=8Gi",), f'{server}.storageClassName: "" is not that of the existing claim, "fast"'),
        ((f"{server}.storage=8Gi", f"{server}.storageClassName=fast"), ""),
    ):
        result = in_development(tmp_path, program, switches, existing)
        assert (result.returncode == 0) == (not words), result.stderr
        assert words in result.stderr
