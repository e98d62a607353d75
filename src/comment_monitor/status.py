"""What a running system does, read from its `/health` and its `/metrics`: two looks, and what happened between them."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf, isnan
from typing import Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from comment_monitor.errors import CommentMonitorError

TIMEOUT: Final = 5.0
QUANTILES: Final = (0.5, 0.95, 0.99)
DURATION: Final = "comment_processing_duration_seconds"
STATEMENT: Final = "comment_db_query_duration_seconds"
ANALYSIS: Final = "comment_analysis_duration_seconds"

Labels = frozenset[tuple[str, str]]
# A proxy named in the environment is not for a service beside us.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class StatusError(CommentMonitorError):
    """A system that does not answer."""


class Look(NamedTuple):
    """All series of all processes at one moment (seconds of a clock that only goes forward), by name and labels."""

    moment: float
    processes: tuple[Mapping[tuple[str, Labels], float], ...]


def look(urls: Sequence[str]) -> Look:
    """Asks every process.

    Raises:
        StatusError: one does not answer, or not as an exporter does.
    """
    return Look(time.monotonic(), tuple(_series(url) for url in urls))


def health(url: str) -> tuple[str, dict[str, str]]:
    """The service's own word for its state, and what it says of each part.

    Raises:
        StatusError: nothing answers there, or something else does.
    """
    address = f"{url.rstrip('/')}/health"
    try:
        body = json.loads(_get(address))
        return str(body["status"]), {str(name): str(value) for name, value in body["checks"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StatusError(f"{address} answers, but is not the service's: name it with --url.") from None


def _series(url: str) -> dict[tuple[str, Labels], float]:
    try:
        families = list(text_string_to_metric_families(_get(url).decode()))
    except ValueError:
        raise StatusError(f"{url} answers, but with no metrics: name their address with --metrics-url.") from None
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def _get(url: str) -> bytes:
    try:
        with _open(url, timeout=TIMEOUT) as response:
            answer: bytes = response.read()
            return answer
    except urllib.error.HTTPError as error:
        # A service that shuts down answers 503, with its state in it.
        return error.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise StatusError(
            f"Nothing answers at {url} ({reason}). Is the service running? `make up` starts it."
        ) from None


class Between(NamedTuple):
    """What happened between two looks at the same processes."""

    before: Look
    after: Look

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.after.moment - self.before.moment

    def now(self, name: str) -> float:
        """A gauge, summed over its series and the processes."""
        return sum(value for (found, _), value in self._all() if found == name)

    def most(self, name: str) -> float:
        """A gauge of which every process tells the same, at different moments."""
        return max((value for (found, _), value in self._all() if found == name and not isnan(value)), default=0.0)

    def rate(self, name: str, **labels: str) -> float:
        """A counter's rise a second, summed over the series that have these labels, and the processes."""
        return sum(self._rises(name, labels)) / self.seconds

    def by(self, name: str, label: str) -> dict[str, tuple[float, float]]:
        """A counter's rise a second and its value, by the values of one of its labels."""
        found: dict[str, tuple[float, float]] = {}
        for before, after in zip(self.before.processes, self.after.processes, strict=True):
            for key, value in after.items():
                if key[0] == name and (of := dict(key[1]).get(label)) is not None:
                    rate, total = found.get(of, (0.0, 0.0))
                    found[of] = (rate + _rise(before.get(key, 0.0), value) / self.seconds, total + value)
        return found

    def quantiles(self, name: str, **labels: str) -> list[float] | None:
        """The 50th, 95th and 99th percentile of what a histogram saw meanwhile; None where it saw nothing."""
        buckets: dict[float, float] = {}
        wanted = set(labels.items())
        for before, after in zip(self.before.processes, self.after.processes, strict=True):
            for key, value in after.items():
                if key[0] == f"{name}_bucket" and wanted <= key[1]:
                    edge = float(dict(key[1])["le"])
                    buckets[edge] = buckets.get(edge, 0.0) + _rise(before.get(key, 0.0), value)
        ordered = sorted(buckets.items())
        if not ordered or not ordered[-1][1]:
            return None
        return [_quantile(one, ordered) for one in QUANTILES]

    def slowest(self) -> tuple[str, float] | None:
        """The statement whose 95th percentile was the highest, and that; None where there was none."""
        names = {dict(labels)["query"] for (name, labels), _ in self._all() if name == f"{STATEMENT}_count"}
        found = [(one, at[1]) for one in names if (at := self.quantiles(STATEMENT, query=one))]
        return max(found, key=lambda one: one[1], default=None)

    def _rises(self, name: str, labels: Mapping[str, str]) -> Iterator[float]:
        wanted = set(labels.items())
        for before, after in zip(self.before.processes, self.after.processes, strict=True):
            for key, value in after.items():
                if key[0] == name and wanted <= key[1]:
                    yield _rise(before.get(key, 0.0), value)

    def _all(self) -> Iterable[tuple[tuple[str, Labels], float]]:
        for process in self.after.processes:
            yield from process.items()


def _rise(before: float, after: float) -> float:
    """A counter's; one that is lower than it was belongs to a process that began anew."""
    return after - before if after >= before else after


def _quantile(wanted: float, buckets: Sequence[tuple[float, float]]) -> float:
    """As PromQL's histogram_quantile: linear within a bucket, and the last edge where it is beyond it."""
    rank = wanted * buckets[-1][1]
    start = below = 0.0
    for edge, count in buckets:
        if count >= rank:
            if edge == inf:
                return start
            return start + (edge - start) * ((rank - below) / (count - below) if count > below else 1.0)
        start, below = edge, count
    return start
