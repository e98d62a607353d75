"""The Grafana dashboard: the rules of grafana/dashboard-linter, and the metrics, alerts and runbooks it refers to.

One rule of the linter is not applied: this dashboard has the variables `namespace` and `pod` instead of `job` and
`instance`.
"""

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import (
    CHART,
    arguments,
    documents,
    get_object,
    helm,
    helm_programs,
    matches,
    objects,
    slug,
    tool,
)
from tests.conftest import project_root
from tests.support import dashboard
from tests.support.dashboard import Expression

from comment_monitor.observability import cgroup, metrics

SHOWN: Final = dashboard.load()
PANELS: Final = [panel for panels in dashboard.groups(SHOWN).values() for panel in panels]
EXPRESSIONS: Final = list(dashboard.expressions(SHOWN))
[FIRING] = SHOWN["annotations"]["list"]
# The groups of the deployment guide.
GROUPS: Final = (
    "Processing Overview", "Latency Metrics", "Throughput Analysis", "Database Performance", "Resource Utilization",
    "Celery Queue Metrics", "Cache Performance", "Error Breakdown",
)  # fmt: skip
# Labels that Prometheus or the service discovery adds to each series.
COMMON_LABELS: Final = {"job", "instance", "namespace", "pod", "le"}
CELERY: Final = {"name", "hostname", "queue_name"}
RABBITMQ: Final = {"vhost", "queue"}
# Metrics of other programs, with their labels: Prometheus itself, its client for Python, the celery-exporter
# (danihodovic/celery-exporter, src/exporter.py), RabbitMQ (rabbitmq_prometheus, metrics-detailed.md).
STANDARD: Final[dict[str, set[str]]] = {
    "up": set(),
    "ALERTS": {"alertname", "alertstate", "severity"},
    "process_resident_memory_bytes": set(),
    "process_start_time_seconds": set(),
    "celery_queue_length": {"queue_name"},
    "celery_task_received_total": CELERY,
    "celery_task_succeeded_total": CELERY,
    "celery_task_failed_total": CELERY | {"exception"},
    "celery_task_runtime_bucket": CELERY,
    "rabbitmq_detailed_queue_messages_ready": RABBITMQ,
    "rabbitmq_detailed_queue_messages_unacked": RABBITMQ,
}
# Panels that show the expression of an alert: their last threshold is the alert's. The alert, and the chart's value.
ALERTS: Final = {
    ("Processing Overview", "Queue length"): ("CommentQueueBacklog", "queueBacklogThreshold"),
    ("Processing Overview", "Queue length, by pod"): ("CommentQueueBacklog", "queueBacklogThreshold"),
    ("Processing Overview", "Oldest waiting"): ("CommentAnalysisStalled", "analysisAgeThreshold"),
    ("Processing Overview", "Age of the recent index"): ("CommentCleanupNotDone", "cleanupAgeThreshold"),
    ("Latency Metrics", "Batch, from arrival to commit"): ("CommentProcessingHighLatency", "latencyThreshold"),
    ("Database Performance", "Query time, 95th percentile"): ("CommentDatabaseSlowQueries", "databaseLatencyThreshold"),
    ("Resource Utilization", "CPU, share of the limit"): ("CommentMonitoringHighCPU", "resourceThreshold"),
    ("Resource Utilization", "Memory, share of the limit"): ("CommentMonitoringHighMemory", "resourceThreshold"),
    ("Celery Queue Metrics", "Oldest waiting"): ("CommentAnalysisStalled", "analysisAgeThreshold"),
    ("Celery Queue Metrics", "Batches sent again"): ("CommentAnalysisSentAgain", "resendRateThreshold"),
    ("Error Breakdown", "Server errors, by reason"): ("CommentProcessingErrors", "errorRateThreshold"),
    ("Error Breakdown", "Refused, by reason"): ("CommentsRefused", "errorRateThreshold"),
}
# Other thresholds, within the bounds of the schema.
OTHERS: Final = {
    "queueBacklogThreshold": 640, "latencyThreshold": 1.5, "errorRateThreshold": 0.0125,
    "databaseLatencyThreshold": 0.3, "resourceThreshold": 0.7, "analysisAgeThreshold": 77, "resendRateThreshold": 3,
    "cleanupAgeThreshold": 2_000_000,
}  # fmt: skip
Steps = list[dict[str, Any]]


