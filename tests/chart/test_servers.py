"""The servers that the chart bundles for development."""

import configparser
from typing import Any

import pytest
import yaml
from tests.chart.conftest import CHART, helm, helm_programs, values_file


def memory_settings(limits: dict[str, Any] | None, program: str) -> dict[str, str]:
    """RabbitMQ's memory settings for these limits of its container."""
    values = values_file({"rabbitmq": {"resources": {"limits": limits}}})
    result = helm(
        "template", "x", str(CHART), "--values", str(CHART / "values-dev.yaml"), "--values", values,
        "--show-only", "templates/rabbitmq-configmap.yaml", program=program,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    parser = configparser.ConfigParser()
    parser.read_string("[all]\n" + yaml.safe_load(result.stdout)["data"]["memory.conf"])
    return dict(parser["all"])


@pytest.mark.parametrize("program", helm_programs())
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
def test_rabbitmq_uses_the_memory_limit_of_its_container(program: str, limit: Any, amount: int) -> None:
    """With the memory of the node it would be killed before it throttles its publishers."""
    found = memory_settings({"memory": limit}, program)
    assert int(found["total_memory_available_override_value"]) == amount
    assert 0.4 <= float(found["vm_memory_high_watermark.relative"]) <= 0.6


@pytest.mark.parametrize("program", helm_programs())
def test_rabbitmq_without_a_limit_uses_the_memory_of_the_node(program: str) -> None:
    assert "total_memory_available_override_value" not in memory_settings(None, program)
    assert "total_memory_available_override_value" not in memory_settings({"memory": None}, program)
