"""The commands and examples of docs/deployment.md: values of the chart, existing files, options of kubectl."""

import json
import re
import shlex
import subprocess
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import CHART, get_object, helm, objects, pods, slug, tool
from tests.conftest import project_root

PAGE: Final = (project_root() / "docs" / "deployment.md").read_text()
FOUND: Final = re.findall(r"^ *```bash\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
BLOCKS: Final = [block.replace("\\\n", " ") for block in FOUND]
LINES: Final = [line.strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
HELM_COMMANDS: Final = [
    line for line in LINES if line.startswith("helm") and "./chart" in line and "--install prom" not in line
]


def test_the_page_has_commands() -> None:
    assert len(HELM_COMMANDS) >= 4


@pytest.mark.parametrize("line", [line for line in HELM_COMMANDS if "prometheus-adapter" not in line], ids=slug)
def test_the_chart_renders_with_the_values_of_a_command(line: str) -> None:
    """`helm template` needs no cluster."""
    words = shlex.split(line)
    options = {"--values", "--set", "--set-string"}
    values = [word for at, word in enumerate(words) if word in options or words[at - 1] in options]
    result = helm(
        "template", "threads-agent", *(str(CHART) if word == "./chart" else word for word in ["./chart", *values])
    )
    assert result.returncode == 0, result.stderr


def test_every_value_set_on_the_page_is_accepted() -> None:
    for option, pair in re.findall(r"(--set(?:-string)?) ([\w.]+=[\w.:/-]+)", PAGE):
        result = helm("template", "x", str(CHART), "--values", str(CHART / "values-prod.yaml"), option, pair)
        assert result.returncode == 0, (pair, result.stderr)


def test_every_file_named_on_the_page_exists() -> None:
    for line in LINES:
        for word in shlex.split(line, comments=True) if line.count("'") % 2 == 0 and line.count('"') % 2 == 0 else []:
            if word.startswith(("./", "scripts/", "chart/")):
                assert (project_root() / word).exists(), word
    for target in re.findall(r"\]\((?!http)([^)#]+)", PAGE):
        assert (project_root() / "docs" / target).exists(), target


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("kubectl")], ids=slug)
def test_kubectl_has_the_command_and_its_options(line: str) -> None:
    """`kubectl COMMAND --help` lists the options."""
    words = shlex.split(line.partition("|")[0].partition(" -- ")[0]) if line.count('"') % 2 == 0 else line.split()[:5]
    command = [words[1], *([words[2]] if words[1] in {"set", "top"} else words[2:4] if words[1] == "create" else [])]
    result = helm(*command, "--help", program="kubectl")
    assert result.returncode == 0
    for option in [word.partition("=")[0] for word in words if word.startswith("--")]:
        assert f"{option}=" in result.stdout or f"{option} " in result.stdout, option
    assert tool("kubectl")


