"""The values of the chart: the deployment guide's values, the bounds of each, and the refusal of unknown values."""

import json
import re
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import (
    CHART,
    EXTERNAL_SERVERS,
    arguments,
    documents,
    environment,
    get_object,
    helm,
    helm_programs,
    slug,
)

from comment_monitor.core import config

SCHEMA: Final = json.loads((CHART / "values.schema.json").read_text())
# The chart's value and the program's variable.
VARIABLES: Final = {
    "batchSize": "COMMENT_BATCH_SIZE",
    "dedupCacheTTL": "COMMENT_DEDUP_CACHE_TTL",
    "processingTimeout": "COMMENT_PROCESSING_TIMEOUT",
    "maxRetries": "COMMENT_MAX_RETRIES",
    "backoffMultiplier": "COMMENT_BACKOFF_MULTIPLIER",
    "queueCapacity": "COMMENT_QUEUE_CAPACITY",
    "retentionDays": "COMMENT_RETENTION_DAYS",
}
# The values of the deployment guide for the two environments.
GUIDE: Final[dict[str, dict[str, Any]]] = {
    "values-dev.yaml": {
        "enabled": True, "batchSize": 5, "dedupCacheTTL": 1800, "processingTimeout": 15, "rateLimitPerMinute": 50,
        "alerts.queueBacklogThreshold": 100,
    },
    "values-prod.yaml": {
        "enabled": True, "batchSize": 25, "dedupCacheTTL": 7200, "processingTimeout": 45, "rateLimitPerMinute": 200,
        "alerts.queueBacklogThreshold": 1000, "networkPolicy.enabled": True, "rbac.enabled": True,
    },
}  # fmt: skip
RESOURCES: Final = {
    "values-dev.yaml": {
        "requests": {"memory": "512Mi", "cpu": "200m"}, "limits": {"memory": "1Gi", "cpu": "1000m"},
    },
    "values-prod.yaml": {
        "requests": {"memory": "768Mi", "cpu": "300m"}, "limits": {"memory": "2Gi", "cpu": "1500m"},
    },
}  # fmt: skip
SCALING: Final = {
    "values-dev.yaml": {"enabled": False, "minReplicas": 1, "maxReplicas": 5},
    "values-prod.yaml": {"enabled": True, "minReplicas": 2, "maxReplicas": 10, "customMetrics": {"enabled": True}},
}

PROXIES: Final = "COMMENT_TRUSTED_PROXIES"


def refusal(*switches: str, program: str) -> str:
    """Helm's error message for these switches."""
    words = [word for switch in switches for word in ("--set", switch)]
    result = helm("template", "x", str(CHART), *arguments(None, EXTERNAL_SERVERS), *words, program=program)
    assert result.returncode != 0
    return result.stderr


WRONG: Final = (
    "orchestrator.commentMonitoring.batchSize=4",
    "orchestrator.commentMonitoring.batchSize=26",
    "orchestrator.commentMonitoring.dedupCacheTTL=7201",
    "orchestrator.commentMonitoring.processingTimeout=14",
    "orchestrator.commentMonitoring.rateLimitPerMinute=49",
    "orchestrator.commentMonitoring.rateLimitPerMinute=201",
    "orchestrator.commentMonitoring.alerts.queueBacklogThreshold=99",
    "orchestrator.commentMonitoring.batchsize=10",
    "orchestrator.commentMonitoring.settings.COMMENT_UNKNOWN=1",
    "orchestrator.commentMonitoring.trustedProxies={everybody}",
    "orchestrator.autoscaling.mode=both",
    "orchestrator.autoscaling.customMetrics.averageValue=76",
    "orchestrator.resources.limits.memory=lots",
    "orchestrator.service.type=Public",
    "logLevel=LOUD",
    "unknown=1",
    "postgres.password=a/b@c",
    "cleanup.schedule=weekly",
)


def name_of(switch: str) -> str:
    return switch.partition("=")[0].rsplit(".", 1)[-1]


@pytest.mark.parametrize("switch", WRONG, ids=slug)
def test_a_wrong_value_is_refused_and_named(switch: str) -> None:
    assert name_of(switch) in refusal(switch, program=helm_programs()[-1])


def test_both_helm_majors_name_every_wrong_value() -> None:
    """Each major has its own schema library; a message lists every wrong value, and of equal names the last is set."""
    for program in helm_programs():
        message = refusal(*WRONG, program=program)
        assert [switch for switch in WRONG if name_of(switch) not in message] == []


@pytest.mark.parametrize("program", helm_programs())
def test_the_image_can_be_pinned_by_digest(program: str) -> None:
    tag = f"0.1.0@sha256:{'a' * 64}"
    result = helm(
        "template", "x", str(CHART), *arguments(None, {**EXTERNAL_SERVERS, "image.tag": tag}), program=program
    )
    assert f"image: comment-monitor:{tag}\n" in result.stdout
    for wrong in (tag[:-1], f"@sha256:{'a' * 64}", "0.1.0@sha512:ab"):
        assert "tag" in refusal(f"image.tag={wrong}", program=program)