def steps_of(shown: dict[str, Any]) -> dict[tuple[str, str], Steps]:
    """The threshold steps of each panel, by group and title."""
    return {(group, panel["title"]): panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
            for group, panels in dashboard.groups(shown).items() for panel in panels}  # fmt: skip


def panel_id(panel: dict[str, Any]) -> str:
    return slug(f"{panel['id']}-{panel['title']}")


def exported() -> Iterator[tuple[str, set[str]]]:
    """The name of each series that this project exports, and its labels."""
    for metric in metrics.ALL:
        [family] = metric.describe()
        labels = set(metric._labelnames)
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
        for ending in endings.get(family.type, ("",)):
            yield family.name.removesuffix("_total") + ending, labels
    for name, _, _ in cgroup.DECLARED:
        yield name, set()


def without_texts(expression: str) -> str:
    """The expression without its quoted texts."""
    return re.sub(r'"[^"]*"', '""', expression)


def metrics_in(expression: str) -> set[str]:
    """The metrics of an expression. Each has braces, because each must select the chosen namespace."""
    return set(re.findall(r"\b([A-Za-z_]\w*)\{", expression))


def labels_in(expression: str) -> set[str]:
    """The labels that an expression selects or groups by."""
    grouped = re.findall(r"\bby \(([^)]*)\)", expression)
    selected = re.findall(r"[{,](\w+)(?==|!)", without_texts(expression))
    return {label.strip() for group in grouped for label in group.split(",")} | set(selected)


def test_the_dashboard_is_up_to_date() -> None:
    script = project_root() / "scripts" / "generate-dashboard"
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_make_docs_writes_the_dashboard_and_its_check_detects_changes(tmp_path: Path) -> None:
    assert "scripts/generate-dashboard\n" in (project_root() / "Makefile").read_text()
    shutil.copytree(project_root() / "scripts", tmp_path / "scripts")
    file = tmp_path / "chart" / "files" / "dashboards" / "comment-monitoring.json"
    script = [sys.executable, str(tmp_path / "scripts" / "generate-dashboard")]
    subprocess.run(script, check=True)
    assert file.read_text() == dashboard.FILE.read_text()
    thresholds = tmp_path / "chart" / "files" / "dashboard-thresholds.json"
    for changed, old, new in ((thresholds, "latency", "laten"), (file, "Hit rate", "Hits")):
        changed.write_text(changed.read_text().replace(old, new, 1))
        run = subprocess.run([*script, "--check"], capture_output=True, text=True, check=False)
        assert (run.returncode, run.stderr) == (1, f"{changed.name} is out of date: run `make docs`.\n")


def test_the_dashboard_has_the_groups_of_the_guide_and_a_fixed_uid() -> None:
    assert tuple(dashboard.groups(SHOWN)) == GROUPS
    assert all(dashboard.groups(SHOWN).values())
    assert SHOWN["uid"] == "comment-monitoring"
    assert SHOWN["editable"] is False
    # The schema of Grafana 12. Grafana's database assigns `id` and `version`.
    assert SHOWN["schemaVersion"] == 42
    assert not {"id", "version", "rows", "dashboard", "__inputs"} & SHOWN.keys()


def test_every_variable_is_used_and_every_used_variable_is_defined() -> None:
    variables = {variable["name"]: variable for variable in SHOWN["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", dashboard.FILE.read_text())) - {"__rate_interval", "__range", "__all"}
    assert used == set(variables) == {"datasource", "namespace", "pod", "broker", "runbooks"}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("namespace", "pod", "broker"):
        assert variables[name]["datasource"]["uid"] == "${datasource}"
        # This value also matches series without the label, as on a machine without Kubernetes.
        assert variables[name]["allValue"] == ".*"
        assert metrics_in(variables[name]["definition"]) <= {*STANDARD, *dict(exported())}


def test_the_chart_can_replace_the_address_of_the_runbooks() -> None:
    (constant,) = [variable for variable in SHOWN["templating"]["list"] if variable["name"] == "runbooks"]
    assert (constant["type"], constant["query"]) == ("constant", "docs/runbooks")
    assert dashboard.FILE.read_text().count("docs/runbooks") == 1
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["orchestrator"]["commentMonitoring"]["alerts"]["runbooks"] == "docs/runbooks"


