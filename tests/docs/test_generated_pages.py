"""The pages that say what the code declares say what it declares, and what is declared is used."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import project_root

from comment_monitor.core import config
from comment_monitor.observability import metrics

SOURCE = project_root() / "src" / "comment_monitor"


def code(*, without: str) -> str:
    """The whole program but for the file that declares."""
    return "\n".join(file.read_text() for file in sorted(SOURCE.rglob("*.py")) if file.name != without)


def test_the_pages_are_what_make_docs_writes() -> None:
    script = project_root() / "scripts" / "generate-docs"
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("one", config.declared(), ids=lambda one: one.variable)
def test_every_setting_is_used_where_it_is_not_declared(one: config.Declared) -> None:
    names = [one.field] if one.field not in {"celery_broker_url", "rabbitmq_url"} else ["broker_url"]
    assert any(re.search(rf"settings\.{name}\b", code(without="config.py")) for name in names)


def test_no_variable_of_ours_is_read_that_is_not_declared() -> None:
    declared = {one.variable for one in config.declared()}
    found = set(re.findall(r"\bCOMMENT_[A-Z_]+\b", code(without="config.py")))
    # load-test's own, which is shown by its --help.
    assert found - declared == {"COMMENT_MONITOR_API_KEY"}


def test_every_metric_declared_is_emitted_somewhere() -> None:
    declared = {name for name, value in vars(metrics).items() if value in metrics.ALL}
    assert len(declared) == len(metrics.ALL)
    elsewhere = code(without="metrics.py")
    for name in declared:
        assert f"metrics.{name}" in elsewhere or name == "ERRORS", name


def test_every_error_reason_counted_is_declared_and_every_declared_one_can_be_counted() -> None:
    text = code(without="metrics.py")
    counted = set(re.findall(r'count_error\("([a-z-]+)"', text)) | set(
        re.findall(r'slug(?:, \w+)* = "([a-z-]+)"', text)
    )
    assert set(metrics.ERROR_REASONS) <= counted | {"internal"}


def test_every_query_has_a_name_of_its_own() -> None:
    names = re.findall(r'Query\(\s*"([a-z_]+)"', code(without=""))
    assert len(names) == len(set(names))
    assert "write_comments" in names


def test_no_setting_is_documented_twice() -> None:
    page = (project_root() / "docs" / "configuration.md").read_text()
    for one in config.declared():
        assert page.count(f"| `{one.variable}` |") == 1


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_source_file_is_longer_than_400_lines(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400