@pytest.mark.parametrize("server", ["postgres", "rabbitmq"])
def test_a_missing_server_is_named_with_both_remedies(server: str) -> None:
    message = refusal(f"{server}.existingSecret=", program=helm_programs()[-1])
    assert f"{server}.existingSecret" in message
    assert f"{server}.enabled=true" in message


@pytest.mark.parametrize("server", ["postgres", "redis", "rabbitmq"])
def test_a_bundled_server_needs_a_password(server: str) -> None:
    message = refusal(f"{server}.enabled=true", f"{server}.existingSecret=", program=helm_programs()[-1])
    assert f"{server}.password is needed" in message


@pytest.mark.parametrize("part", ["orchestrator", "worker"])
@pytest.mark.parametrize("mode", ["hpa", "keda"])
def test_an_autoscaler_with_crossed_bounds_is_refused_by_name(part: str, mode: str) -> None:
    """The API server would refuse it only in the middle of an installation."""
    bounds = ("--set", f"{part}.autoscaling.minReplicas=7", "--set", f"{part}.autoscaling.maxReplicas=6")
    production = ("--values", str(CHART / "values-prod.yaml"), "--set", f"{part}.autoscaling.mode={mode}")
    result = helm("template", "x", str(CHART), *production, *bounds, program=helm_programs()[-1])
    assert result.returncode
    assert f"{part}.autoscaling: minReplicas 7 is more than maxReplicas 6" in result.stderr


def test_trusted_proxies_become_a_setting_that_the_program_accepts() -> None:
    proxies = "orchestrator.commentMonitoring.trustedProxies={10.0.0.0/8,192.0.2.9,fd00::/8}"
    for switches, count in (([], 0), (["--set", proxies], 3)):
        result = helm("template", "x", str(CHART), *arguments(None, EXTERNAL_SERVERS), *switches)
        found = [resource for resource in documents(result.stdout) if resource["kind"] == "Deployment"]
        (value,) = {environment(resource["spec"]["template"]["spec"])[PROXIES]["value"] for resource in found}
        assert len(config.networks(config.load({PROXIES: value}).trusted_proxies)) == count


def test_an_empty_list_of_platforms_allows_no_platform() -> None:
    """A rule without peers would open the port to every address."""
    switches = ("--set-json", "orchestrator.commentMonitoring.networkPolicy.platforms=[]")
    production = ("--values", str(CHART / "values-prod.yaml"))
    result = helm("template", "x", str(CHART), *production, *switches)
    rules = [
        resource
        for resource in documents(result.stdout)
        if resource["kind"] == "NetworkPolicy" and resource["metadata"]["name"] == "comment-worker"
    ]
    ports = [port["port"] for policy in rules for rule in policy["spec"].get("egress", []) for port in rule["ports"]]
    assert 443 not in ports
    assert 53 in ports


@pytest.mark.parametrize("name", VARIABLES)
def test_a_value_has_the_bounds_and_default_of_its_setting(name: str) -> None:
    monitoring = SCHEMA["properties"]["orchestrator"]["properties"]["commentMonitoring"]["properties"]
    (declared,) = [setting for setting in config.declared() if setting.variable == VARIABLES[name]]
    assert f"{monitoring[name]['minimum']} to {monitoring[name]['maximum']}" == declared.bounds
    plain = yaml.safe_load((CHART / "values.yaml").read_text())["orchestrator"]["commentMonitoring"]
    assert plain[name] == declared.default


def test_the_rate_limit_has_the_bounds_of_its_setting() -> None:
    monitoring = SCHEMA["properties"]["orchestrator"]["properties"]["commentMonitoring"]["properties"]
    zero, range_ = monitoring["rateLimitPerMinute"]["oneOf"]
    assert (zero, range_["minimum"], range_["maximum"]) == ({"const": 0}, config.RATE_LIMIT_MIN, 200)


@pytest.mark.parametrize("file", GUIDE)
def test_the_values_files_have_the_values_of_the_guide(file: str) -> None:
    orchestrator = yaml.safe_load((CHART / file).read_text())["orchestrator"]
    for path, wanted in GUIDE[file].items():
        found = orchestrator["commentMonitoring"]
        for key in path.split("."):
            found = found[key]
        assert found == wanted, path
    assert orchestrator["resources"] == RESOURCES[file]
    assert orchestrator["autoscaling"] == SCALING[file]


@pytest.mark.parametrize(("case", "file"), [("dev", "values-dev.yaml"), ("prod", "values-prod.yaml")])
def test_the_resources_of_the_guide_reach_the_pods(case: str, file: str) -> None:
    (container,) = get_object(case, "Deployment", "orchestrator")["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == RESOURCES[file]


def test_values_whose_name_does_not_explain_them_have_a_description() -> None:
    text = (CHART / "values.yaml").read_text()
    for name in ("drainDelay", "batchSize", "backlogPerReplica", "existingSecret", "crds", "fail"):
        assert re.search(rf"# -- .*\n\s*{name}:", text), name


def test_the_schema_refuses_unknown_values_at_every_level() -> None:
    """`helm lint` checks the opposite: every value of values.yaml is in the schema."""

    def open_objects(node: Any, path: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        here = [path] if "properties" in node and node.get("additionalProperties") is not False else []
        return here + [found for key, inner in node.items() for found in open_objects(inner, f"{path}/{key}")]

    assert open_objects(SCHEMA, "") == []
