"""What the chart brings beside its own metrics: the dashboard, celery-exporter, RabbitMQ's plugin."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.chart.conftest import CASES, CHART, OUTSIDE, environment, helm, helms, objects, settings, the
from tests.support.messages import channel
from tests.support.rabbitmq import RabbitMQ, free_port, server_script
from tests.support.up import until

from comment_monitor.messaging.celery_app import QUEUE_NAME

FILE: Final = CHART / "files" / "dashboards" / "comment-monitoring.json"
MONITORING: Final = ("celery-exporter", "rabbitmq")


def rendered(template: str, switches: dict[str, str], program: str = "helm") -> dict[str, Any]:
    """The one object of a template; none: nothing."""
    words = [word for name, value in {**OUTSIDE, **switches}.items() for word in ("--set-string" if "=" in name or
             "labels" in name else "--set", f"{name}={value}")]  # fmt: skip
    done = helm("template", "x", str(CHART), *words, program=program)
    assert done.returncode == 0, done.stderr
    marker = f"# Source: threads-agent/templates/{template}\n"
    found = [one for one in re.split(r"^---$", done.stdout, flags=re.MULTILINE) if marker in one]
    return yaml.safe_load(found[0]) if found else {}


def dashboard(switches: dict[str, str], program: str = "helm") -> Any:
    """As Grafana reads it from the ConfigMap."""
    return json.loads(rendered("dashboard-configmap.yaml", switches, program)["data"]["comment-monitoring.json"])


@pytest.mark.parametrize("program", helms())
def test_the_dashboard_is_the_file_but_for_where_its_runbooks_are(program: str) -> None:
    """Its legends have braces that Helm would take for its own."""
    assert "{{" in FILE.read_text()
    source = json.loads(FILE.read_text())
    assert dashboard({}, program) == source
    address = "https://wiki.example.org/runbooks"
    changed = dashboard({"orchestrator.commentMonitoring.alerts.runbooks": address}, program)
    (variable,) = [one for one in changed["templating"]["list"] if one["name"] == "runbooks"]
    assert variable["query"] == address
    (original,) = [one for one in source["templating"]["list"] if one["name"] == "runbooks"]
    variable["query"] = original["query"]
    assert changed == source


@pytest.mark.parametrize("program", helms())
def test_grafanas_sidecar_finds_the_dashboard_by_labels_that_can_be_others(program: str) -> None:
    assert rendered("dashboard-configmap.yaml", {}, program)["metadata"]["labels"]["grafana_dashboard"] == "1"
    other = {"monitoring.dashboard.labels.look_here": "yes", "monitoring.dashboard.annotations.grafana_folder": "Ours"}
    found = rendered("dashboard-configmap.yaml", other, program)["metadata"]
    assert found["labels"]["look_here"] == "yes"
    assert found["annotations"] == {"grafana_folder": "Ours"}
    done = helm("template", "x", str(CHART), "--values", str(CHART / "values-dev.yaml"), "--set",
                "monitoring.dashboard.labels.grafana_dashboard=null", program=program)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "grafana_dashboard" not in done.stdout


def test_without_the_switch_there_is_no_dashboard() -> None:
    assert rendered("dashboard-configmap.yaml", {"monitoring.dashboard.enabled": "false"}) == {}


@pytest.mark.parametrize("case", CASES)
def test_workers_tell_of_their_tasks_where_the_exporter_listens(case: str) -> None:
    exporters = [one for one in objects(case, "Deployment") if one["metadata"]["name"] == "celery-exporter"]
    events = settings(case)["CELERY_TASK_EVENTS"]
    assert events == ("true" if exporters else "false")


def test_workers_tell_of_their_tasks_to_an_exporter_of_ones_own() -> None:
    pod = rendered("worker-deployment.yaml", {"worker.taskEvents": "true"})["spec"]["template"]["spec"]
    assert environment(pod)["CELERY_TASK_EVENTS"]["value"] == "true"
    assert rendered("celery-exporter-deployment.yaml", {"worker.taskEvents": "true"}) == {}


@pytest.mark.parametrize("case", ["all-outside", "all-inside"])
def test_the_exporter_reads_the_workers_broker_and_queue(case: str) -> None:
    def variables(name: str) -> dict[str, Any]:
        (one,) = the(case, "Deployment", name)["spec"]["template"]["spec"]["containers"]
        return {variable["name"]: variable for variable in one["env"]}

    exporter, worker = variables("celery-exporter"), variables("comment-worker")
    assert exporter["CE_BROKER_URL"]["valueFrom"] == worker["CELERY_BROKER_URL"]["valueFrom"]
    assert exporter["CE_QUEUES"]["value"] == QUEUE_NAME
    # One at a time: each hears every event.
    spec = the(case, "Deployment", "celery-exporter")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_images_of_others_are_pinned() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert re.fullmatch(r"\S+:\d+\.\d+\.\d+", values["celeryExporter"]["image"])


def test_the_plugin_is_on_and_its_queues_are_scraped_one_by_one() -> None:
    config = the("all-inside", "ConfigMap", "rabbitmq-config")["data"]
    assert config["enabled_plugins"].strip() == "[rabbitmq_prometheus]."
    # The exporter's queue for events is of a kind that RabbitMQ 4.3 refuses unasked.
    assert "#{transient_nonexcl_queues => true}" in config["advanced.config"]
    spec = the("all-inside", "StatefulSet", "rabbitmq")["spec"]["template"]["spec"]
    mounted = {one["subPath"]: one["mountPath"] for one in spec["containers"][0]["volumeMounts"] if "subPath" in one}
    assert set(mounted) == set(config)
    for name in ("enabled_plugins", "advanced.config"):
        assert mounted[name] == f"/etc/rabbitmq/{name}"
    (endpoint,) = the("all-inside", "ServiceMonitor", "rabbitmq")["spec"]["endpoints"]
    assert (endpoint["path"], endpoint["port"]) == ("/metrics/detailed", "metrics")


@pytest.fixture
def scraped_port(tmp_path: Path) -> Iterator[tuple[RabbitMQ, int]]:
    """A RabbitMQ with the plugins of the chart, and where they listen."""
    if not server_script():
        (pytest.fail if os.environ.get("REQUIRE_SERVICES") else pytest.skip)("rabbitmq-server is not on PATH")
    server, port = RabbitMQ(tmp_path), free_port()
    settings = the("all-inside", "ConfigMap", "rabbitmq-config")["data"]
    (tmp_path / "plugins").write_text(settings["enabled_plugins"])
    # Also of a version that does not know what it permits.
    (tmp_path / "advanced.config").write_text(settings["advanced.config"])
    with (tmp_path / "rabbitmq.conf").open("a") as file:
        file.write(f"prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {port}\n")
    server.start()
    try:
        yield server, port
    finally:
        server.stop()


def test_rabbitmq_tells_what_the_dashboard_shows_of_it(scraped_port: tuple[RabbitMQ, int]) -> None:
    """Asked as the ServiceMonitor has it asked, and as compose has."""
    server, port = scraped_port
    with channel(server.url) as one:
        one.queue_declare(QUEUE_NAME, durable=True, auto_delete=False)
    (endpoint,) = the("all-inside", "ServiceMonitor", "rabbitmq")["spec"]["endpoints"]
    url = f"http://127.0.0.1:{port}{endpoint['path']}"

    def told() -> set[str]:
        text = httpx.get(url, params=endpoint["params"], timeout=60).text
        return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples
                if sample.labels.get("queue") == QUEUE_NAME}  # fmt: skip

    shown = set(re.findall(r"\brabbitmq_\w+", FILE.read_text()))
    assert shown
    # A queue tells of itself every few seconds.
    until(lambda: {*shown, "rabbitmq_detailed_queue_consumers"} <= told())


def test_a_rabbitmq_that_hears_no_exporter_is_not_told_of_its_queue() -> None:
    """What RabbitMQ refuses for good reasons it is asked for only where it is needed."""
    config = the("dev", "ConfigMap", "rabbitmq-config")["data"]
    assert set(config) == {"memory.conf", "enabled_plugins"}
    spec = the("dev", "StatefulSet", "rabbitmq")["spec"]["template"]["spec"]
    assert {one["subPath"] for one in spec["containers"][0]["volumeMounts"] if "subPath" in one} == set(config)


@pytest.mark.parametrize("name", MONITORING)
def test_the_labels_by_which_a_prometheus_finds_monitors_are_on_all_of_them(name: str) -> None:
    switches = {"monitoring.prometheus.crds": "true", "monitoring.prometheus.labels.release": "kps",
                "celeryExporter.enabled": "true", "rabbitmq.enabled": "true", "rabbitmq.password": "x"}  # fmt: skip
    assert rendered(f"{name}-servicemonitor.yaml", switches)["metadata"]["labels"]["release"] == "kps"
