"""The public names: a change of a setting, metric, chart value or message changes users' deployments.

Such a change needs a line in the CHANGELOG. Routes and commands have their own lists, in
tests/integration/web/test_openapi.py and tests/integration/cli/test_commands.py.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.conftest import project_root

from comment_monitor.core import config
from comment_monitor.messaging import celery_app
from comment_monitor.observability import cgroup, metrics

FROZEN: Final = Path(__file__).with_suffix(".json")


def settings() -> list[str]:
    return sorted(setting.variable for setting in config.declared())


def exported() -> list[str]:
    """Every metric with its labels."""
    declared = (
        f"{family.name} {','.join(sorted(metric._labelnames))}"
        for metric in metrics.ALL
        for family in metric.describe()
    )
    return sorted(name.strip() for name in (*declared, *(name for name, _, _ in cgroup.DECLARED)))


def chart_values() -> list[str]:
    """The path of every value, in the format of `--set`."""

    def paths(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                yield from paths(inner, f"{path}.{name}" if path else str(name))
        else:
            yield path

    return sorted(paths(yaml.safe_load((project_root() / "chart" / "values.yaml").read_text()), ""))


def messages() -> list[str]:
    """The names that workers of another release must understand."""
    return [celery_app.ANALYSE, celery_app.QUEUE_NAME]


NAMES: Final[dict[str, Callable[[], list[str]]]] = {
    "settings": settings,
    "metrics": exported,
    "chart values": chart_values,
    "messages": messages,
}


@pytest.mark.parametrize("kind", NAMES, ids=lambda kind: kind.replace(" ", "-"))
def test_the_public_names_are_unchanged(kind: str) -> None:
    frozen: dict[str, list[str]] = json.loads(FROZEN.read_text())
    assert NAMES[kind]() == frozen[kind]
