"""The metrics that a process exports."""

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
    """Returns the exported text."""
    return http.get(url, timeout=60).raise_for_status().text


def series(exported: str) -> Series:
    """Returns every sample by name and labels; asserts that none is duplicated."""
    samples = [sample for family in text_string_to_metric_families(exported) for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples)
    return found


def ours(url: str) -> Series:
    """Returns the samples of this program."""
    return {key: value for key, value in series(text(url)).items() if key[0].startswith("comment_")}


def value(found: Mapping[tuple[str, Labels], float], name: str, **labels: str) -> float | None:
    """Returns the value of a sample; None if it is not exported."""
    return found.get((name, frozenset(labels.items())))


def fallen(before: Series, after: Series) -> list[tuple[str, Labels]]:
    """Returns the counters that decreased or disappeared, which Prometheus takes for a reset."""
    return [
        key for key, old in before.items() if key[0].endswith(NEVER_FALLS) and (key not in after or after[key] < old)
    ]


def until_reported(url: str, seconds: float = 60) -> None:
    """Waits until the port responds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            text(url)
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return
