"""How `python -m bench.dashboard` draws a panel: by the dashboard's units, limits, legends and gaps."""

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from tests.conftest import project_root

pytest.importorskip("matplotlib", reason="the pictures need it")

from bench.harness.panels import Answers, draw


def panel(kind: str = "timeseries", **defaults: Any) -> dict[str, Any]:
    steps = [{"color": "green", "value": None}, {"color": "red", "value": 2}]
    return {
        "type": kind, "title": "Query time", "gridPos": {"x": 0, "y": 0, "w": 12, "h": 8},
        "targets": [{"expr": "x", "legendFormat": "{{query}} here"}],
        "fieldConfig": {"defaults": {
            "unit": "s", "thresholds": {"steps": steps}, "custom": {"stacking": {"mode": "none"}}, **defaults,
        }},
    }  # fmt: skip


def drawn(one: dict[str, Any], answers: Answers, folder: Path) -> str:
    file = folder / "picture.svg"
    draw([one], answers, file)
    ET.parse(file)  # noqa: S314 - our own
    text = file.read_text()
    draw([one], answers, file)
    assert file.read_text() == text
    return text


def series(*values: float, seconds: tuple[float, ...] = (0, 2, 4, 6)) -> Answers:
    return {"x": [({"query": "write"}, list(zip(seconds, values, strict=False)))]}


def test_a_line_has_its_name_unit_and_limit(tmp_path: Path) -> None:
    text = drawn(panel(), series(0.5, 1, 2.5, 1), tmp_path)
    assert ">write here: 2.5 s</text>" in text
    assert "#c1121f" in text
    assert "red from" not in text
    assert str(project_root()) not in text


def test_a_limit_above_the_picture_is_said(tmp_path: Path) -> None:
    text = drawn(panel(), series(0.0015, 0.001, 0.001), tmp_path)
    assert ">red from 2 s</text>" in text
    assert ">write here: 1.5 ms</text>" in text


def test_what_is_no_number_and_what_is_not_there_is_a_gap(tmp_path: Path) -> None:
    whole = drawn(panel(), series(1, 1, 1, 1), tmp_path)
    moves = whole.count("\nM ")
    assert drawn(panel(), series(1, 1, 1, 1, seconds=(0, 2, 8, 10)), tmp_path).count("\nM ") == moves + 1
    assert drawn(panel(), series(1, math.nan, 1, 1), tmp_path).count("\nM ") == moves + 1


def test_a_number_has_the_colour_and_the_word_of_its_value(tmp_path: Path) -> None:
    words = [{"type": "value", "options": {"1": {"text": "yes"}, "0": {"text": "no"}}}]
    assert ">yes</text>" in drawn(panel("stat", mappings=words), series(0, 1), tmp_path)
    text = drawn(panel("stat", unit="percentunit"), series(3), tmp_path)
    assert ">300 %</text>" in text
    assert "#c1121f" in text
    assert ">no batches</text>" in drawn(panel("stat", noValue="no batches"), {"x": []}, tmp_path)