@pytest.mark.parametrize("panel", PANELS, ids=panel_id)
def test_a_panel_has_a_known_type_the_datasource_and_valid_targets(panel: dict[str, Any]) -> None:
    assert panel["type"] in {"timeseries", "stat", "bargauge"}
    assert panel["title"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references)
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert target["range"] is not target["instant"]
        assert target["legendFormat"]
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    values = [step["value"] for step in steps]
    assert values[0] is None
    assert values[1:] == sorted(values[1:])


@pytest.mark.parametrize("panel", PANELS, ids=panel_id)
def test_links_of_panels_lead_to_existing_runbooks(panel: dict[str, Any]) -> None:
    links = panel.get("links", [])
    for link in links:
        (page,) = re.findall(r"^\$\{runbooks\}/(\w+)\.md$", link["url"])
        assert (project_root() / "docs" / "runbooks" / f"{page}.md").exists(), page
        assert link["title"] == f"Runbook: {page}"
        assert link["targetBlank"]
    if len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) > 1:
        assert links


def test_every_runbook_has_a_panel() -> None:
    pages = {file.stem for file in (project_root() / "docs" / "runbooks").glob("*.md")} - {"README"}
    linked = set(re.findall(r"\$\{runbooks\}/(\w+)\.md", dashboard.FILE.read_text()))
    assert linked - {"README"} == pages


@pytest.mark.parametrize(
    ("case", "program"),
    [
        ("dev", helm_programs()[-1]),
        ("prod", helm_programs()[-1]),
        *(("others", program) for program in helm_programs()),
    ],
)
def test_the_thresholds_of_panels_and_alerts_are_equal(case: str, program: str) -> None:
    """Both are rendered from the same values."""
    values = "values-dev.yaml" if case == "dev" else "values-prod.yaml"
    words = ["template", "x", str(CHART), *arguments(values, {"monitoring.prometheus.crds": "true"})]
    if case == "others":
        words += ["--set-json", f"orchestrator.commentMonitoring.alerts={json.dumps(OTHERS)}"]
    result = helm(*words, program=program)
    assert result.returncode == 0, result.stderr
    found = documents(result.stdout)
    (rule,) = [resource for resource in found if resource["kind"] == "PrometheusRule"]
    (rendered,) = [resource for resource in found if resource["metadata"]["name"] == "comment-monitoring-dashboard"]
    thresholds = {rule["alert"]: float(rule["expr"].rpartition(">")[2]) for group in rule["spec"]["groups"]
              for rule in group["rules"] if " > " in rule["expr"]}  # fmt: skip
    shown = steps_of(json.loads(rendered["data"]["comment-monitoring.json"]))
    for place, (alert, _) in ALERTS.items():
        assert shown[place][-1]["value"] == thresholds[alert], place
    for place, steps in shown.items():
        limits = [step["value"] for step in steps[1:]]
        assert limits == sorted(set(limits)), place
        assert place in ALERTS or steps == steps_of(SHOWN)[place]


def test_panels_split_reasons_of_errors_as_the_alerts_do() -> None:
    groups = get_object("prod-monitored", "PrometheusRule", "orchestrator")["spec"]["groups"]
    split = re.compile(r'reason[!=]~"all-[^"]+"')
    in_alerts = {found for group in groups for rule in group["rules"] for found in split.findall(rule["expr"])}
    shown = {(expression.panel, found) for expression in EXPRESSIONS for found in split.findall(expression.text)}
    assert len(in_alerts) == 2
    assert {found for _, found in shown} == in_alerts
    assert {panel for panel, _ in shown} == {"Errors", "Server errors, by reason", "Refused, by reason"}


def test_the_thresholds_of_the_file_are_the_defaults_of_the_chart() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())["orchestrator"]["commentMonitoring"]["alerts"]
    for place, (_, name) in ALERTS.items():
        assert steps_of(SHOWN)[place][-1]["value"] == defaults[name], place
    assert {name for _, name in ALERTS.values()} == set(OTHERS) == defaults.keys() - {"enabled", "runbooks"}


