"""Values that operators know from other charts: each reaches every pod that it is for, and no other pod."""

import json
from typing import Any, Final

import pytest
from tests.chart.conftest import CHART, documents, environment, helm, helm_programs, slug, validate, values_file

PROGRAM_PODS: Final = {"orchestrator", "comment-worker", "migrations", "comment-cleanup", "comment-monitoring-test"}
SERVERS: Final = {"postgres", "redis", "rabbitmq"}
ALL: Final = PROGRAM_PODS | SERVERS | {"celery-exporter"}
# Every pod of the chart, including the optional test pods.
EVERYTHING: Final[dict[str, Any]] = {
    "celeryExporter": {"enabled": True},
    "tests": {"fail": True},
    "orchestrator": {"commentMonitoring": {"rbac": {"enabled": True}}},
}


def render(values: dict[str, Any], program: str = "helm") -> tuple[int, str]:
    """Renders the chart for development with these values; returns Helm's exit code and output."""
    paths = (str(CHART / "values-dev.yaml"), values_file(EVERYTHING), values_file(values))
    files = [word for path in paths for word in ("--values", path)]
    result = helm("template", "threads-agent", str(CHART), *files, program=program)
    return result.returncode, result.stdout + result.stderr


def objects(values: dict[str, Any], program: str = "helm") -> list[dict[str, Any]]:
    """The objects; those of Kubernetes are valid."""
    code, output = render(values, program)
    assert code == 0, output[-2000:]
    found = documents(output)
    for resource in found:
        if resource["kind"] != "HTTPRoute":
            validate(resource, "1.34")
    return found


