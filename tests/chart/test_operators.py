"""What operators know from other charts: each reaches every pod that it is about, with both Helms, and no other."""

import json
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml
from tests.chart.conftest import CHART, environment, helm, helms

OURS: Final = {"orchestrator", "comment-worker", "migrations", "comment-cleanup", "comment-monitoring-test"}
SERVERS: Final = {"postgres", "redis", "rabbitmq"}
ALL: Final = OURS | SERVERS | {"celery-exporter"}
# Every pod of the chart, and the test pods that are there on demand.
EVERYTHING: Final[dict[str, Any]] = {
    "celeryExporter": {"enabled": True},
    "tests": {"fail": True},
    "orchestrator": {"commentMonitoring": {"rbac": {"enabled": True}}},
}


def render(folder: Path, values: dict[str, Any], *words: str, program: str = "helm") -> tuple[int, str]:
    """The chart in development with these values: Helm's exit code, and what it printed."""
    file = folder / "values.yaml"
    file.write_text(json.dumps(values))
    everything = folder / "everything.yaml"
    everything.write_text(json.dumps(EVERYTHING))
    files = [word for one in (CHART / "values-dev.yaml", everything, file) for word in ("--values", str(one))]
    done = helm("template", "threads-agent", str(CHART), *files, *words, program=program)
    return done.returncode, done.stdout + done.stderr


def objects(folder: Path, values: dict[str, Any], *words: str, program: str = "helm") -> list[dict[str, Any]]:
    """The objects; those of Kubernetes are what it takes."""
    code, said = render(folder, values, *words, program=program)
    assert code == 0, said[-2000:]
    found = [one for one in yaml.safe_load_all(said) if one]
    for one in found:
        if one["kind"] != "HTTPRoute":
            kubernetes_validate.validate(one, "1.34", strict=True)
    return found


