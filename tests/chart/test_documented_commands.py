"""What docs/deployment.md tells to type: values that the chart takes, files that are there, options that exist."""

import json
import re
import shlex
import subprocess
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import CHART, helm, objects, pods, the, tool
from tests.conftest import project_root

PAGE: Final = (project_root() / "docs" / "deployment.md").read_text()
FOUND: Final = re.findall(r"^ *```bash\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
BLOCKS: Final = [one.replace("\\\n", " ") for one in FOUND]
LINES: Final = [line.strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
OURS: Final = [line for line in LINES if line.startswith("helm") and "./chart" in line and "--install prom" not in line]


def test_the_page_has_commands() -> None:
    assert len(OURS) >= 4


@pytest.mark.parametrize("line", [line for line in OURS if "prometheus-adapter" not in line])
def test_the_chart_renders_with_what_is_typed(line: str) -> None:
    """As far as it can be without a cluster: the same values, rendered."""
    words = shlex.split(line)
    options = {"--values", "--set", "--set-string"}
    values = [word for at, word in enumerate(words) if word in options or words[at - 1] in options]
    done = helm("template", "threads-agent", *(str(CHART) if one == "./chart" else one for one in ["./chart", *values]))
    assert done.returncode == 0, done.stderr


def test_every_value_set_in_the_text_is_one_of_the_chart() -> None:
    for option, pair in re.findall(r"(--set(?:-string)?) ([\w.]+=[\w.:/-]+)", PAGE):
        done = helm("template", "x", str(CHART), "--values", str(CHART / "values-prod.yaml"), option, pair)
        assert done.returncode == 0, (pair, done.stderr)


def test_every_file_named_is_there() -> None:
    for line in LINES:
        for word in shlex.split(line, comments=True) if line.count("'") % 2 == 0 and line.count('"') % 2 == 0 else []:
            if word.startswith(("./", "scripts/", "chart/")):
                assert (project_root() / word).exists(), word
    for target in re.findall(r"\]\((?!http)([^)#]+)", PAGE):
        assert (project_root() / "docs" / target).exists(), target


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("kubectl")])
def test_kubectl_knows_the_command_and_its_options(line: str) -> None:
    """Asked for its help, it says so, or that it does not."""
    words = shlex.split(line.partition("|")[0].partition(" -- ")[0]) if line.count('"') % 2 == 0 else line.split()[:5]
    command = [words[1], *([words[2]] if words[1] in {"set", "top"} else words[2:4] if words[1] == "create" else [])]
    done = helm(*command, "--help", program="kubectl")
    assert done.returncode == 0
    for option in [word.partition("=")[0] for word in words if word.startswith("--")]:
        assert f"{option}=" in done.stdout or f"{option} " in done.stdout, option
    assert tool("kubectl")


def scraping() -> dict[str, Any]:
    """The example for a Prometheus without the operator."""
    (block,) = re.findall(r"^```yaml\n(scrape_configs:\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(block)
    return found


def found_by(config: dict[str, Any], folder: Path, pods: list[dict[str, str]]) -> list[dict[str, str]]:
    """The targets that Prometheus would scrape, if Kubernetes told it of these; the labels that they keep."""
    (job,) = config["scrape_configs"]
    told = [{"targets": [f"10.0.0.{at}:9090"], "labels": {f"__meta_kubernetes_{name}": value for name, value in
             one.items()}} for at, one in enumerate(pods)]  # fmt: skip
    instead = {name: value for name, value in job.items() if name != "kubernetes_sd_configs"} | {"static_configs": told}
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump({"scrape_configs": [instead]}))
    words = [tool("promtool"), "check", "service-discovery", "--timeout", "2s", str(file), job["job_name"]]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    kept = [one.get("labels") or {} for one in json.loads(done.stdout)]
    # In no order of its own.
    return sorted(({name: value for name, value in one.items() if name != "instance" and not name.startswith("__")}
                   for one in kept if one), key=itemgetter("job"))  # fmt: skip