def pods(found: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The label `app`, the metadata and the spec of every pod."""
    result = []
    for resource in found:
        if resource["kind"] == "Pod":
            template = resource
        elif resource["kind"] == "CronJob":
            template = resource["spec"]["jobTemplate"]["spec"]["template"]
        elif resource["kind"] in {"Deployment", "StatefulSet", "Job"}:
            template = resource["spec"]["template"]
        else:
            continue
        result.append((template["metadata"]["labels"]["app"], template["metadata"], template["spec"]))
    assert {app for app, _, _ in result} == ALL
    return result


TAINT: Final = [{"key": "team", "operator": "Equal", "value": "a", "effect": "NoSchedule"}]


def test_scheduling_values_reach_every_pod() -> None:
    """In a cluster whose nodes are all tainted, an application without its migration pod would never be ready."""
    affinity: dict[str, Any] = {"nodeAffinity": {}}
    values = {"tolerations": TAINT, "nodeSelector": {"disk": "fast"}, "affinity": affinity, "priorityClassName": "high"}
    for app, _, spec in pods(objects(values)):
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
def test_values_of_a_part_override_the_common_values_of_that_part(part: str, app: str) -> None:
    own = {"nodeSelector": {"pool": "own"}, "tolerations": TAINT, "priorityClassName": "own",
           "podLabels": {"cost": "own"}, "podAnnotations": {"sidecar": "no"}}  # fmt: skip
    values = {"nodeSelector": {"pool": "all"}, "priorityClassName": "all", "podLabels": {"cost": "all", "env": "x"}}
    for found, metadata, spec in pods(objects(values | {part: own})):
        is_part = found == app
        assert spec["nodeSelector"] == {"pool": "own" if is_part else "all"}, found
        assert spec["priorityClassName"] == ("own" if is_part else "all"), found
        assert ("tolerations" in spec) == is_part, found
        assert (metadata["labels"]["cost"], metadata["labels"]["env"]) == ("own" if is_part else "all", "x"), found
        assert metadata.get("annotations", {}).get("sidecar") == ("no" if is_part else None), found


def test_common_labels_and_annotations_reach_every_object() -> None:
    values = {"commonLabels": {"team": "a", "helm.sh/chart": "mine"}, "podAnnotations": {"note": "x"},
              "monitoring": {"prometheus": {"crds": True, "labels": {"team": "b"}}}}  # fmt: skip
    code, output = render(values)
    assert code == 0, output
    found = documents(output)
    for resource in found:
        monitor = resource["kind"] in {"ServiceMonitor", "PrometheusRule"}
        assert resource["metadata"]["labels"]["team"] == ("b" if monitor else "a"), resource["metadata"]["name"]
        # The chart's own labels identify the release, so a value does not override them.
        assert resource["metadata"]["labels"]["helm.sh/chart"] == "threads-agent-0.1.0"
        selector = resource.get("spec", {}).get("selector", {})
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


def test_a_private_authority_reaches_every_pod_of_the_program() -> None:
    """Including the pods that migrate, clean up and test: they connect to the same servers over TLS."""
    connecting = 0
    for app, _, spec in pods(objects(CA)):
        (container,) = spec["containers"]
        assert (CA["extraVolumes"][0] in spec.get("volumes", [])) == (app in PROGRAM_PODS), app
        assert (CA["extraVolumeMounts"][0] in container.get("volumeMounts", [])) == (app in PROGRAM_PODS), app
        if "POSTGRES_DSN" in environment(spec):
            connecting += 1
            assert environment(spec)["SSL_CERT_FILE"] == CA["extraEnv"][0], app
            assert container["envFrom"][-1] == CA["extraEnvFrom"][0], app
    # Orchestrator, worker, migrations, cleanup, and the test that sends a comment.
    assert connecting == 5


def test_the_celery_exporter_has_its_own_variables_and_volumes() -> None:
    """Values for the program's containers do not apply to it, but it may need a private authority too."""
    own = {"extraVolumes": CA["extraVolumes"], "extraVolumeMounts": CA["extraVolumeMounts"],
           "extraEnv": [CA["extraEnv"][0], {"name": "CE_QUEUES", "value": "mine"}]}  # fmt: skip
    found = {app: spec for app, _, spec in pods(objects({"celeryExporter": own}))}
    exporter = found["celery-exporter"]
    assert CA["extraVolumes"][0] in exporter["volumes"]
    assert CA["extraVolumeMounts"][0] in exporter["containers"][0]["volumeMounts"]
    assert environment(exporter)["SSL_CERT_FILE"] == CA["extraEnv"][0]
    assert environment(exporter)["CE_QUEUES"]["value"] == "mine"
    assert [container["name"] for container in exporter["containers"][0]["env"]].count("CE_QUEUES") == 1
    assert "SSL_CERT_FILE" not in environment(found["orchestrator"])


def test_a_part_has_its_own_and_the_common_variables_and_volumes() -> None:
    own = {"extraEnv": [{"name": "MALLOC_ARENA_MAX", "value": "2"}],
           "extraVolumes": [{"name": "own", "emptyDir": {}}],
           "extraVolumeMounts": [{"name": "own", "mountPath": "/own"}]}  # fmt: skip
    for app, _, spec in pods(objects(CA | {"worker": own})):
        is_part = app == "comment-worker"
        assert ("MALLOC_ARENA_MAX" in environment(spec)) == is_part, app
        assert ({"name": "own", "emptyDir": {}} in spec.get("volumes", [])) == is_part, app
        assert ({"name": "ca", "secret": {"secretName": "private-ca"}} in spec.get("volumes", [])) == (
            app in PROGRAM_PODS
        ), app


def test_an_extra_variable_replaces_the_charts_variable() -> None:
    """Helm 4 uses server-side apply, which refuses a list with a duplicate key."""
    extra = [{"name": "COMMENT_WRITERS", "value": "3"}, {"name": "POSTGRES_DSN", "value": "postgresql://elsewhere/x"}]
    values = {"extraEnv": extra, "orchestrator": {"commentMonitoring": {"settings": {"COMMENT_WRITERS": 5}}}}
    for app, _, spec in pods(objects(values)):
        names = [container["name"] for container in spec["containers"][0].get("env", [])]
        assert len(names) == len(set(names)), app
        if "POSTGRES_DSN" in names:
            assert [environment(spec)[variable["name"]] for variable in extra] == extra, app


def test_an_existing_service_account_is_used() -> None:
    annotated = {"serviceAccount": {"name": "mine", "annotations": {"eks.amazonaws.com/role-arn": "arn:x"}}}
    (account,) = [resource for resource in objects(annotated) if resource["kind"] == "ServiceAccount"]
    assert (account["metadata"]["name"], account["metadata"]["annotations"]) == (
        "mine", {"eks.amazonaws.com/role-arn": "arn:x"},
    )  # fmt: skip
    external = objects({"serviceAccount": {"create": False, "name": "mine"}})
    assert not [resource for resource in external if resource["kind"] == "ServiceAccount"]
    assert {spec.get("serviceAccountName") for app, _, spec in pods(external) if app in PROGRAM_PODS} == {"mine"}
    (binding,) = [resource for resource in external if resource["kind"] == "RoleBinding"]
    assert binding["subjects"][0]["name"] == "mine"
    for _, _, spec in pods(objects({"serviceAccount": {"create": False}})):
        assert spec.get("serviceAccountName", "default") == "default"


@pytest.mark.parametrize("program", helm_programs())
def test_null_removes_user_and_groups_for_openshift(program: str) -> None:
    """OpenShift's restricted-v2 refuses a user, group or fsGroup outside of the range of the namespace."""
    nothing = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"))
    values = {"podSecurityContext": nothing} | {
        part: {"podSecurityContext": nothing} for part in ("postgres", "redis", "rabbitmq")
    }
    values["celeryExporter"] = {"podSecurityContext": nothing}
    for app, _, spec in pods(objects(values, program)):
        assert not nothing.keys() & spec["securityContext"].keys(), app
        assert spec["securityContext"]["runAsNonRoot"] is True, app
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, app


def test_the_security_context_of_containers_is_a_value() -> None:
    values = {"securityContext": {"readOnlyRootFilesystem": False, "seLinuxOptions": {"level": "s0:c1"}}}
    for app, _, spec in pods(objects(values)):
        found = spec["containers"][0]["securityContext"]
        assert (found["readOnlyRootFilesystem"], found["seLinuxOptions"]) == (False, {"level": "s0:c1"}), app
        assert found["capabilities"] == {"drop": ["ALL"]}, app


def test_pull_secrets_are_names_or_objects() -> None:
    values = {"imagePullSecrets": ["plain", {"name": "object"}]}
    for app, _, spec in pods(objects(values)):
        assert spec["imagePullSecrets"] == [{"name": "plain"}, {"name": "object"}], app


def test_probes_and_spread_constraints_can_be_changed() -> None:
    values = {
        "orchestrator": {"startupProbe": {"failureThreshold": 300}, "livenessProbe": {"timeoutSeconds": 20},
                         "topologySpreadConstraints": []},
        "worker": {"readinessProbe": {"periodSeconds": 60}, "topologySpreadConstraints": [
            {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}]},
    }  # fmt: skip
    found = {app: spec for app, _, spec in pods(objects(values))}
    (orchestrator,) = found["orchestrator"]["containers"]
    health = {"path": "/health", "port": "http"}
    started = health | {"path": "/health/started"}
    assert orchestrator["startupProbe"] == {"httpGet": started, "periodSeconds": 2, "failureThreshold": 300}
    assert orchestrator["livenessProbe"] == {"httpGet": health, "periodSeconds": 30, "timeoutSeconds": 20}
    assert "topologySpreadConstraints" not in found["orchestrator"]
    (worker,) = found["comment-worker"]["containers"]
    assert worker["readinessProbe"]["periodSeconds"] == 60
    (spread,) = found["comment-worker"]["topologySpreadConstraints"]
    assert (spread["maxSkew"], spread["topologyKey"]) == (2, "rack")
    assert spread["labelSelector"] == {"matchLabels": {"app": "comment-worker"}}


@pytest.mark.parametrize("program", helm_programs())
def test_jobs_have_a_deadline_and_are_removed(program: str) -> None:
    def jobs(values: dict[str, Any]) -> list[dict[str, Any]]:
        found = objects(values, program)
        return [resource["spec"] if resource["kind"] == "Job" else resource["spec"]["jobTemplate"]["spec"]
                for resource in found if resource["kind"] in {"Job", "CronJob"}]  # fmt: skip

    for spec in jobs({}):
        assert spec["activeDeadlineSeconds"] >= 3600
        assert spec["ttlSecondsAfterFinished"] >= 86400
    never = {"activeDeadlineSeconds": None, "ttlSecondsAfterFinished": None}
    for spec in jobs({"migrations": never, "cleanup": never}):
        assert not never.keys() & spec.keys()
    own = {"activeDeadlineSeconds": 7200, "ttlSecondsAfterFinished": 2000000}
    for spec in jobs({"migrations": own, "cleanup": own}):
        assert own.items() <= spec.items()


def test_an_ingress_and_an_http_route_use_the_service() -> None:
    values = {
        "ingress": {"enabled": True, "className": "nginx", "annotations": {"a": "b"},
                    "hosts": [{"host": "one.example.org"}, {"host": "*.example.org", "paths": [
                        {"path": "/comments", "pathType": "Exact"}]}],
                    "tls": [{"secretName": "tls", "hosts": ["one.example.org"]}]},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "public", "namespace": "gateways"}],
                      "hostnames": ["one.example.org"],
                      "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/comments"}}]}]},
    }  # fmt: skip
    found = {resource["kind"]: resource for resource in objects(values)}
    spec = found["Ingress"]["spec"]
    backend = {"service": {"name": "orchestrator", "port": {"name": "http"}}}
    assert spec["ingressClassName"] == "nginx"
    assert [(rule["host"], rule["http"]["paths"]) for rule in spec["rules"]] == [
        ("one.example.org", [{"path": "/", "pathType": "Prefix", "backend": backend}]),
        ("*.example.org", [{"path": "/comments", "pathType": "Exact", "backend": backend}]),
    ]
    assert spec["tls"] == values["ingress"]["tls"]
    route = found["HTTPRoute"]["spec"]
    assert route["parentRefs"] == [{"name": "public", "namespace": "gateways"}]
    assert route["rules"][0]["backendRefs"] == [{"name": "orchestrator", "port": 8080}]
    assert route["rules"][0]["matches"][0]["path"]["value"] == "/comments"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"orchestrator": {"resources": {"requests": {"memory": "2Gi"}}}}, "the memory requested, 2Gi, is more"),
        ({"migrations": {"resources": {"requests": {"memory": "1G"}}}}, "migrations.resources: the memory requested"),
        ({"worker": {"resources": {"requests": {"cpu": "1.5"}}}}, "worker.resources: the cpu requested, 1.5"),
        ({"tests": {"resources": {"requests": {"memory": 536870912}}}}, "tests.resources: the memory requested"),
        ({"redis": {"maxMemory": "256mb"}}, "redis.maxMemory: 256mb is not below"),
        ({"redis": {"maxMemory": "1gb"}}, "redis.maxMemory: 1gb is not below"),
        # A fraction of a byte.
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
        # They would be silently ignored.
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
    ids=slug,
)  # fmt: skip
def test_values_that_kubernetes_would_refuse_later_are_refused(values: dict[str, Any], words: str) -> None:
    code, output = render(values)
    assert code
    assert words in output


@pytest.mark.parametrize("program", helm_programs())
@pytest.mark.parametrize(
    "resources",
    [{"requests": {"memory": "1Gi"}}, {"requests": {"memory": 1073741824, "cpu": 1}}, {"requests": {"memory": "1.0Gi"}},
     {"limits": {"memory": None}}, {"limits": None}, {"requests": {"memory": "1048576Ki", "cpu": "1000m"}},
     {"requests": None, "limits": {"memory": "1T"}}],
    ids=slug,
)  # fmt: skip
def test_requests_within_the_limits_are_accepted(program: str, resources: dict[str, Any]) -> None:
    code, output = render({"orchestrator": {"resources": resources}}, program)
    assert code == 0, output
