"""Runbooks: each alert has a page, and its commands, expressions and names are valid."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import CHART, get_object, helm, objects, slug, tool
from tests.conftest import project_root

from comment_monitor.cli import Commands
from comment_monitor.observability.cgroup import DECLARED
from comment_monitor.observability.metrics import ALL
from comment_monitor.storage.invariants import INVARIANTS

FOLDER: Final = project_root() / "docs" / "runbooks"
PAGES: Final = {path.stem: path.read_text() for path in FOLDER.glob("*.md") if path.stem != "README"}
INDEX: Final = (FOLDER / "README.md").read_text()
CASE: Final = "all-external"
HEADINGS: Final = ["Meaning", "Impact", "Urgency", "Diagnosis", "Mitigation", "Over when"]
# Jobs named by a variable of the command.
OWN_JOBS: Final = {"$JOB"}


def blocks(text: str, language: str) -> list[str]:
    """The lines of the code blocks of a language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in found for line in block.splitlines()]


def commands(line: str) -> list[list[str]]:
    """The words of each command of a line: of a pipeline, a loop, a sequence, and a substitution $(...)."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word.strip("();<>|&"):
            found[-1].append(word)
        else:
            found.append([])
    return [words[words[0] == "do" :] for words in found if words]


COMMANDS: Final = [
    (name, words) for name, text in PAGES.items() for line in blocks(text, "bash") for words in commands(line)
]
KUBECTL: Final = [words for _, words in COMMANDS if words[0] == "kubectl"]
EXPRESSIONS: Final = [(name, line) for name, text in PAGES.items() for line in blocks(text, "promql")]


def part(name: str, heading: str) -> str:
    """The text of a page below a heading."""
    return PAGES[name].partition(f"\n## {heading}\n")[2].partition("\n## ")[0].strip()


def rules() -> list[dict[str, Any]]:
    groups = get_object("prod-monitored", "PrometheusRule", "orchestrator")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    assert set(PAGES) == {rule["alert"] for rule in rules()}
    for rule in rules():
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
        assert f"[{rule['alert']}]({rule['alert']}.md) | {rule['labels']['severity']} |" in INDEX


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_every_heading_and_valid_links(name: str) -> None:
    headings = [line.removeprefix("## ") for line in PAGES[name].splitlines() if line.startswith("## ")]
    assert PAGES[name].startswith(f"# {name}\n")
    assert headings == HEADINGS
    assert all(part(name, heading) for heading in HEADINGS)
    for target in re.findall(r"\]\(([^)#]+)", PAGES[name]):
        assert (FOLDER / target).exists(), target


@pytest.mark.parametrize("name", PAGES)
def test_a_threshold_on_a_page_is_the_default_of_the_chart(name: str) -> None:
    text = part(name, "Over when")
    alerts = yaml.safe_load((CHART / "values.yaml").read_text())["orchestrator"]["commentMonitoring"]["alerts"]
    for threshold, value in re.findall(r"`(\w+Threshold)` \(([\d.]+)\)", text):
        assert alerts[threshold] == float(value), threshold


def test_the_backlog_page_has_the_threshold_of_each_values_file() -> None:
    for file in ("values.yaml", "values-dev.yaml", "values-prod.yaml"):
        values = yaml.safe_load((CHART / file).read_text())
        limit = values["orchestrator"]["commentMonitoring"]["alerts"]["queueBacklogThreshold"]
        named = rf"\({limit};" if file == "values.yaml" else rf"{limit} in\s+`{file}`"
        assert re.search(named, part("CommentQueueBacklog", "Meaning")), file


@pytest.mark.parametrize("name", PAGES)
def test_values_and_settings_named_on_a_page_exist(name: str) -> None:
    known = yaml.safe_load((CHART / "values.yaml").read_text())
    for path in re.findall(r"`((?:orchestrator|worker|monitoring|cleanup)(?:\.\w+)+)[`=]", PAGES[name]):
        value = known
        for step in path.split("."):
            assert step in value, path
            value = value[step]
    settings = (project_root() / "docs" / "configuration.md").read_text()
    assert all(f"`{setting}`" in settings for setting in re.findall(r"\bCOMMENT_[A-Z_]+", PAGES[name]))


def test_the_index_names_services_of_compose() -> None:
    services = yaml.safe_load((project_root() / "compose.yaml").read_text())["services"]
    commands = re.findall(r"`docker compose ([^`]+)`", INDEX)
    assert {words.split()[0] for words in commands} >= {"exec", "logs", "ps", "restart", "up"}
    named = {service for words in commands for service in re.findall(r"orchestrator|worker|postgres\b(?= psql)", words)}
    assert named == {"orchestrator", "worker", "postgres"} & services.keys()


def test_the_invariants_page_has_the_number_of_invariants() -> None:
    number = len(INVARIANTS)
    assert f"`{number} of {number} hold`" in part("CommentInvariantBroken", "Over when")


@pytest.mark.parametrize(("name", "line"), EXPRESSIONS, ids=slug)
def test_an_expression_reads_only_the_namespace_of_the_release(name: str, line: str) -> None:
    selectors = re.findall(r"\b(?:comment_\w+|up)\b(\{[^}]*\})?", line)
    assert selectors, name
    assert all('namespace="$NS"' in selector for selector in selectors), (name, line)


def test_the_pages_have_commands_and_expressions() -> None:
    assert len(COMMANDS) > 20
    assert len(EXPRESSIONS) > 10


@pytest.mark.parametrize(("name", "words"), COMMANDS, ids=slug)
def test_a_command_names_existing_objects(name: str, words: list[str]) -> None:
    kinds = {"deployment": "Deployment", "cronjob": "CronJob", "job": "Job", "hpa": "HorizontalPodAutoscaler"}
    for word in words:
        kind, _, object_ = word.removeprefix("--from=").partition("/")
        if object_ and kind in kinds and object_ not in OWN_JOBS:
            assert get_object(CASE, kinds[kind], object_), (name, word)
    if words[:3] == ["kubectl", "get", "hpa"] and len(words) > 3:
        assert get_object(CASE, "HorizontalPodAutoscaler", words[3])
    labels = {resource["metadata"]["labels"]["app"] for kind in kinds.values() for resource in objects(CASE, kind)}
    line = " ".join(words)
    for app in re.findall(r"app=([\w-]+)", line) + re.findall(r"app in \(([^)]+)\)", line):
        assert set(app.split(", ")) <= labels, (name, app)
    if "comment-monitor" in words:
        assert words[words.index("comment-monitor") + 1] in {name for name, _, _ in Commands.modules}


@pytest.mark.parametrize(
    "page", ["deployment.md", "operations.md", "scaling.md", *(f"runbooks/{name}.md" for name in PAGES)]
)
def test_helm_commands_name_the_release_of_the_guide(page: str) -> None:
    text = (FOLDER.parent / page).read_text()
    releases = re.findall(r"\bhelm (?:history|rollback|uninstall|test|get \w+|status) ([a-z][\w-]*)", text)
    assert set(releases) <= {"threads-agent"}


@pytest.mark.parametrize("command", sorted({words[1] for words in KUBECTL}))
def test_kubectl_has_the_commands_and_their_options(command: str) -> None:
    needs_kind = ["job"] if command == "create" else ["pods"] if command == "top" else []
    result = helm(command, *needs_kind, "--help", program="kubectl")
    assert result.returncode == 0
    for words in KUBECTL:
        if words[1] == command:
            own = words[: words.index("--")] if "--" in words else words
            for option in (word.partition("=")[0] for word in own if word.startswith("--")):
                assert option in result.stdout, option


def test_prometheus_accepts_every_expression(tmp_path: Path) -> None:
    exported = {metric._name for metric in ALL} | {name.removesuffix("_total") for name, _, _ in DECLARED}
    file = tmp_path / "rules.yaml"
    recorded = [{"record": f"page:{at}", "expr": line} for at, (_, line) in enumerate(EXPRESSIONS)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "pages", "rules": recorded}]}))
    result = subprocess.run(
        [tool("promtool"), "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for name, line in EXPRESSIONS:
        for metric in re.findall(r"\bcomment_[a-z_]+", line):
            assert re.sub(r"_(bucket|sum|count|total)$", "", metric) in exported, (name, metric)
