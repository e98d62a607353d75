"""The pages that alerts lead to: one each, with commands, expressions and names that are right."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import helm, objects, the, tool
from tests.conftest import project_root

from comment_monitor.cli import Commands
from comment_monitor.container import DECLARED
from comment_monitor.metrics import ALL

FOLDER: Final = project_root() / "docs" / "runbooks"
PAGES: Final = {path.stem: path.read_text() for path in FOLDER.glob("*.md") if path.stem != "README"}
CASE: Final = "all-outside"
# Made by the commands themselves.
OWN_JOBS: Final = {"cleanup-now"}


def blocks(text: str, language: str) -> list[str]:
    """Lines of the code blocks of a language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in found for line in block.splitlines()]


COMMANDS: Final = [(name, line) for name, text in PAGES.items() for line in blocks(text, "bash")]
EXPRESSIONS: Final = [(name, line) for name, text in PAGES.items() for line in blocks(text, "promql")]


def rules() -> list[dict[str, Any]]:
    groups = the("prod-monitored", "PrometheusRule", "orchestrator")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_each_alert_leads_to_its_page_and_each_page_to_its_alert() -> None:
    assert set(PAGES) == {rule["alert"] for rule in rules()}
    for rule in rules():
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
        assert (
            f"[{rule['alert']}]({rule['alert']}.md) | {rule['labels']['severity']} |"
            in (FOLDER / "README.md").read_text()
        )


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_it_means_and_what_to_do(name: str) -> None:
    headings = [line.removeprefix("## ") for line in PAGES[name].splitlines() if line.startswith("## ")]
    assert PAGES[name].startswith(f"# {name}\n")
    assert headings == ["Meaning", "Impact", "Diagnosis", "Mitigation"]
    for target in re.findall(r"\]\(([^)#]+)", PAGES[name]):
        assert (FOLDER / target).exists(), target


def test_the_pages_have_commands_and_expressions() -> None:
    assert len(COMMANDS) > 20
    assert len(EXPRESSIONS) > 10


@pytest.mark.parametrize(("name", "line"), COMMANDS)
def test_a_command_names_what_there_is(name: str, line: str) -> None:
    words = shlex.split(line.partition("|")[0])
    kinds = {"deployment": "Deployment", "cronjob": "CronJob", "job": "Job", "hpa": "HorizontalPodAutoscaler"}
    for word in words:
        kind, _, object_ = word.removeprefix("--from=").partition("/")
        if object_ and kind in kinds and object_ not in OWN_JOBS:
            assert the(CASE, kinds[kind], object_), (name, word)
    if words[:3] == ["kubectl", "get", "hpa"] and len(words) > 3:
        assert the(CASE, "HorizontalPodAutoscaler", words[3])
    labels = {one["metadata"]["labels"]["app"] for kind in kinds.values() for one in objects(CASE, kind)}
    for app in re.findall(r"app=([\w-]+)", line) + re.findall(r"app in \(([^)]+)\)", line):
        assert set(app.split(", ")) <= labels, (name, app)
    if "comment-monitor" in words:
        assert words[words.index("comment-monitor") + 1] in {one for one, _, _ in Commands.modules}


@pytest.mark.parametrize("command", sorted({line.split()[1] for _, line in COMMANDS if line.startswith("kubectl")}))
def test_kubectl_knows_the_commands_and_their_options(command: str) -> None:
    needs_kind = ["job"] if command == "create" else ["pods"] if command == "top" else []
    done = helm(command, *needs_kind, "--help", program="kubectl")
    assert done.returncode == 0
    for _, line in COMMANDS:
        words = shlex.split(line.partition("|")[0].partition(" -- ")[0])
        if words[1:2] == [command]:
            for option in (word.partition("=")[0] for word in words if word.startswith("--")):
                assert option in done.stdout, option


def test_prometheus_can_read_every_expression(tmp_path: Path) -> None:
    ours = {one._name for one in ALL} | {name.removesuffix("_total") for name, _, _ in DECLARED}
    file = tmp_path / "rules.yaml"
    recorded = [{"record": f"page:{at}", "expr": line} for at, (_, line) in enumerate(EXPRESSIONS)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "pages", "rules": recorded}]}))
    done = subprocess.run([tool("promtool"), "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, line in EXPRESSIONS:
        for metric in re.findall(r"\bcomment_[a-z_]+", line):
            assert re.sub(r"_(bucket|sum|count|total)$", "", metric) in ours, (name, metric)
