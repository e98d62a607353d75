"""The Grafana dashboard by the rules of grafana/dashboard-linter, and against what it shows: metrics, alerts, runbooks.

Left out of the linter's rules: variables `job` and `instance`. Here a pod is what one chooses, and a namespace.
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
from tests.chart.conftest import CHART, arguments, helm, helms, matches, objects, the, tool
from tests.conftest import project_root
from tests.support import dashboard
from tests.support.dashboard import Expression

from comment_monitor.observability import cgroup, metrics

SHOWN: Final = dashboard.load()
PANELS: Final = [panel for panels in dashboard.groups(SHOWN).values() for panel in panels]
EXPRESSIONS: Final = list(dashboard.expressions(SHOWN))
[FIRING] = SHOWN["annotations"]["list"]
# The deployment guide's.
GROUPS: Final = (
    "Processing Overview", "Latency Metrics", "Throughput Analysis", "Database Performance", "Resource Utilization",
    "Celery Queue Metrics", "Cache Performance", "Error Breakdown",
)  # fmt: skip
# Of what is shown here: seconds, bytes, shares of one, counts, operations and requests a second, plain numbers.
UNITS: Final = {"s", "bytes", "percentunit", "cps", "ops", "reqps", "short"}
# What Prometheus adds to each series, and a cluster's service discovery.
EVERYWHERE: Final = {"job", "instance", "namespace", "pod", "le"}
CELERY: Final = {"name", "hostname", "queue_name"}
RABBITMQ: Final = {"vhost", "queue"}
# Metrics of others, with their labels: Prometheus itself, its client for Python, the celery-exporter
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
# Where a panel shows what an alert goes by, red begins where the alert does: alert, and the chart's value.
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
    # Yellow, as its alert is no more than a notice.
    ("Error Breakdown", "Refused, by reason"): ("CommentsRefused", "errorRateThreshold"),
}
# Red where there is one too many, none, or half of them: no value of the chart says so.
FIXED: Final = {
    ("Processing Overview", "Database usable"), ("Processing Overview", "Migrated"),
    ("Processing Overview", "Violated invariants"),
    ("Processing Overview", "Failed batches"),
    ("Resource Utilization", "Pods that answer"), ("Celery Queue Metrics", "Workers that answer"),
}  # fmt: skip
# Within the schema's bounds.
OTHERS: Final = {
    "queueBacklogThreshold": 640, "latencyThreshold": 1.5, "errorRateThreshold": 0.0125,
    "databaseLatencyThreshold": 0.3, "resourceThreshold": 0.7, "analysisAgeThreshold": 77, "resendRateThreshold": 3,
    "cleanupAgeThreshold": 2_000_000,
}  # fmt: skip
Steps = list[dict[str, Any]]


def steps_of(shown: dict[str, Any]) -> dict[tuple[str, str], Steps]:
    """Of each panel, by group and title, from where on it has which colour."""
    return {(group, panel["title"]): panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
            for group, panels in dashboard.groups(shown).items() for panel in panels}  # fmt: skip


def names_of(panel: dict[str, Any]) -> str:
    return f"{panel['id']} {panel['title']}"


def ours() -> Iterator[tuple[str, set[str]]]:
    """The name of each series that this project tells, and its labels."""
    for one in metrics.ALL:
        [family] = one.describe()
        labels = set(one._labelnames)
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
        for ending in endings.get(family.type, ("",)):
            yield family.name.removesuffix("_total") + ending, labels
    for name, _, _ in cgroup.DECLARED:
        yield name, set()


def without_texts(expression: str) -> str:
    """Without what stands in quotation marks."""
    return re.sub(r'"[^"]*"', '""', expression)


def metrics_in(expression: str) -> set[str]:
    """Every metric has its braces, so that no panel shows what was not chosen."""
    return set(re.findall(r"\b([A-Za-z_]\w*)\{", expression))


def labels_in(expression: str) -> set[str]:
    """Those that are chosen by, and those that are grouped by."""
    grouped = re.findall(r"\bby \(([^)]*)\)", expression)
    chosen = re.findall(r"[{,](\w+)(?==|!)", without_texts(expression))
    return {label.strip() for group in grouped for label in group.split(",")} | set(chosen)


def test_it_is_what_make_docs_writes() -> None:
    script = project_root() / "scripts" / "generate-dashboard"
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_make_docs_writes_it_and_its_check_sees_a_change(tmp_path: Path) -> None:
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


def test_it_has_the_guides_groups_and_a_fixed_address() -> None:
    assert tuple(dashboard.groups(SHOWN)) == GROUPS
    assert all(dashboard.groups(SHOWN).values())
    assert SHOWN["uid"] == "comment-monitoring"
    assert SHOWN["editable"] is False
    # Grafana 12's; `id` and `version` are the database's.
    assert SHOWN["schemaVersion"] == 42
    assert not {"id", "version", "rows", "dashboard", "__inputs"} & SHOWN.keys()


def test_its_variables_are_those_that_are_used() -> None:
    variables = {one["name"]: one for one in SHOWN["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", dashboard.FILE.read_text())) - {"__rate_interval", "__range", "__all"}
    assert used == set(variables) == {"datasource", "namespace", "pod", "broker", "runbooks"}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("namespace", "pod", "broker"):
        assert variables[name]["datasource"]["uid"] == "${datasource}"
        # Also what has no such label, as on a machine without Kubernetes.
        assert variables[name]["allValue"] == ".*"
        assert metrics_in(variables[name]["definition"]) <= {*STANDARD, *dict(ours())}


def test_the_chart_can_put_its_address_of_the_runbooks_in() -> None:
    (constant,) = [one for one in SHOWN["templating"]["list"] if one["name"] == "runbooks"]
    assert (constant["type"], constant["query"]) == ("constant", "docs/runbooks")
    assert dashboard.FILE.read_text().count("docs/runbooks") == 1
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["orchestrator"]["commentMonitoring"]["alerts"]["runbooks"] == "docs/runbooks"


@pytest.mark.parametrize("panel", PANELS, ids=names_of)
def test_a_panel_says_what_it_is(panel: dict[str, Any]) -> None:
    assert panel["type"] in {"timeseries", "stat", "bargauge"}
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    references = [one["refId"] for one in panel["targets"]]
    assert len(set(references)) == len(references)
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert target["range"] is not target["instant"]
        assert target["legendFormat"]
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    values = [one["value"] for one in steps]
    assert values[0] is None
    assert values[1:] == sorted(values[1:])


@pytest.mark.parametrize("panel", PANELS, ids=names_of)
def test_a_panel_that_may_turn_red_leads_to_what_to_do(panel: dict[str, Any]) -> None:
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


def test_red_is_where_an_alert_is() -> None:
    assert len(steps_of(SHOWN)) == len(PANELS)
    red = {place for place, steps in steps_of(SHOWN).items() if "red" in {one["color"] for one in steps}}
    assert red == {place for place in ALERTS if place[1] != "Refused, by reason"} | FIXED


def test_a_colour_without_an_alert_is_said_to_have_none() -> None:
    for group, panels in dashboard.groups(SHOWN).items():
        for panel in panels:
            coloured = len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) > 1
            without = coloured and (group, panel["title"]) not in {*ALERTS, *FIXED}
            assert without == ("o alert uses" in panel["description"]), panel["title"]


@pytest.mark.parametrize("program", helms())
@pytest.mark.parametrize("case", ["dev", "prod", "others"])
def test_red_begins_where_the_alert_does(case: str, program: str) -> None:
    """As both are rendered from the same values."""
    values = "values-dev.yaml" if case == "dev" else "values-prod.yaml"
    words = ["template", "x", str(CHART), *arguments(values, {"monitoring.prometheus.crds": "true"})]
    if case == "others":
        words += ["--set-json", f"orchestrator.commentMonitoring.alerts={json.dumps(OTHERS)}"]
    done = helm(*words, program=program)
    assert done.returncode == 0, done.stderr
    found = [one for one in yaml.safe_load_all(done.stdout) if one]
    (rule,) = [one for one in found if one["kind"] == "PrometheusRule"]
    (rendered,) = [one for one in found if one["metadata"]["name"] == "comment-monitoring-dashboard"]
    begins = {one["alert"]: float(one["expr"].rpartition(">")[2]) for group in rule["spec"]["groups"]
              for one in group["rules"] if " > " in one["expr"]}  # fmt: skip
    shown = steps_of(json.loads(rendered["data"]["comment-monitoring.json"]))
    for place, (alert, _) in ALERTS.items():
        colour = "yellow" if alert == "CommentsRefused" else "red"
        assert shown[place][-1] == {"color": colour, "value": begins[alert]}, place
    for place, steps in shown.items():
        limits = [one["value"] for one in steps[1:]]
        assert limits == sorted(set(limits)), place
        assert place in ALERTS or steps == steps_of(SHOWN)[place]


def test_ours_and_senders_are_told_apart_as_the_alerts_do() -> None:
    groups = the("prod-monitored", "PrometheusRule", "orchestrator")["spec"]["groups"]
    split = re.compile(r'reason[!=]~"all-[^"]+"')
    by_alerts = {found for group in groups for rule in group["rules"] for found in split.findall(rule["expr"])}
    shown = {(one.panel, found) for one in EXPRESSIONS for found in split.findall(one.text)}
    assert len(by_alerts) == 2
    assert {found for _, found in shown} == by_alerts
    assert {panel for panel, _ in shown} == {"Errors", "Server errors, by reason", "Refused, by reason"}


def test_the_files_limits_are_the_charts_defaults() -> None:
    limits = yaml.safe_load((CHART / "values.yaml").read_text())["orchestrator"]["commentMonitoring"]["alerts"]
    for place, (_, name) in ALERTS.items():
        assert steps_of(SHOWN)[place][-1]["value"] == limits[name], place
    assert {name for _, name in ALERTS.values()} == set(OTHERS) == limits.keys() - {"enabled", "runbooks"}


@pytest.mark.parametrize("case", ["prod-monitored", "all-inside", "all-outside"])
def test_the_jobs_are_those_that_the_chart_makes(case: str) -> None:
    """A job is named after the Service by which its pods are found."""
    (pods,) = [one.text for one in EXPRESSIONS if one.panel == "Pods that answer"]
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


def test_numbers_are_unique_and_panels_do_not_overlap() -> None:
    numbers = [one["id"] for one in SHOWN["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in SHOWN["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
        assert columns.stop <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    # Each line is filled to its end.
    rows = max(row for _, row in taken) + 1
    assert len(taken) == 24 * rows


@pytest.mark.parametrize("one", EXPRESSIONS, ids=str)
def test_an_expression_asks_for_what_there_is(one: Expression) -> None:
    known = {**dict(ours()), **STANDARD}
    found = metrics_in(one.text)
    assert found
    assert found <= known.keys()
    assert labels_in(one.text) <= EVERYWHERE.union(*(known[name] for name in found))
    # A metric without braces would show what was not chosen.
    bare = re.findall(r"\b(?:comment|celery|rabbitmq|process)_\w+(?![\w{])", without_texts(one.text))
    assert not bare
    assert "namespace" in labels_in(one.text)


@pytest.mark.parametrize("one", EXPRESSIONS, ids=str)
def test_counters_are_shown_as_rates_over_grafanas_interval(one: Expression) -> None:
    counters = [name for name in metrics_in(one.text) if name.endswith(("_total", "_bucket", "_count", "_sum"))]
    for name in counters:
        inside = re.findall(rf"(\w+)\({name}\{{[^}}]*\}}(\[[^\]]*\])?", one.text)
        assert len(inside) == len(re.findall(rf"\b{name}\{{", one.text)), "a counter by itself"
        assert set(inside) <= {("rate", "[$__rate_interval]"), ("increase", "[$__range]")}
    assert one.text.count("rate(") + one.text.count("increase(") == len(re.findall(r"\[\$__", one.text))


@pytest.mark.parametrize("one", EXPRESSIONS, ids=str)
def test_a_legend_names_labels_that_are_left(one: Expression) -> None:
    named = set(re.findall(r"\{\{(\w+)\}\}", one.legend))
    grouped = re.findall(r"\bby \(([^)]*)\)", one.text)
    left = {label.strip() for group in grouped for label in group.split(",")} - {"le"}
    assert named <= left if re.match(r"(sum|max|min|sort|histogram)", one.text) else named <= EVERYWHERE
    assert named or len([other for other in EXPRESSIONS if other[:2] == one[:2] and other.legend == one.legend]) == 1


def test_prometheus_can_read_every_expression(tmp_path: Path) -> None:
    texts = [*(one.text for one in EXPRESSIONS), FIRING["expr"]]
    asked = [dashboard.filled(text, step=15, scrape=15, seconds=3600) for text in texts]
    rules = [{"record": f"dashboard:expression:{number}", "expr": text} for number, text in enumerate(asked)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([tool("promtool"), "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(texts)} rules found" in done.stdout


def test_what_is_said_of_alerts_is_asked_of_ours() -> None:
    assert FIRING["datasource"]["uid"] == "${datasource}"
    assert metrics_in(FIRING["expr"]) == {"ALERTS"}
    assert labels_in(FIRING["expr"]) <= EVERYWHERE | STANDARD["ALERTS"]
    template = (CHART / "templates" / "prometheusrule.yaml").read_text()
    assert all(name.startswith("Comment") for name in re.findall(r"alert: (\w+)", template))
