"""What is no Python: shell scripts, the Dockerfile, YAML and generated pages."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import yaml
from tests.chart.conftest import CHART
from tests.conftest import project_root

ROOT: Final = project_root()
SCRIPTS: Final = sorted(
    file for folder in ("scripts", ".ci", "deploy", "tests/e2e") for file in (ROOT / folder).rglob("*")
    if file.is_file() and (file.suffix == ".sh" or file.read_bytes().startswith((b"#!/usr/bin/env bash", b"#!/bin/")))
)  # fmt: skip
DOCKERFILES: Final = [ROOT / "Dockerfile", *sorted((ROOT / "tests" / "e2e").rglob("*.Dockerfile"))]
YAML: Final = [ROOT / "compose.yaml", *sorted((ROOT / "deploy").rglob("*.y*ml")),
               *sorted((ROOT / "tests" / "e2e").rglob("*.yaml")), *sorted(CHART.glob("*.yaml")),
               *sorted((CHART / "files").glob("*.yaml"))]  # fmt: skip


def beside_python(name: str) -> str:
    """A program that came with the packages of the tests."""
    return str(Path(sys.executable).parent / name)


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    done = run(beside_python("shellcheck"), str(script))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_hadolint_has_nothing_to_say(file: Path) -> None:
    done = run(beside_python("hadolint"), str(file))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", YAML, ids=lambda file: file.name)
def test_yamllint_has_nothing_to_say(file: Path) -> None:
    done = run(beside_python("yamllint"), "--strict", "-c", str(ROOT / ".yamllint"), str(file))
    assert done.returncode == 0, done.stdout


def test_the_charts_readme_is_what_make_docs_writes() -> None:
    done = run(sys.executable, "scripts/generate-chart-readme", "--check")
    assert done.returncode == 0, done.stderr


def test_what_the_chart_knows_of_the_settings_is_what_the_code_declares() -> None:
    done = run(sys.executable, "scripts/generate-chart-settings", "--check")
    assert done.returncode == 0, done.stderr


def test_the_version_is_the_same_everywhere() -> None:
    from comment_monitor import __version__  # noqa: PLC0415 - not the module under test

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    assert f"ARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text()
    assert f"comment-monitor:{__version__}" in (ROOT / "compose.yaml").read_text()
    assert f"IMAGE ?= comment-monitor:{__version__}\n" in (ROOT / "Makefile").read_text()


def test_validating_offline_finds_nothing_wrong_here() -> None:
    done = run("scripts/validate-comment-monitoring-deployment.sh", "--offline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(" ok, 0 failed, 0 skipped")
