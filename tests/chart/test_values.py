"""The values: the guide's under its names, and none that is unknown or out of bounds."""

import json
import re
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import CHART, OUTSIDE, environment, helm, helms, the

from comment_monitor.core import config

SCHEMA: Final = json.loads((CHART / "values.schema.json").read_text())
# Ours and the variable behind it.
VARIABLES: Final = {
    "batchSize": "COMMENT_BATCH_SIZE",
    "dedupCacheTTL": "COMMENT_DEDUP_CACHE_TTL",
    "processingTimeout": "COMMENT_PROCESSING_TIMEOUT",
    "maxRetries": "COMMENT_MAX_RETRIES",
    "backoffMultiplier": "COMMENT_BACKOFF_MULTIPLIER",
    "queueCapacity": "COMMENT_QUEUE_CAPACITY",
    "retentionDays": "COMMENT_RETENTION_DAYS",
}
# What the deployment guide says of the two environments.
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


def refused(*switches: str, program: str) -> str:
    """What Helm says of these switches."""
    sets = [
        word for one in (*(f"{name}={value}" for name, value in OUTSIDE.items()), *switches) for word in ("--set", one)
    ]
    done = helm("template", "x", str(CHART), *sets, program=program)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize("program", helms())
@pytest.mark.parametrize(
    "switch",
    [
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
    ],
)
def test_a_wrong_value_is_refused_and_named(program: str, switch: str) -> None:
    path = switch.partition("=")[0]
    named = path.rsplit(".", 1)[-1]
    assert named in refused(switch, program=program)


@pytest.mark.parametrize("program", helms())
def test_the_image_can_be_pinned_by_its_digest(program: str) -> None:
    tag = f"0.1.0@sha256:{'a' * 64}"
    sets = [word for name, value in {**OUTSIDE, "image.tag": tag}.items() for word in ("--set", f"{name}={value}")]
    done = helm("template", "x", str(CHART), *sets, program=program)
    assert f"image: comment-monitor:{tag}\n" in done.stdout
    for wrong in (tag[:-1], f"@sha256:{'a' * 64}", "0.1.0@sha512:ab"):
        assert "tag" in refused(f"image.tag={wrong}", program=program)


@pytest.mark.parametrize("program", helms())
@pytest.mark.parametrize("server", ["postgres", "rabbitmq"])
def test_a_server_that_is_nowhere_is_named_with_what_to_do(program: str, server: str) -> None:
    words = refused(f"{server}.existingSecret=", program=program)
    assert f"{server}.existingSecret" in words
    assert f"{server}.enabled=true" in words


@pytest.mark.parametrize("server", ["postgres", "redis", "rabbitmq"])
def test_a_server_in_the_chart_needs_a_password(server: str) -> None:
    words = refused(f"{server}.enabled=true", f"{server}.existingSecret=", program=helms()[-1])
    assert f"{server}.password is needed" in words


@pytest.mark.parametrize("program", helms())
@pytest.mark.parametrize("part", ["orchestrator", "worker"])
@pytest.mark.parametrize("mode", ["hpa", "keda"])
def test_an_autoscaler_whose_bounds_cross_is_named(program: str, part: str, mode: str) -> None:
    """The API server would say so in the middle of an installation."""
    bounds = ("--set", f"{part}.autoscaling.minReplicas=7", "--set", f"{part}.autoscaling.maxReplicas=6")
    production = ("--values", str(CHART / "values-prod.yaml"), "--set", f"{part}.autoscaling.mode={mode}")
    done = helm("template", "x", str(CHART), *production, *bounds, program=program)
    assert done.returncode
    assert f"{part}.autoscaling: minReplicas 7 is more than maxReplicas 6" in done.stderr


@pytest.mark.parametrize("program", helms())
def test_the_trusted_proxies_are_one_setting_that_the_code_takes(program: str) -> None:
    given = "orchestrator.commentMonitoring.trustedProxies={10.0.0.0/8,192.0.2.9,fd00::/8}"
    sets = [word for name, value in OUTSIDE.items() for word in ("--set", f"{name}={value}")]
    for switches, count in (([], 0), (["--set", given], 3)):
        done = helm("template", "x", str(CHART), *sets, *switches, program=program)
        found = [one for one in yaml.safe_load_all(done.stdout) if one and one["kind"] == "Deployment"]
        (value,) = {environment(one["spec"]["template"]["spec"])[PROXIES]["value"] for one in found}
        assert len(config.networks(config.load({PROXIES: value}).trusted_proxies)) == count


def test_no_platforms_means_none() -> None:
    """A rule without peers would open the port to everybody."""
    switches = ("--set-json", "orchestrator.commentMonitoring.networkPolicy.platforms=[]")
    production = ("--values", str(CHART / "values-prod.yaml"))
    done = helm("template", "x", str(CHART), *production, *switches)
    rules = [
        one
        for one in yaml.safe_load_all(done.stdout)
        if one and one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "comment-worker"
    ]
    ports = [port["port"] for one in rules for rule in one["spec"].get("egress", []) for port in rule["ports"]]
    assert 443 not in ports
    assert 53 in ports


@pytest.mark.parametrize("name", VARIABLES)
def test_the_bounds_are_those_of_the_code(name: str) -> None:
    monitoring = SCHEMA["properties"]["orchestrator"]["properties"]["commentMonitoring"]["properties"]
    (declared,) = [one for one in config.declared() if one.variable == VARIABLES[name]]
    assert f"{monitoring[name]['minimum']} to {monitoring[name]['maximum']}" == declared.bounds
    plain = yaml.safe_load((CHART / "values.yaml").read_text())["orchestrator"]["commentMonitoring"]
    assert plain[name] == declared.default


def test_the_bounds_of_the_rate_limit_are_those_of_the_code() -> None:
    monitoring = SCHEMA["properties"]["orchestrator"]["properties"]["commentMonitoring"]["properties"]
    zero, some = monitoring["rateLimitPerMinute"]["oneOf"]
    assert (zero, some["minimum"], some["maximum"]) == ({"const": 0}, config.RATE_LIMIT_MIN, 200)


@pytest.mark.parametrize("file", GUIDE)
def test_the_guides_values_stand_under_its_names(file: str) -> None:
    orchestrator = yaml.safe_load((CHART / file).read_text())["orchestrator"]
    for path, wanted in GUIDE[file].items():
        found = orchestrator["commentMonitoring"]
        for key in path.split("."):
            found = found[key]
        assert found == wanted, path
    assert orchestrator["resources"] == RESOURCES[file]
    assert orchestrator["autoscaling"] == SCALING[file]


@pytest.mark.parametrize(("case", "file"), [("dev", "values-dev.yaml"), ("prod", "values-prod.yaml")])
def test_the_guides_resources_reach_the_pods(case: str, file: str) -> None:
    (container,) = the(case, "Deployment", "orchestrator")["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == RESOURCES[file]


def test_every_value_is_explained_or_its_name_says_it() -> None:
    """A value that only one can guess is worth a line."""
    text = (CHART / "values.yaml").read_text()
    for name in ("drainDelay", "batchSize", "backlogPerReplica", "existingSecret", "crds", "fail"):
        assert re.search(rf"# -- .*\n\s*{name}:", text), name


def test_the_schema_knows_every_value_and_no_other() -> None:
    """An unknown value is refused at every level, and every one in values.yaml is known (lint has seen to that)."""

    def open_objects(node: Any, path: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        here = [path] if "properties" in node and node.get("additionalProperties") is not False else []
        return here + [one for key, inner in node.items() for one in open_objects(inner, f"{path}/{key}")]

    assert open_objects(SCHEMA, "") == []
