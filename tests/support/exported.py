"""What a process tells on its metrics port."""

import time
from collections.abc import Mapping
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support import http

Labels = frozenset[tuple[str, str]]
Series = dict[tuple[str, Labels], float]
NEVER_FALLS: Final = ("_total", "_count", "_bucket", "_sum")


def text(url: str) -> str:
    """As it is sent."""
    return http.get(url, timeout=60).raise_for_status().text


def series(told: str) -> Series:
    """Every sample, by name and labels; none stands there twice."""
    samples = [one for family in text_string_to_metric_families(told) for one in family.samples]
    found = {(one.name, frozenset(one.labels.items())): one.value for one in samples}
    assert len(found) == len(samples)
    return found


def ours(url: str) -> Series:
    """Those of this program."""
    return {key: value for key, value in series(text(url)).items() if key[0].startswith("comment_")}


def value(found: Mapping[tuple[str, Labels], float], name: str, **labels: str) -> float | None:
    """One of them; None where it is not told."""
    return found.get((name, frozenset(labels.items())))


def fallen(before: Series, after: Series) -> list[tuple[str, Labels]]:
    """Counts that are lower than before, or gone: to Prometheus, a start from zero."""
    return [
        key for key, old in before.items() if key[0].endswith(NEVER_FALLS) and (key not in after or after[key] < old)
    ]


def until_told(url: str, seconds: float = 60) -> None:
    """Waits until the port answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            text(url)
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return
