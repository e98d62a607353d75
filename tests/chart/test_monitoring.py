"""Monitoring objects of the chart: the dashboard, celery-exporter, and RabbitMQ's plugin."""

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
from tests.chart.conftest import (
    CASES,
    CHART,
    EXTERNAL_SERVERS,
    environment,
    get_object,
    helm,
    helm_programs,
    objects,
    settings,
)
from tests.support.messages import channel
from tests.support.rabbitmq import RabbitMQ, free_port, server_script
from tests.support.up import until

from comment_monitor.messaging.celery_app import QUEUE_NAME

FILE: Final = CHART / "files" / "dashboards" / "comment-monitoring.json"
MONITORING: Final = ("celery-exporter", "rabbitmq")


def rendered(template: str, switches: dict[str, str], program: str = "helm") -> dict[str, Any]:
    """The object of a template; empty if the template is not rendered."""
    words = [
        word
        for name, value in {**EXTERNAL_SERVERS, **switches}.items()
        for word in ("--set-string" if "labels" in name else "--set", f"{name}={value}")
    ]
    result = helm("template", "x", str(CHART), *words, program=program)
    assert result.returncode == 0, result.stderr
    marker = f"# Source: threads-agent/templates/{template}\n"
    found = [document for document in re.split(r"^---$", result.stdout, flags=re.MULTILINE) if marker in document]
    return yaml.safe_load(found[0]) if found else {}


def dashboard(switches: dict[str, str]) -> Any:
    """The dashboard that Grafana reads from the ConfigMap."""
    return json.loads(rendered("dashboard-configmap.yaml", switches)["data"]["comment-monitoring.json"])


def test_the_dashboard_differs_from_its_file_only_in_the_runbooks_address() -> None:
    """The legends of the file have braces, which Helm must not interpret."""
    assert "{{" in FILE.read_text()
    source = json.loads(FILE.read_text())
    assert dashboard({}) == source
    address = "https://wiki.example.org/runbooks"
    changed = dashboard({"orchestrator.commentMonitoring.alerts.runbooks": address})
    (variable,) = [variable for variable in changed["templating"]["list"] if variable["name"] == "runbooks"]
    assert variable["query"] == address
    (original,) = [variable for variable in source["templating"]["list"] if variable["name"] == "runbooks"]
    variable["query"] = original["query"]
    assert changed == source


@pytest.mark.parametrize("program", helm_programs())
def test_the_labels_for_grafanas_sidecar_can_be_changed(program: str) -> None:
    assert rendered("dashboard-configmap.yaml", {}, program)["metadata"]["labels"]["grafana_dashboard"] == "1"
    other = {"monitoring.dashboard.labels.look_here": "yes", "monitoring.dashboard.annotations.grafana_folder": "Ours"}
    found = rendered("dashboard-configmap.yaml", other, program)["metadata"]
    assert found["labels"]["look_here"] == "yes"
    assert found["annotations"] == {"grafana_folder": "Ours"}
    result = helm("template", "x", str(CHART), "--values", str(CHART / "values-dev.yaml"), "--set",
                "monitoring.dashboard.labels.grafana_dashboard=null", program=program)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "grafana_dashboard" not in result.stdout


def test_the_dashboard_can_be_switched_off() -> None:
    assert rendered("dashboard-configmap.yaml", {"monitoring.dashboard.enabled": "false"}) == {}


@pytest.mark.parametrize("case", CASES)
def test_workers_send_task_events_only_if_the_exporter_is_enabled(case: str) -> None:
    exporters = [
        deployment for deployment in objects(case, "Deployment") if deployment["metadata"]["name"] == "celery-exporter"
    ]
    events = settings(case)["CELERY_TASK_EVENTS"]
    assert events == ("true" if exporters else "false")


def test_task_events_can_be_enabled_without_the_exporter() -> None:
    pod = rendered("worker-deployment.yaml", {"worker.taskEvents": "true"})["spec"]["template"]["spec"]
    assert environment(pod)["CELERY_TASK_EVENTS"]["value"] == "true"
    assert rendered("celery-exporter-deployment.yaml", {"worker.taskEvents": "true"}) == {}