@pytest.mark.parametrize("case", ["prod-monitored", "all-bundled", "all-external"])
def test_the_panels_use_the_jobs_of_the_chart(case: str) -> None:
    """The name of a job is the name of the Service that selects its pods."""
    (pods,) = [expression.text for expression in EXPRESSIONS if expression.panel == "Pods that answer"]
    (jobs,) = re.findall(r'job=~"([^"]*)"', pods)
    found = {
        service["metadata"]["name"]
        for monitor in objects(case, "ServiceMonitor")
        if monitor["metadata"]["name"] in {"orchestrator", "comment-worker"}
        for service in objects(case, "Service")
        if matches(service["metadata"]["labels"], monitor["spec"]["selector"])
        and {"metrics"} <= {port["name"] for port in service["spec"]["ports"]}
    }
    assert len(found) == 2
    assert all(re.fullmatch(jobs, name) for name in found), found


def test_panel_ids_are_unique_and_panels_do_not_overlap() -> None:
    ids = [panel["id"] for panel in SHOWN["panels"]]
    assert len(set(ids)) == len(ids)
    occupied: set[tuple[int, int]] = set()
    for panel in SHOWN["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
        assert columns.stop <= 24
        assert not cells & occupied, panel["title"]
        occupied |= cells


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=lambda expression: slug(str(expression)))
def test_an_expression_uses_existing_metrics_and_labels(expression: Expression) -> None:
    known = {**dict(exported()), **STANDARD}
    found = metrics_in(expression.text)
    assert found
    assert found <= known.keys()
    assert labels_in(expression.text) <= COMMON_LABELS.union(*(known[name] for name in found))
    # A metric without braces would show series of every namespace.
    bare = re.findall(r"\b(?:comment|celery|rabbitmq|process)_\w+(?![\w{])", without_texts(expression.text))
    assert not bare
    assert "namespace" in labels_in(expression.text)


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=lambda expression: slug(str(expression)))
def test_counters_are_shown_as_rates_or_increases(expression: Expression) -> None:
    counters = [name for name in metrics_in(expression.text) if name.endswith(("_total", "_bucket", "_count", "_sum"))]
    for name in counters:
        inside = re.findall(rf"(\w+)\({name}\{{[^}}]*\}}(\[[^\]]*\])?", expression.text)
        assert len(inside) == len(re.findall(rf"\b{name}\{{", expression.text)), "a counter without rate or increase"
        assert set(inside) <= {("rate", "[$__rate_interval]"), ("increase", "[$__range]")}
    assert expression.text.count("rate(") + expression.text.count("increase(") == len(
        re.findall(r"\[\$__", expression.text)
    )


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=lambda expression: slug(str(expression)))
def test_a_legend_uses_labels_of_the_result(expression: Expression) -> None:
    named = set(re.findall(r"\{\{(\w+)\}\}", expression.legend))
    grouped = re.findall(r"\bby \(([^)]*)\)", expression.text)
    result = {label.strip() for group in grouped for label in group.split(",")} - {"le"}
    assert named <= result if re.match(r"(sum|max|min|sort|histogram)", expression.text) else named <= COMMON_LABELS
    assert (
        named
        or len([other for other in EXPRESSIONS if other[:2] == expression[:2] and other.legend == expression.legend])
        == 1
    )


def test_prometheus_accepts_every_expression(tmp_path: Path) -> None:
    texts = [*(expression.text for expression in EXPRESSIONS), FIRING["expr"]]
    queries = [dashboard.filled(text, step=15, scrape=15, seconds=3600) for text in texts]
    rules = [{"record": f"dashboard:expression:{number}", "expr": text} for number, text in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    result = subprocess.run([tool("promtool"), "check", "rules", file], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"SUCCESS: {len(texts)} rules found" in result.stdout


def test_annotations_show_only_alerts_of_the_chart() -> None:
    assert FIRING["datasource"]["uid"] == "${datasource}"
    assert metrics_in(FIRING["expr"]) == {"ALERTS"}
    assert labels_in(FIRING["expr"]) <= COMMON_LABELS | STANDARD["ALERTS"]
    template = (CHART / "templates" / "prometheusrule.yaml").read_text()
    assert all(name.startswith("Comment") for name in re.findall(r"alert: (\w+)", template))