def pods(found: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Of every pod its `app`, its metadata and its spec."""
    result = []
    for one in found:
        if one["kind"] == "Pod":
            template = one
        elif one["kind"] == "CronJob":
            template = one["spec"]["jobTemplate"]["spec"]["template"]
        elif one["kind"] in {"Deployment", "StatefulSet", "Job"}:
            template = one["spec"]["template"]
        else:
            continue
        result.append((template["metadata"]["labels"]["app"], template["metadata"], template["spec"]))
    assert {app for app, _, _ in result} == ALL
    return result


TAINT: Final = [{"key": "team", "operator": "Equal", "value": "a", "effect": "NoSchedule"}]


@pytest.mark.parametrize("program", helms())
def test_a_cluster_whose_nodes_are_all_tainted_runs_every_pod(program: str, tmp_path: Path) -> None:
    """The application alone would run, and never be migrated."""
    affinity: dict[str, Any] = {"nodeAffinity": {}}
    values = {"tolerations": TAINT, "nodeSelector": {"disk": "fast"}, "affinity": affinity, "priorityClassName": "high"}
    for app, _, spec in pods(objects(tmp_path, values, program=program)):
        assert spec["tolerations"] == TAINT, app
        assert spec["nodeSelector"] == {"disk": "fast"}, app
        assert spec["affinity"] == affinity, app
        assert spec["priorityClassName"] == "high", app


@pytest.mark.parametrize(
    ("part", "app"),
    [("orchestrator", "orchestrator"), ("worker", "comment-worker"), ("migrations", "migrations"),
     ("cleanup", "comment-cleanup"), ("tests", "comment-monitoring-test"), ("postgres", "postgres"), ("redis", "redis"),
     ("rabbitmq", "rabbitmq"), ("celeryExporter", "celery-exporter")],
)  # fmt: skip
def test_what_a_part_says_itself_counts_for_it_alone(part: str, app: str, tmp_path: Path) -> None:
    own = {"nodeSelector": {"pool": "own"}, "tolerations": TAINT, "priorityClassName": "own",
           "podLabels": {"cost": "own"}, "podAnnotations": {"sidecar": "no"}}  # fmt: skip
    values = {"nodeSelector": {"pool": "all"}, "priorityClassName": "all", "podLabels": {"cost": "all", "env": "x"}}
    for found, metadata, spec in pods(objects(tmp_path, values | {part: own})):
        mine = found == app
        assert spec["nodeSelector"] == {"pool": "own" if mine else "all"}, found
        assert spec["priorityClassName"] == ("own" if mine else "all"), found
        assert ("tolerations" in spec) == mine, found
        assert (metadata["labels"]["cost"], metadata["labels"]["env"]) == ("own" if mine else "all", "x"), found
        assert metadata.get("annotations", {}).get("sidecar") == ("no" if mine else None), found


@pytest.mark.parametrize("program", helms())
def test_labels_and_annotations_of_everything(program: str, tmp_path: Path) -> None:
    values = {"commonLabels": {"team": "a", "helm.sh/chart": "mine"}, "podAnnotations": {"note": "x"},
              "monitoring": {"prometheus": {"crds": True, "labels": {"team": "b"}}}}  # fmt: skip
    code, said = render(tmp_path, values, program=program)
    assert code == 0, said
    found = [one for one in yaml.safe_load_all(said) if one]
    for one in found:
        monitor = one["kind"] in {"ServiceMonitor", "PrometheusRule"}
        assert one["metadata"]["labels"]["team"] == ("b" if monitor else "a"), one["metadata"]["name"]
        # Ours are what the release is known by.
        assert one["metadata"]["labels"]["helm.sh/chart"] == "threads-agent-0.1.0"
        selector = one.get("spec", {}).get("selector", {})
        assert "team" not in json.dumps(selector)
    for app, metadata, _ in pods(found):
        assert metadata["labels"]["team"] == "a", app
        assert metadata["annotations"]["note"] == "x", app


CA: Final[dict[str, Any]] = {
    "extraVolumes": [{"name": "ca", "secret": {"secretName": "private-ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/private-ca", "readOnly": True}],
    "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/etc/private-ca/ca.crt"}],
    "extraEnvFrom": [{"secretRef": {"name": "more", "optional": True}}],
}


@pytest.mark.parametrize("program", helms())
def test_a_private_authority_is_in_every_container_of_ours(program: str, tmp_path: Path) -> None:
    """Also in those that migrate, clean up and test: they speak TLS to the same servers."""
    talking = 0
    for app, _, spec in pods(objects(tmp_path, CA, program=program)):
        (container,) = spec["containers"]
        assert (CA["extraVolumes"][0] in spec.get("volumes", [])) == (app in OURS), app
        assert (CA["extraVolumeMounts"][0] in container.get("volumeMounts", [])) == (app in OURS), app
        if "POSTGRES_DSN" in environment(spec):
            talking += 1
            assert environment(spec)["SSL_CERT_FILE"] == CA["extraEnv"][0], app
            assert container["envFrom"][-1] == CA["extraEnvFrom"][0], app
    # Orchestrator, worker, migrations, cleanup, and the test that sends a comment.
    assert talking == 5


@pytest.mark.parametrize("program", helms())
def test_the_exporter_of_another_publisher_has_variables_and_volumes_of_its_own(program: str, tmp_path: Path) -> None:
    """What is for all containers of the program is not for it; a private authority it may need too."""
    own = {"extraVolumes": CA["extraVolumes"], "extraVolumeMounts": CA["extraVolumeMounts"],
           "extraEnv": [CA["extraEnv"][0], {"name": "CE_QUEUES", "value": "mine"}]}  # fmt: skip
    found = {app: spec for app, _, spec in pods(objects(tmp_path, {"celeryExporter": own}, program=program))}
    exporter = found["celery-exporter"]
    assert CA["extraVolumes"][0] in exporter["volumes"]
    assert CA["extraVolumeMounts"][0] in exporter["containers"][0]["volumeMounts"]
    assert environment(exporter)["SSL_CERT_FILE"] == CA["extraEnv"][0]
    assert environment(exporter)["CE_QUEUES"]["value"] == "mine"
    assert [one["name"] for one in exporter["containers"][0]["env"]].count("CE_QUEUES") == 1
    assert "SSL_CERT_FILE" not in environment(found["orchestrator"])


def test_a_part_has_variables_and_volumes_beside_those_of_all(tmp_path: Path) -> None:
    own = {"extraEnv": [{"name": "MALLOC_ARENA_MAX", "value": "2"}],
           "extraVolumes": [{"name": "own", "emptyDir": {}}],
           "extraVolumeMounts": [{"name": "own", "mountPath": "/own"}]}  # fmt: skip
    for app, _, spec in pods(objects(tmp_path, CA | {"worker": own})):
        mine = app == "comment-worker"
        assert ("MALLOC_ARENA_MAX" in environment(spec)) == mine, app
        assert ({"name": "own", "emptyDir": {}} in spec.get("volumes", [])) == mine, app
        assert ({"name": "ca", "secret": {"secretName": "private-ca"}} in spec.get("volumes", [])) == (app in OURS), app


@pytest.mark.parametrize("program", helms())
def test_a_variable_of_a_name_that_the_chart_sets_is_there_once(program: str, tmp_path: Path) -> None:
    """A server-side apply, which is Helm 4's, refuses a list that has a key twice."""
    given = [{"name": "COMMENT_WRITERS", "value": "3"}, {"name": "POSTGRES_DSN", "value": "postgresql://elsewhere/x"}]
    values = {"extraEnv": given, "orchestrator": {"commentMonitoring": {"settings": {"COMMENT_WRITERS": 5}}}}
    for app, _, spec in pods(objects(tmp_path, values, program=program)):
        names = [one["name"] for one in spec["containers"][0].get("env", [])]
        assert len(names) == len(set(names)), app
        if "POSTGRES_DSN" in names:
            assert [environment(spec)[one["name"]] for one in given] == given, app


@pytest.mark.parametrize("program", helms())
def test_a_service_account_of_ones_own(program: str, tmp_path: Path) -> None:
    annotated = {"serviceAccount": {"name": "mine", "annotations": {"eks.amazonaws.com/role-arn": "arn:x"}}}
    (account,) = [one for one in objects(tmp_path, annotated, program=program) if one["kind"] == "ServiceAccount"]
    assert (account["metadata"]["name"], account["metadata"]["annotations"]) == (
        "mine", {"eks.amazonaws.com/role-arn": "arn:x"},
    )  # fmt: skip
    there = objects(tmp_path, {"serviceAccount": {"create": False, "name": "mine"}}, program=program)
    assert not [one for one in there if one["kind"] == "ServiceAccount"]
    assert {spec.get("serviceAccountName") for app, _, spec in pods(there) if app in OURS} == {"mine"}
    (binding,) = [one for one in there if one["kind"] == "RoleBinding"]
    assert binding["subjects"][0]["name"] == "mine"
    for _, _, spec in pods(objects(tmp_path, {"serviceAccount": {"create": False}}, program=program)):
        assert spec.get("serviceAccountName", "default") == "default"


@pytest.mark.parametrize("program", helms())
def test_openshift_gives_user_and_groups_itself(program: str, tmp_path: Path) -> None:
    """Restricted-v2 refuses a user, group or fsGroup outside of the namespace's range."""
    nothing = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"))
    values = {"podSecurityContext": nothing} | {
        part: {"podSecurityContext": nothing} for part in ("postgres", "redis", "rabbitmq")
    }
    values["celeryExporter"] = {"podSecurityContext": nothing}
    for app, _, spec in pods(objects(tmp_path, values, program=program)):
        assert not nothing.keys() & spec["securityContext"].keys(), app
        assert spec["securityContext"]["runAsNonRoot"] is True, app
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, app


def test_a_containers_security_is_a_value_too(tmp_path: Path) -> None:
    values = {"securityContext": {"readOnlyRootFilesystem": False, "seLinuxOptions": {"level": "s0:c1"}}}
    for app, _, spec in pods(objects(tmp_path, values)):
        found = spec["containers"][0]["securityContext"]
        assert (found["readOnlyRootFilesystem"], found["seLinuxOptions"]) == (False, {"level": "s0:c1"}), app
        assert found["capabilities"] == {"drop": ["ALL"]}, app


@pytest.mark.parametrize("program", helms())
def test_registry_credentials_are_named_either_way(program: str, tmp_path: Path) -> None:
    values = {"imagePullSecrets": ["plain", {"name": "object"}]}
    for app, _, spec in pods(objects(tmp_path, values, program=program)):
        assert spec["imagePullSecrets"] == [{"name": "plain"}, {"name": "object"}], app


def test_probes_and_spread_are_tunable(tmp_path: Path) -> None:
    values = {
        "orchestrator": {"startupProbe": {"failureThreshold": 300}, "livenessProbe": {"timeoutSeconds": 20},
                         "topologySpreadConstraints": []},
        "worker": {"readinessProbe": {"periodSeconds": 60}, "topologySpreadConstraints": [
            {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}]},
    }  # fmt: skip
    found = {app: spec for app, _, spec in pods(objects(tmp_path, values))}
    (orchestrator,) = found["orchestrator"]["containers"]
    health = {"path": "/health", "port": "http"}
    begun = health | {"path": "/health/started"}
    assert orchestrator["startupProbe"] == {"httpGet": begun, "periodSeconds": 2, "failureThreshold": 300}
    assert orchestrator["livenessProbe"] == {"httpGet": health, "periodSeconds": 30, "timeoutSeconds": 20}
    assert "topologySpreadConstraints" not in found["orchestrator"]
    (worker,) = found["comment-worker"]["containers"]
    assert worker["readinessProbe"]["periodSeconds"] == 60
    (spread,) = found["comment-worker"]["topologySpreadConstraints"]
    assert (spread["maxSkew"], spread["topologyKey"]) == (2, "rack")
    assert spread["labelSelector"] == {"matchLabels": {"app": "comment-worker"}}


def test_jobs_end_and_go(tmp_path: Path) -> None:
    def jobs(values: dict[str, Any]) -> list[dict[str, Any]]:
        found = objects(tmp_path, values)
        return [one["spec"] if one["kind"] == "Job" else one["spec"]["jobTemplate"]["spec"]
                for one in found if one["kind"] in {"Job", "CronJob"}]  # fmt: skip

    for spec in jobs({}):
        assert spec["activeDeadlineSeconds"] >= 3600
        assert spec["ttlSecondsAfterFinished"] >= 86400
    never = {"activeDeadlineSeconds": None, "ttlSecondsAfterFinished": None}
    for spec in jobs({"migrations": never, "cleanup": never}):
        assert not never.keys() & spec.keys()
    own = {"activeDeadlineSeconds": 7200, "ttlSecondsAfterFinished": 2000000}
    for spec in jobs({"migrations": own, "cleanup": own}):
        assert own.items() <= spec.items()


@pytest.mark.parametrize("program", helms())
def test_an_ingress_and_a_route_lead_to_the_service(program: str, tmp_path: Path) -> None:
    values = {
        "ingress": {"enabled": True, "className": "nginx", "annotations": {"a": "b"},
                    "hosts": [{"host": "one.example.org"}, {"host": "*.example.org", "paths": [
                        {"path": "/comments", "pathType": "Exact"}]}],
                    "tls": [{"secretName": "tls", "hosts": ["one.example.org"]}]},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "public", "namespace": "gateways"}],
                      "hostnames": ["one.example.org"],
                      "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/comments"}}]}]},
    }  # fmt: skip
    found = {one["kind"]: one for one in objects(tmp_path, values, program=program)}
    spec = found["Ingress"]["spec"]
    backend = {"service": {"name": "orchestrator", "port": {"name": "http"}}}
    assert spec["ingressClassName"] == "nginx"
    assert [(one["host"], one["http"]["paths"]) for one in spec["rules"]] == [
        ("one.example.org", [{"path": "/", "pathType": "Prefix", "backend": backend}]),
        ("*.example.org", [{"path": "/comments", "pathType": "Exact", "backend": backend}]),
    ]
    assert spec["tls"] == values["ingress"]["tls"]
    route = found["HTTPRoute"]["spec"]
    assert route["parentRefs"] == [{"name": "public", "namespace": "gateways"}]
    assert route["rules"][0]["backendRefs"] == [{"name": "orchestrator", "port": 8080}]
    assert route["rules"][0]["matches"][0]["path"]["value"] == "/comments"