def scraping() -> dict[str, Any]:
    """The example configuration of a Prometheus without the operator."""
    (block,) = re.findall(r"^```yaml\n(scrape_configs:\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(block)
    return found


def found_by(config: dict[str, Any], folder: Path, pods: list[dict[str, str]]) -> list[dict[str, str]]:
    """The labels of the targets that Prometheus would scrape, if Kubernetes had these pods."""
    (job,) = config["scrape_configs"]
    discovered = [{"targets": [f"10.0.0.{at}:9090"], "labels": {f"__meta_kubernetes_{name}": value for name, value in
             labels.items()}} for at, labels in enumerate(pods)]  # fmt: skip
    instead = {name: value for name, value in job.items() if name != "kubernetes_sd_configs"} | {
        "static_configs": discovered
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump({"scrape_configs": [instead]}))
    words = [tool("promtool"), "check", "service-discovery", "--timeout", "2s", str(file), job["job_name"]]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    kept = [target.get("labels") or {} for target in json.loads(result.stdout)]
    # The order of promtool is not fixed.
    return sorted(({name: value for name, value in labels.items() if name != "instance" and not name.startswith("__")}
                   for labels in kept if labels), key=itemgetter("job"))  # fmt: skip


@pytest.mark.parametrize("case", ["prod-monitored", "all-bundled"])
def test_a_prometheus_without_the_operator_scrapes_the_right_pods(case: str, tmp_path: Path) -> None:
    """The example selects the metrics ports among every port of every pod."""
    ports = [
        {"namespace": "comments", "pod_name": f"{owner}-0", "pod_label_app": labels.get("app", ""),
         "pod_container_port_name": port["name"]}
        for owner, labels, spec in pods(case) for container in spec["containers"] for port in container.get("ports", [])
    ]  # fmt: skip
    # The tests' promtool is built without Kubernetes, so this part is compared and the rest is run.
    (job,) = scraping()["scrape_configs"]
    assert job["kubernetes_sd_configs"] == [{"role": "pod", "namespaces": {"names": ["comments"]}}]
    assert found_by(scraping(), tmp_path, ports) == [
        {"job": name, "namespace": "comments", "pod": f"Deployment/{name}-0"}
        for name in ("comment-worker", "orchestrator")
    ]


def routing() -> dict[str, Any]:
    """The example configuration of Alertmanager."""
    (block,) = re.findall(r"^```yaml\n(route:\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(block)
    return found


def rules() -> list[dict[str, Any]]:
    groups = get_object("prod-monitored", "PrometheusRule", "orchestrator")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_routes_of_the_page_match_alerts_and_receivers() -> None:
    """Every matcher names a label of the alerts, and matches at least one alert."""
    example = routing()
    (route,) = example["route"]["routes"]
    (inhibition,) = example["inhibit_rules"]
    matchers = [*route["matchers"], *route["routes"][0]["matchers"], *inhibition["source_matchers"],
                *inhibition["target_matchers"]]  # fmt: skip
    for matcher in matchers:
        label, regular, value = re.fullmatch(r'(\w+)=(~?)"([^"]+)"', matcher).groups()  # type: ignore[union-attr]
        if label == "namespace":
            continue
        pattern = value if regular else re.escape(value)
        candidates = [rule["alert"] if label == "alertname" else rule["labels"][label] for rule in rules()]
        assert any(re.fullmatch(pattern, candidate) for candidate in candidates), matcher
    named = {route["receiver"], example["route"]["receiver"], route["routes"][0]["receiver"]}
    assert named == {receiver["name"] for receiver in example["receivers"]}


def test_the_page_names_every_monitoring_object_and_counts_the_alerts() -> None:
    assert f"{len(rules())} alerts" in PAGE
    section = PAGE[PAGE.index("## Monitoring") : PAGE.index("## Scaling and tuning")]
    for prometheus_rule in objects("all-bundled", "ServiceMonitor", "PrometheusRule"):
        assert prometheus_rule["metadata"]["name"] in section
    assert get_object("all-bundled", "ConfigMap", "comment-monitoring-dashboard")["metadata"]["name"] in section
    (endpoint,) = get_object("all-bundled", "ServiceMonitor", "rabbitmq")["spec"]["endpoints"]
    query = "&".join(f"family={family}" for family in endpoint["params"]["family"])
    assert f"{endpoint['path']}?{query}" in section


def test_the_page_states_how_many_requests_of_its_loop_are_refused() -> None:
    """The loop sends more requests than the limit of values-dev.yaml allows."""
    limit = yaml.safe_load((CHART / "values-dev.yaml").read_text())["orchestrator"]["commentMonitoring"][
        "rateLimitPerMinute"
    ]
    (block,) = [block for block in BLOCKS if "for i in" in block]
    (count,) = re.findall(r"\{1\.\.(\d+)\}", block)
    body = json.loads(re.search(r"-d '(.*)' &", block)[1].replace("'$i'", "1"))  # type: ignore[index]
    assert {"id", "text", "author"} <= set(body["comments"][0])
    text = PAGE[PAGE.index("for i in") :][:1200]
    assert f"{int(count) - limit} of these {count} requests answer `429`" in text
    assert "--set orchestrator.commentMonitoring.rateLimitPerMinute=0" in text
