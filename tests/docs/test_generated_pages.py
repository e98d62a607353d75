"""The generated pages are up to date, and every setting, metric and reason that is declared is used."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import project_root

from comment_monitor.core import config
from comment_monitor.observability import metrics

SOURCE = project_root() / "src" / "comment_monitor"


@functools.cache
def code(*, without: str) -> str:
    """The source of the program without the file with this name."""
    return "\n".join(file.read_text() for file in sorted(SOURCE.rglob("*.py")) if file.name != without)


def test_the_generated_pages_are_up_to_date() -> None:
    script = project_root() / "scripts" / "generate-docs"
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("setting", config.declared(), ids=lambda setting: setting.variable)
def test_every_setting_is_used(setting: config.Declared) -> None:
    names = [setting.field] if setting.field not in {"celery_broker_url", "rabbitmq_url"} else ["broker_url"]
    assert any(re.search(rf"settings\.{name}\b", code(without="config.py")) for name in names)


def test_every_variable_that_the_program_reads_is_declared() -> None:
    declared = {setting.variable for setting in config.declared()}
    found = set(re.findall(r"\bCOMMENT_[A-Z_]+\b", code(without="config.py")))
    # An option of `load-test`, documented by its --help.
    assert found - declared == {"COMMENT_MONITOR_API_KEY"}


def test_every_declared_metric_is_used() -> None:
    declared = {name for name, value in vars(metrics).items() if value in metrics.ALL}
    assert len(declared) == len(metrics.ALL)
    source = code(without="metrics.py")
    for name in declared:
        assert f"metrics.{name}" in source or name == "ERRORS", name


def test_every_declared_error_reason_is_counted() -> None:
    text = code(without="metrics.py")
    counted = set(re.findall(r'count_error\("([a-z-]+)"', text)) | set(
        re.findall(r'slug(?:, \w+)* = "([a-z-]+)"', text)
    )
    assert set(metrics.ERROR_REASONS) <= counted | {"internal"}


def test_names_of_queries_are_unique() -> None:
    names = re.findall(r'Query\(\s*"([a-z_]+)"', code(without=""))
    assert len(names) == len(set(names))
    assert "write_comments" in names


def test_every_setting_is_documented_exactly_once() -> None:
    page = (project_root() / "docs" / "configuration.md").read_text()
    for setting in config.declared():
        assert page.count(f"| `{setting.variable}` |") == 1


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_source_file_is_longer_than_400_lines(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400
