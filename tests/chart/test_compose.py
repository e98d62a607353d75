"""compose.yaml and the files it mounts: Prometheus with its alerts, the exporters, and Grafana."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import CHART, get_object, tool
from tests.chart.test_dashboard import ALERTS, steps_of
from tests.conftest import project_root
from tests.support import dashboard

from comment_monitor.core import config
from comment_monitor.messaging.celery_app import QUEUE_NAME

ROOT: Final = project_root()
FOLDER: Final = ROOT / "deploy" / "compose"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: Final[dict[str, Any]] = COMPOSE["services"]
PROMETHEUS: Final[dict[str, Any]] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
JOBS: Final = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}
# Third-party services that only read.
OBSERVERS: Final = ("celery-exporter", "prometheus", "grafana")


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)


def mounts(service: str) -> dict[str, Path | None]:
    """The file or folder of the checkout at each path in the container; None: a volume."""
    found = {}
    for mount in SERVICES[service].get("volumes", []):
        source, target, *_ = mount.split(":")
        found[target] = (ROOT / source) if source.startswith("./") else None
    return found


def test_docker_compose_accepts_the_file() -> None:
    if not shutil.which("docker") or run("docker", "compose", "version").returncode:
        pytest.skip("docker compose is missing")
    result = run("docker", "compose", "config", "--quiet")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_mounted_files_exist_and_are_read_only(service: str) -> None:
    for mount in SERVICES[service].get("volumes", []):
        source, _, *mode = mount.split(":")
        if source.startswith("./"):
            assert (ROOT / source).exists(), source
            assert mode == ["ro"], mount
        else:
            assert source in COMPOSE["volumes"], source


def test_every_published_port_is_on_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_every_dependency_is_a_service() -> None:
    dependencies = {name for service in SERVICES.values() for name in service.get("depends_on", {})}
    assert dependencies <= SERVICES.keys()


@pytest.mark.parametrize("name", OBSERVERS)
def test_observers_have_no_privileges_and_a_pinned_version(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\S+:v?\d+\.\d+\.\d+", service["image"])


def test_prometheus_accepts_its_configuration_and_rules() -> None:
    result = run(tool("promtool"), "check", "config", "--lint-fatal", "deploy/compose/prometheus.yml")
    assert result.returncode == 0, result.stdout + result.stderr
    # In the container the rules are in the folder of the configuration, as in the checkout.
    mounted = mounts("prometheus")
    assert mounted["/etc/prometheus/prometheus.yml"] == FOLDER / "prometheus.yml"
    for name in PROMETHEUS["rule_files"]:
        assert mounted[f"/etc/prometheus/{name}"] == FOLDER / name


def test_the_rules_are_up_to_date() -> None:
    assert tool("helm")
    result = run(sys.executable, "scripts/generate-compose-rules", "--check")
    assert result.returncode == 0, result.stderr


def test_the_thresholds_of_rules_and_dashboard_are_equal() -> None:
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    thresholds = {rule["alert"]: float(rule["expr"].rpartition(">")[2]) for group in groups for rule in group["rules"]
              if " > " in rule["expr"]}  # fmt: skip
    shown = steps_of(dashboard.load())
    for place, (alert, _) in ALERTS.items():
        assert shown[place][-1]["value"] == thresholds[alert], place


def test_the_check_reports_changed_rules(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    for name in ("chart", "scripts", "deploy/compose"):
        shutil.copytree(ROOT / name, copy / name)
    (copy / ".tools" / "bin").mkdir(parents=True)
    (copy / ".tools" / "bin" / "helm").symlink_to(tool("helm"))
    rules = copy / "deploy" / "compose" / "rules.yml"
    rules.write_text(rules.read_text().replace("for: 5m", "for: 6m", 1))
    result = run(sys.executable, str(copy / "scripts" / "generate-compose-rules"), "--check")
    assert (result.returncode, result.stderr.count("make docs")) == (1, 1)


def test_every_target_is_a_service_with_the_labels_of_the_rules() -> None:
    rules = (FOLDER / "rules.yml").read_text()
    (namespace,) = set(re.findall(r'namespace="(\w+)"', rules))
    for job in JOBS.values():
        (static,) = job["static_configs"]
        (target,) = static["targets"]
        assert target.partition(":")[0] in SERVICES
        assert static["labels"].keys() == {"namespace", "pod"}
        assert static["labels"]["namespace"] == namespace
    # The alerts name these jobs.
    assert {"orchestrator", "comment-worker"} <= JOBS.keys()
    for name in re.findall(r'job=~?"([\w-]+)', rules):
        assert any(job.startswith(name) for job in JOBS), name


def test_rabbitmq_is_scraped_and_configured_as_in_the_chart() -> None:
    (endpoint,) = get_object("all-bundled", "ServiceMonitor", "rabbitmq")["spec"]["endpoints"]
    job = JOBS["rabbitmq"]
    assert (job["metrics_path"], job["params"]) == (endpoint["path"], endpoint["params"])
    settings = get_object("all-bundled", "ConfigMap", "rabbitmq-config")["data"]
    mounted = mounts("rabbitmq")
    for name in ("enabled_plugins", "advanced.config"):
        file = mounted[f"/etc/rabbitmq/{name}"]
        assert file
        lines = [line for line in file.read_text().splitlines() if not line.startswith("%")]
        assert lines == settings[name].splitlines()


def test_the_exporter_matches_the_chart_and_receives_task_events() -> None:
    exporter, worker = SERVICES["celery-exporter"], SERVICES["worker"]
    assert exporter["image"] == yaml.safe_load((CHART / "values.yaml").read_text())["celeryExporter"]["image"]
    assert exporter["environment"]["CE_BROKER_URL"] == worker["environment"]["CELERY_BROKER_URL"]
    assert exporter["environment"]["CE_QUEUES"] == QUEUE_NAME
    (deployed,) = get_object("all-bundled", "Deployment", "celery-exporter")["spec"]["template"]["spec"]["containers"]
    assert exporter["environment"].keys() == {variable["name"] for variable in deployed["env"]}
    # By default it logs the variables of each exception, including the broker's password.
    assert exporter["environment"]["LOGURU_DIAGNOSE"] == "NO"
    assert {"name": "LOGURU_DIAGNOSE", "value": "NO"} in deployed["env"]
    own = {name: value for name, value in worker["environment"].items() if "${" not in value}
    assert config.load(own).task_events


def test_grafana_queries_prometheus_and_loads_the_dashboard_of_the_chart() -> None:
    mounted = mounts("grafana")
    folder = mounted["/etc/grafana/provisioning/datasources"]
    providers = mounted["/etc/grafana/provisioning/dashboards"]
    assert folder
    assert providers
    (source,) = yaml.safe_load((folder / "prometheus.yml").read_text())["datasources"]
    # A fixed uid keeps links to the data source valid.
    assert (source["type"], source["access"], source["uid"]) == ("prometheus", "proxy", "prometheus")
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"] is True
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((providers / "files.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert mounted[provider["options"]["path"]] == CHART / "files" / "dashboards"


def test_anonymous_grafana_users_can_only_view() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD")
    home = Path(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    folder = mounts("grafana")[str(home.parent)]
    assert folder
    assert (folder / home.name).exists()
