"""Checks of files other than Python: shell scripts, Dockerfiles, YAML and generated files."""

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
    """A program installed with the packages of the tests."""
    return str(Path(sys.executable).parent / name)


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_shellcheck_reports_nothing(script: Path) -> None:
    result = run(beside_python("shellcheck"), str(script))
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_hadolint_reports_nothing(file: Path) -> None:
    result = run(beside_python("hadolint"), str(file))
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("file", YAML, ids=lambda file: str(file.relative_to(ROOT)))
def test_yamllint_reports_nothing(file: Path) -> None:
    result = run(beside_python("yamllint"), "--strict", "-c", str(ROOT / ".yamllint"), str(file))
    assert result.returncode == 0, result.stdout


def test_the_readme_of_the_chart_is_up_to_date() -> None:
    result = run(sys.executable, "scripts/generate-chart-readme", "--check")
    assert result.returncode == 0, result.stderr


def test_the_settings_in_the_chart_are_up_to_date() -> None:
    result = run(sys.executable, "scripts/generate-chart-settings", "--check")
    assert result.returncode == 0, result.stderr


def test_the_version_is_the_same_everywhere() -> None:
    from comment_monitor import __version__  # noqa: PLC0415 - not the module under test

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    assert f"ARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text()
    assert f"comment-monitor:{__version__}" in (ROOT / "compose.yaml").read_text()
    assert f"IMAGE ?= comment-monitor:{__version__}\n" in (ROOT / "Makefile").read_text()


def test_the_offline_validation_of_this_checkout_succeeds() -> None:
    result = run("scripts/validate-comment-monitoring-deployment.sh", "--offline")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].endswith(" ok, 0 failed, 0 skipped")