@pytest.mark.parametrize("program", helms())
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"orchestrator": {"resources": {"requests": {"memory": "2Gi"}}}}, "the memory requested, 2Gi, is more"),
        ({"migrations": {"resources": {"requests": {"memory": "1G"}}}}, "migrations.resources: the memory requested"),
        ({"worker": {"resources": {"requests": {"cpu": "1.5"}}}}, "worker.resources: the cpu requested, 1.5"),
        ({"tests": {"resources": {"requests": {"memory": 536870912}}}}, "tests.resources: the memory requested"),
        ({"redis": {"maxMemory": "256mb"}}, "redis.maxMemory: 256mb is not below"),
        ({"redis": {"maxMemory": "1gb"}}, "redis.maxMemory: 1gb is not below"),
        # Half a byte.
        ({"orchestrator": {"resources": {"requests": {"memory": "512m"}}}}, "memory"),
        ({"orchestrator": {"resources": {"limits": {"memory": "1K"}}}}, "memory"),
        ({"orchestrator": {"resources": {"limits": {"cpu": "1Gi"}}}}, "cpu"),
        ({"podLabels": {"app": "mine"}}, "`app` is the label by which the chart finds its pods"),
        ({"commonLabels": {"app": "mine"}}, "`app` is the label by which the chart finds its pods"),
        ({"cleanup": {"podLabels": {"app": "mine"}}}, "(here app=comment-cleanup)"),
        ({"tests": {"podLabels": {"app": "mine"}}}, "(here app=comment-monitoring-test)"),
        ({"extraVolumes": [{"name": "scratch", "emptyDir": {}}]}, 'a volume "scratch" is in the pod already'),
        ({"worker": {"extraVolumes": [{"name": "log-level", "emptyDir": {}}]}}, 'a volume "log-level" is in the pod'),
        ({"celeryExporter": {"extraVolumes": [{"name": "scratch", "emptyDir": {}}]}}, 'a volume "scratch" is in'),
        # They would be in no address, and nobody would see it.
        ({"postgres": {"parameters": "sslmode=verify-full"}}, "postgres.parameters: they are only for an address"),
        ({"rabbitmq": {"tls": True}}, "rabbitmq.tls: it is only for an address made of rabbitmq.existingSecretKeys"),
        ({"rabbitmq": {"vhost": "comments"}}, "rabbitmq.vhost: it is only for an address"),
        ({"commonLabels": {"team": "two words"}}, "team"),
        ({"imagePullSecrets": [{"secret": "x"}]}, "imagePullSecrets"),
        ({"imagePullSecrets": ["Not_A_Name"]}, "imagePullSecrets"),
        ({"extraEnv": {"NAME": "value"}}, "extraEnv"),
        ({"extraEnv": [{"value": "x"}]}, "extraEnv"),
        ({"extraEnv": [{"name": "NUMBER", "value": 3}]}, "extraEnv"),
        ({"extraVolumeMounts": [{"name": "x"}]}, "extraVolumeMounts"),
        ({"migrations": {"ttlSecondsAfterFinished": 0}}, "ttlSecondsAfterFinished"),
        ({"orchestrator": {"livenessProbe": {"httpGet": {"path": "/"}}}}, "livenessProbe"),
        ({"ingress": {"enabled": True}}, "ingress.hosts"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
        ({"postgres": {"existingSecretKeys": {"host": "host"}}}, "existingSecretKeys"),
        ({"network": {"ipFamilies": ["IPv5"]}}, "ipFamilies"),
        ({"network": {"listenAddress": "everywhere"}}, "listenAddress"),
    ],
)  # fmt: skip
def test_what_the_api_server_or_the_kubelet_would_stumble_over_is_refused(
    program: str, values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    code, said = render(tmp_path, values, program=program)
    assert code
    assert words in said


@pytest.mark.parametrize("program", helms())
@pytest.mark.parametrize(
    "resources",
    [{"requests": {"memory": "1Gi"}}, {"requests": {"memory": 1073741824, "cpu": 1}}, {"requests": {"memory": "1.0Gi"}},
     {"limits": {"memory": None}}, {"limits": None}, {"requests": {"memory": "1048576Ki", "cpu": "1000m"}},
     {"requests": None, "limits": {"memory": "1T"}}],
)  # fmt: skip
def test_what_is_within_its_limit_is_taken(program: str, resources: dict[str, Any], tmp_path: Path) -> None:
    code, said = render(tmp_path, {"orchestrator": {"resources": resources}}, program=program)
    assert code == 0, said
