"""compose.yaml and what it mounts: Prometheus, its alerts, the exporters, and Grafana with the chart's dashboard."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import CHART, the, tool
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
JOBS: Final = {one["job_name"]: one for one in PROMETHEUS["scrape_configs"]}
# Of others, and only to look on.
WATCHING: Final = ("celery-exporter", "prometheus", "grafana")


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)


def mounts(service: str) -> dict[str, Path | None]:
    """Where in its container each file or folder of the checkout is; None: a volume."""
    found = {}
    for one in SERVICES[service].get("volumes", []):
        source, target, *_ = one.split(":")
        found[target] = (ROOT / source) if source.startswith("./") else None
    return found


def test_compose_takes_it() -> None:
    if not shutil.which("docker") or run("docker", "compose", "version").returncode:
        pytest.skip("docker compose is not there")
    done = run("docker", "compose", "config", "--quiet")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_mounted_is_there_and_can_not_be_changed(service: str) -> None:
    for one in SERVICES[service].get("volumes", []):
        source, _, *mode = one.split(":")
        if source.startswith("./"):
            assert (ROOT / source).exists(), source
            assert mode == ["ro"], one
        else:
            assert source in COMPOSE["volumes"], source


def test_nothing_is_reached_from_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_no_service_waits_for_one_that_is_not_there() -> None:
    wanted = {name for service in SERVICES.values() for name in service.get("depends_on", {})}
    assert wanted <= SERVICES.keys()


@pytest.mark.parametrize("name", WATCHING)
def test_what_only_looks_on_may_nothing_and_is_of_one_version(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\S+:v?\d+\.\d+\.\d+", service["image"])


def test_prometheus_takes_its_configuration_and_its_rules() -> None:
    done = run(tool("promtool"), "check", "config", "--lint-fatal", "deploy/compose/prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    # In the container the rules lie beside the configuration, as they do here.
    there = mounts("prometheus")
    assert there["/etc/prometheus/prometheus.yml"] == FOLDER / "prometheus.yml"
    for name in PROMETHEUS["rule_files"]:
        assert there[f"/etc/prometheus/{name}"] == FOLDER / name


def test_the_rules_are_what_make_docs_writes() -> None:
    assert tool("helm")
    done = run(sys.executable, "scripts/generate-compose-rules", "--check")
    assert done.returncode == 0, done.stderr


def test_the_rules_thresholds_are_the_limits_of_the_dashboard_that_is_mounted() -> None:
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    begins = {rule["alert"]: float(rule["expr"].rpartition(">")[2]) for group in groups for rule in group["rules"]
              if " > " in rule["expr"]}  # fmt: skip
    shown = steps_of(dashboard.load())
    for place, (alert, _) in ALERTS.items():
        assert shown[place][-1]["value"] == begins[alert], place


def test_rules_that_are_not_the_charts_are_told(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    for name in ("chart", "scripts", "deploy/compose"):
        shutil.copytree(ROOT / name, copy / name)
    (copy / ".tools" / "bin").mkdir(parents=True)
    (copy / ".tools" / "bin" / "helm").symlink_to(tool("helm"))
    rules = copy / "deploy" / "compose" / "rules.yml"
    rules.write_text(rules.read_text().replace("for: 5m", "for: 6m", 1))
    done = run(sys.executable, str(copy / "scripts" / "generate-compose-rules"), "--check")
    assert (done.returncode, done.stderr.count("make docs")) == (1, 1)


def test_every_target_is_a_service_with_the_labels_that_rules_and_dashboard_go_by() -> None:
    rules = (FOLDER / "rules.yml").read_text()
    (namespace,) = set(re.findall(r'namespace="(\w+)"', rules))
    for job in JOBS.values():
        (static,) = job["static_configs"]
        (target,) = static["targets"]
        assert target.partition(":")[0] in SERVICES
        assert static["labels"].keys() == {"namespace", "pod"}
        assert static["labels"]["namespace"] == namespace
    # Alerts name these.
    assert {"orchestrator", "comment-worker"} <= JOBS.keys()
    for name in re.findall(r'job=~?"([\w-]+)', rules):
        assert any(job.startswith(name) for job in JOBS), name


def test_rabbitmq_is_asked_as_in_a_cluster() -> None:
    (endpoint,) = the("all-inside", "ServiceMonitor", "rabbitmq")["spec"]["endpoints"]
    job = JOBS["rabbitmq"]
    assert (job["metrics_path"], job["params"]) == (endpoint["path"], endpoint["params"])
    settings = the("all-inside", "ConfigMap", "rabbitmq-config")["data"]
    there = mounts("rabbitmq")
    for name in ("enabled_plugins", "advanced.config"):
        file = there[f"/etc/rabbitmq/{name}"]
        assert file
        lines = [line for line in file.read_text().splitlines() if not line.startswith("%")]
        assert lines == settings[name].splitlines()


def test_the_exporter_is_the_charts_and_workers_tell_it_of_their_tasks() -> None:
    exporter, worker = SERVICES["celery-exporter"], SERVICES["worker"]
    assert exporter["image"] == yaml.safe_load((CHART / "values.yaml").read_text())["celeryExporter"]["image"]
    assert exporter["environment"]["CE_BROKER_URL"] == worker["environment"]["CELERY_BROKER_URL"]
    assert exporter["environment"]["CE_QUEUES"] == QUEUE_NAME
    (deployed,) = the("all-inside", "Deployment", "celery-exporter")["spec"]["template"]["spec"]["containers"]
    assert exporter["environment"].keys() == {one["name"] for one in deployed["env"]}
    # Else it logs the variables of each exception, and the broker's password with them.
    assert exporter["environment"]["LOGURU_DIAGNOSE"] == "NO"
    assert {"name": "LOGURU_DIAGNOSE", "value": "NO"} in deployed["env"]
    own = {name: value for name, value in worker["environment"].items() if "${" not in value}
    assert config.load(own).task_events


def test_grafana_asks_prometheus_and_shows_the_charts_dashboards() -> None:
    there = mounts("grafana")
    folder = there["/etc/grafana/provisioning/datasources"]
    providers = there["/etc/grafana/provisioning/dashboards"]
    assert folder
    assert providers
    (source,) = yaml.safe_load((folder / "prometheus.yml").read_text())["datasources"]
    # What a source needs is `name`, `type` and `access`; the uid stays the same, so that links to it do.
    assert (source["type"], source["access"], source["uid"]) == ("prometheus", "proxy", "prometheus")
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"] is True
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((providers / "files.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert there[provider["options"]["path"]] == CHART / "files" / "dashboards"


def test_who_looks_at_grafana_can_change_nothing() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD")
    home = Path(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    folder = mounts("grafana")[str(home.parent)]
    assert folder
    assert (folder / home.name).exists()
