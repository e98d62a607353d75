"""The Grafana dashboard as Grafana loads it: its panels, and their expressions with variables replaced."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from tests.conftest import project_root

FILE: Final = project_root() / "chart" / "files" / "dashboards" / "comment-monitoring.json"
VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
# The option "All" of variables whose value for all is `.*`.
ALL: Final = {"namespace": ".*", "pod": ".*", "broker": ".*"}


class Expression(NamedTuple):
    """A target of a panel."""

    group: str
    panel: str
    text: str
    legend: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.group} / {self.panel} / {self.legend}"


def load() -> dict[str, Any]:
    """Returns the dashboard of the chart."""
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def groups(dashboard: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Returns the panels of each row."""
    result: dict[str, list[dict[str, Any]]] = {}
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            result[panel["title"]] = []
        else:
            result[list(result)[-1]].append(panel)
    return result


def expressions(dashboard: Mapping[str, Any]) -> Iterator[Expression]:
    """Yields all Prometheus queries of the panels."""
    for group, panels in groups(dashboard).items():
        for panel in panels:
            for target in panel["targets"]:
                yield Expression(group, panel["title"], target["expr"], target["legendFormat"], target["instant"])


def filled(expression: str, *, step: float, scrape: float, seconds: float, chosen: Mapping[str, str] = ALL) -> str:
    """Returns the query as Grafana sends it: `$__rate_interval` is `max($__interval + scrape, 4 * scrape)`.

    Raises:
        KeyError: the expression uses an unknown variable.
    """
    rate_interval = max(step + scrape, 4 * scrape)
    values = {**chosen, "__rate_interval": f"{rate_interval:.0f}s", "__range": f"{seconds:.0f}s"}
    return VARIABLE.sub(lambda found: values[found[1] or found[2]], expression)