@pytest.mark.parametrize("case", ["prod-monitored", "all-inside"])
def test_a_prometheus_without_the_operator_finds_our_pods_with_our_labels(case: str, tmp_path: Path) -> None:
    """Every port of every pod of the chart, as Kubernetes tells of them."""
    ports = [
        {"namespace": "comments", "pod_name": f"{owner}-0", "pod_label_app": labels.get("app", ""),
         "pod_container_port_name": port["name"]}
        for owner, labels, spec in pods(case) for container in spec["containers"] for port in container.get("ports", [])
    ]  # fmt: skip
    # Our Prometheus is built without Kubernetes; the rest of the job it reads.
    (job,) = scraping()["scrape_configs"]
    assert job["kubernetes_sd_configs"] == [{"role": "pod", "namespaces": {"names": ["comments"]}}]
    assert found_by(scraping(), tmp_path, ports) == [
        {"job": name, "namespace": "comments", "pod": f"Deployment/{name}-0"}
        for name in ("comment-worker", "orchestrator")
    ]


def routing() -> dict[str, Any]:
    """The example for Alertmanager."""
    (block,) = re.findall(r"^```yaml\n(route:\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(block)
    return found


def rules() -> list[dict[str, Any]]:
    groups = the("prod-monitored", "PrometheusRule", "orchestrator")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_alerts_can_be_routed_as_the_page_says() -> None:
    """Every matcher is about a label that alerts have, and takes some of them but not the matchers' opposite."""
    example = routing()
    (ours,) = example["route"]["routes"]
    (inhibition,) = example["inhibit_rules"]
    matchers = [*ours["matchers"], *ours["routes"][0]["matchers"], *inhibition["source_matchers"],
                *inhibition["target_matchers"]]  # fmt: skip
    for one in matchers:
        label, regular, value = re.fullmatch(r'(\w+)=(~?)"([^"]+)"', one).groups()  # type: ignore[union-attr]
        if label == "namespace":
            continue
        pattern = value if regular else re.escape(value)
        told = [rule["alert"] if label == "alertname" else rule["labels"][label] for rule in rules()]
        assert any(re.fullmatch(pattern, one) for one in told), one
    named = {ours["receiver"], example["route"]["receiver"], ours["routes"][0]["receiver"]}
    assert named == {one["name"] for one in example["receivers"]}


def test_the_page_counts_the_alerts_and_names_what_is_made_for_monitoring() -> None:
    assert f"{len(rules())} alerts" in PAGE
    section = PAGE[PAGE.index("## Monitoring") : PAGE.index("## Scaling and tuning")]
    for one in objects("all-inside", "ServiceMonitor", "PrometheusRule"):
        assert one["metadata"]["name"] in section
    assert the("all-inside", "ConfigMap", "comment-monitoring-dashboard")["metadata"]["name"] in section
    (endpoint,) = the("all-inside", "ServiceMonitor", "rabbitmq")["spec"]["endpoints"]
    query = "&".join(f"family={one}" for one in endpoint["params"]["family"])
    assert f"{endpoint['path']}?{query}" in section


def test_beside_the_loop_of_many_requests_stands_how_many_are_refused_and_what_to_set() -> None:
    """The guide's loop, on development's values: more requests than its limit lets pass."""
    limit = yaml.safe_load((CHART / "values-dev.yaml").read_text())["orchestrator"]["commentMonitoring"][
        "rateLimitPerMinute"
    ]
    (block,) = [one for one in BLOCKS if "for i in" in one]
    (count,) = re.findall(r"\{1\.\.(\d+)\}", block)
    body = json.loads(re.search(r"-d '(.*)' &", block)[1].replace("'$i'", "1"))  # type: ignore[index]
    assert {"id", "text", "author"} <= set(body["comments"][0])
    beside = PAGE[PAGE.index("for i in") :][:1200]
    assert f"{int(count) - limit} of these {count} requests answer `429`" in beside
    assert "--set orchestrator.commentMonitoring.rateLimitPerMinute=0" in beside