@pytest.mark.parametrize("case", ["all-external", "all-bundled"])
def test_the_exporter_uses_the_broker_and_queue_of_the_workers(case: str) -> None:
    def variables(name: str) -> dict[str, Any]:
        (container,) = get_object(case, "Deployment", name)["spec"]["template"]["spec"]["containers"]
        return {variable["name"]: variable for variable in container["env"]}

    exporter, worker = variables("celery-exporter"), variables("comment-worker")
    assert exporter["CE_BROKER_URL"]["valueFrom"] == worker["CELERY_BROKER_URL"]["valueFrom"]
    assert exporter["CE_QUEUES"]["value"] == QUEUE_NAME
    # At most one exporter at a time: each exporter counts every event.
    spec = get_object(case, "Deployment", "celery-exporter")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_third_party_images_are_pinned() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert re.fullmatch(r"\S+:\d+\.\d+\.\d+", values["celeryExporter"]["image"])


def test_the_rabbitmq_plugin_is_enabled_and_scraped_per_queue() -> None:
    config = get_object("all-bundled", "ConfigMap", "rabbitmq-config")["data"]
    assert config["enabled_plugins"].strip() == "[rabbitmq_prometheus]."
    # RabbitMQ 4.3 refuses the type of the exporter's event queue by default.
    assert "#{transient_nonexcl_queues => true}" in config["advanced.config"]
    spec = get_object("all-bundled", "StatefulSet", "rabbitmq")["spec"]["template"]["spec"]
    mounted = {
        container["subPath"]: container["mountPath"]
        for container in spec["containers"][0]["volumeMounts"]
        if "subPath" in container
    }
    assert set(mounted) == set(config)
    for name in ("enabled_plugins", "advanced.config"):
        assert mounted[name] == f"/etc/rabbitmq/{name}"
    (endpoint,) = get_object("all-bundled", "ServiceMonitor", "rabbitmq")["spec"]["endpoints"]
    assert (endpoint["path"], endpoint["port"]) == ("/metrics/detailed", "metrics")


@pytest.fixture
def scraped_port(tmp_path: Path) -> Iterator[tuple[RabbitMQ, int]]:
    """A RabbitMQ with the plugins of the chart, and the port of its metrics."""
    if not server_script():
        (pytest.fail if os.environ.get("REQUIRE_SERVICES") else pytest.skip)("rabbitmq-server is not on PATH")
    server, port = RabbitMQ(tmp_path), free_port()
    settings = get_object("all-bundled", "ConfigMap", "rabbitmq-config")["data"]
    (tmp_path / "plugins").write_text(settings["enabled_plugins"])
    # A RabbitMQ version without this feature must start with the setting too.
    (tmp_path / "advanced.config").write_text(settings["advanced.config"])
    with (tmp_path / "rabbitmq.conf").open("a") as file:
        file.write(f"prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {port}\n")
    server.start()
    try:
        yield server, port
    finally:
        server.stop()


def test_rabbitmq_exports_the_metrics_of_the_dashboard(scraped_port: tuple[RabbitMQ, int]) -> None:
    """It is scraped with the path and parameters of the ServiceMonitor, which compose uses too."""
    server, port = scraped_port
    with channel(server.url) as connected:
        connected.queue_declare(QUEUE_NAME, durable=True, auto_delete=False)
    (endpoint,) = get_object("all-bundled", "ServiceMonitor", "rabbitmq")["spec"]["endpoints"]
    url = f"http://127.0.0.1:{port}{endpoint['path']}"

    def exported() -> set[str]:
        text = httpx.get(url, params=endpoint["params"], timeout=60).text
        return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples
                if sample.labels.get("queue") == QUEUE_NAME}  # fmt: skip

    shown = set(re.findall(r"\brabbitmq_\w+", FILE.read_text()))
    assert shown
    # RabbitMQ updates the metrics of a queue every few seconds.
    until(lambda: {*shown, "rabbitmq_detailed_queue_consumers"} <= exported())


def test_rabbitmq_permits_the_event_queue_only_with_the_exporter() -> None:
    """RabbitMQ deprecates this type of queue, so it is permitted only if it is needed."""
    config = get_object("dev", "ConfigMap", "rabbitmq-config")["data"]
    assert set(config) == {"memory.conf", "enabled_plugins"}
    spec = get_object("dev", "StatefulSet", "rabbitmq")["spec"]["template"]["spec"]
    assert {
        container["subPath"] for container in spec["containers"][0]["volumeMounts"] if "subPath" in container
    } == set(config)


@pytest.mark.parametrize("name", MONITORING)
def test_every_monitor_has_the_labels_that_prometheus_selects(name: str) -> None:
    switches = {"monitoring.prometheus.crds": "true", "monitoring.prometheus.labels.release": "kps",
                "celeryExporter.enabled": "true", "rabbitmq.enabled": "true", "rabbitmq.password": "x"}  # fmt: skip
    assert rendered(f"{name}-servicemonitor.yaml", switches)["metadata"]["labels"]["release"] == "kps"
