"""The servers that the chart brings for development."""

import configparser
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.conftest import CHART, helm, helms


def memory_settings(tmp_path: Path, limits: dict[str, Any] | None, program: str) -> dict[str, str]:
    """What RabbitMQ is told, for these limits of its container."""
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"rabbitmq": {"resources": {"limits": limits}}}))
    done = helm(
        "template", "x", str(CHART), "--values", str(CHART / "values-dev.yaml"), "--values", str(values),
        "--show-only", "templates/rabbitmq-configmap.yaml", program=program,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    parser = configparser.ConfigParser()
    parser.read_string("[all]\n" + yaml.safe_load(done.stdout)["data"]["memory.conf"])
    return dict(parser["all"])


@pytest.mark.parametrize("program", helms())
@pytest.mark.parametrize(
    ("limit", "amount"),
    [
        ("1Gi", 1024**3),
        ("1.5Gi", 1536 * 1024**2),
        ("512Mi", 512 * 1024**2),
        ("800000Ki", 800000 * 1024),
        ("1500M", 1_500_000_000),
        ("2G", 2_000_000_000),
        (1073741824, 1024**3),
        ("1073741824", 1024**3),
    ],
)
def test_rabbitmq_goes_by_its_containers_memory(tmp_path: Path, program: str, limit: Any, amount: int) -> None:
    """By the node's it would be killed before it slows its senders down."""
    found = memory_settings(tmp_path, {"memory": limit}, program)
    assert int(found["total_memory_available_override_value"]) == amount
    assert 0.4 <= float(found["vm_memory_high_watermark.relative"]) <= 0.6


@pytest.mark.parametrize("program", helms())
def test_without_a_limit_rabbitmq_goes_by_the_nodes_memory(tmp_path: Path, program: str) -> None:
    assert "total_memory_available_override_value" not in memory_settings(tmp_path, None, program)
    assert "total_memory_available_override_value" not in memory_settings(tmp_path, {"memory": None}, program)
