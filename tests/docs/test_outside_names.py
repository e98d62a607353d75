"""The names that others rely on: a change here is a change for users, and wants a line in the CHANGELOG.

Routes and commands have their own lists, in tests/integration/web/test_openapi.py and test_commands.py.
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
    return sorted(one.variable for one in config.declared())


def exported() -> list[str]:
    """Each metric with its labels."""
    ours = (f"{family.name} {','.join(sorted(one._labelnames))}" for one in metrics.ALL for family in one.describe())
    return sorted(name.strip() for name in (*ours, *(name for name, _, _ in cgroup.DECLARED)))


def chart_values() -> list[str]:
    """Each value's path, as `--set` takes it."""

    def paths(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                yield from paths(inner, f"{path}.{name}" if path else str(name))
        else:
            yield path

    return sorted(paths(yaml.safe_load((project_root() / "chart" / "values.yaml").read_text()), ""))


def messages() -> list[str]:
    """What workers of another release have to understand."""
    return [celery_app.ANALYSE, celery_app.QUEUE_NAME]


NAMES: Final[dict[str, Callable[[], list[str]]]] = {
    "settings": settings,
    "metrics": exported,
    "chart values": chart_values,
    "messages": messages,
}


@pytest.mark.parametrize("kind", NAMES)
def test_every_name_that_others_rely_on_is_as_it_was(kind: str) -> None:
    frozen: dict[str, list[str]] = json.loads(FROZEN.read_text())
    assert NAMES[kind]() == frozen[kind]
