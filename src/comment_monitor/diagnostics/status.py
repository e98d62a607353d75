"""What a running system does, read from its `/health` and its `/metrics`: two looks, and what happened between them."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf, isnan
from typing import Final, Literal, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from comment_monitor.core.errors import CommentMonitorError

TIMEOUT: Final = 5.0
QUANTILES: Final = (0.5, 0.95, 0.99)
DURATION: Final = "comment_processing_duration_seconds"
STATEMENT: Final = "comment_db_query_duration_seconds"
ANALYSIS: Final = "comment_analysis_duration_seconds"
ANALYSED: Final = "comment_analysis_total"
QUEUE: Final = "comment_processing_queue_length"
# The statement with which a worker begins a batch; nothing else makes it.
LOAD: Final = ("query", "load_batches")

Labels = frozenset[tuple[str, str]]
Series = Mapping[tuple[str, Labels], float]
Part = Literal["orchestrator", "worker"]
# A proxy named in the environment is not for a service beside us.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class StatusError(CommentMonitorError):
    """A system that does not answer."""


class ProcessMetrics(NamedTuple):
    """What one address tells, and whose counts are in it: of several processes that share a folder, both parts'."""

    series: Series
    parts: frozenset[Part]

    @staticmethod
    def classify(series: Series, *, whole: bool = False) -> "ProcessMetrics":
        """Every process has every counter, at zero where it never counts: they do not tell what it is.

        Only an orchestrator has a queue, and a worker alone has none. A sum of both is seen to hold a worker's counts
        once it loaded a batch; before that only who started it knows (`whole`).
        """
        names = {name for name, _ in series}
        takes_in = QUEUE in names
        analyses = any(name == f"{STATEMENT}_count" and LOAD in labels for name, labels in series)
        parts: set[Part] = set()
        if takes_in or whole:
            parts.add("orchestrator")
        if analyses or whole or (ANALYSED in names and not takes_in):
            parts.add("worker")
        return ProcessMetrics(series, frozenset(parts))


class Scrape(NamedTuple):
    """All processes at one moment (seconds of a clock that only goes forward); None: one that did not answer."""

    moment: float
    processes: tuple[ProcessMetrics | None, ...]
    problems: tuple[str, ...] = ()


def scrape(urls: Sequence[str], whole: str | None = None) -> Scrape:
    """Asks every process, all at once: one that is held must not make the others' figures late.

    Args:
        urls: where they tell their metrics.
        whole: the one of them that is known to add up an orchestrator and its worker.

    Raises:
        StatusError: none answers as a process of ours does.
    """
    moment = time.monotonic()
    with ThreadPoolExecutor(len(urls)) as pool:
        found = list(pool.map(lambda url: _process(url, whole=url == whole), urls))
    problems = tuple(one for one in found if isinstance(one, str))
    if len(problems) == len(found):
        raise StatusError(problems[0])
    return Scrape(moment, tuple(None if isinstance(one, str) else one for one in found), problems)


def health(url: str) -> tuple[str, dict[str, str]]:
    """The service's own word for its state, and what it says of each part.

    Raises:
        StatusError: nothing answers there, or something else does.
    """
    address = f"{url.rstrip('/')}/health"
    try:
        body = json.loads(_get(address))
        return str(body["status"]), {str(name): str(value) for name, value in body["checks"].items()}
    except OSError as error:
        raise StatusError(f"{_nothing(address, error)}. Is the service running? `make up` starts it.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StatusError(f"{address} answers, but is not the service's: name it with --url.") from None


def _process(url: str, *, whole: bool) -> ProcessMetrics | str:
    """What is there, or why nothing is."""
    try:
        families = list(text_string_to_metric_families(_get(url).decode()))
    except OSError as error:
        return f"{_nothing(url, error)}: name the metrics' address with --metrics-url."
    except ValueError:
        families = []
    series = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    found = ProcessMetrics.classify(series, whole=whole and bool(series))
    return (
        found
        if found.parts
        else f"{url} answers, but with no metrics of comment-monitor: name their address with --metrics-url."
    )


def _nothing(url: str, error: OSError) -> str:
    return f"Nothing answers at {url} ({getattr(error, 'reason', None) or error})"


def _get(url: str) -> bytes:
    try:
        with _open(url, timeout=TIMEOUT) as response:
            answer: bytes = response.read()
            return answer
    except urllib.error.HTTPError as error:
        # A service that shuts down answers 503, with its state in it.
        return error.read()
    except (ValueError, http.client.HTTPException) as error:
        # No address, or no HTTP: nothing that we could ask.
        raise OSError(str(error)) from None


class ScrapeDelta(NamedTuple):
    """What happened between two looks at the same processes. None: nobody tells it, which is not the same as 0."""

    before: Scrape
    after: Scrape

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.after.moment - self.before.moment

    def of(self, part: Part) -> "ScrapeDelta":
        """Of the processes alone that have the counts of this part."""
        chosen = [at for at, one in enumerate(self.after.processes) if one and part in one.parts]
        return ScrapeDelta(*(one._replace(processes=tuple(one.processes[at] for at in chosen)) for one in self))

    def parts(self) -> list[frozenset[Part]]:
        """Whose counts each process that answers has."""
        return [one.parts for one in self.after.processes if one]

    def now(self, name: str) -> float | None:
        """A gauge, summed over its series and the processes."""
        found = [value for (one, _), value in self._all() if one == name]
        return sum(found) if found else None

    def most(self, name: str) -> float | None:
        """A gauge of which every process tells the same, at different moments."""
        return max((value for (found, _), value in self._all() if found == name and not isnan(value)), default=None)

    def most_by(self, name: str, label: str) -> dict[str, float]:
        """The same, by the values of one of its labels."""
        found: dict[str, float] = {}
        for (one, labels), value in self._all():
            if one == name and (of := dict(labels).get(label)) is not None:
                found[of] = max(value, found.get(of, 0.0))
        return found

    def rate(self, name: str, **labels: str) -> float | None:
        """A counter's rise a second, summed over the series that have these labels, and the processes."""
        rises = list(self._rises(name, labels))
        return sum(rises) / self.seconds if rises else None

    def total(self, name: str, **labels: str) -> float | None:
        """A counter itself, summed likewise: since each process began."""
        wanted = set(labels.items())
        found = [value for (one, of), value in self._all() if one == name and wanted <= of]
        return sum(found) if found else None

    def by(self, name: str, label: str) -> dict[str, tuple[float, float]]:
        """A counter's rise a second and its value, by the values of one of its labels."""
        values = {of for (one, labels), _ in self._all() if one == name and (of := dict(labels).get(label)) is not None}
        return {of: (self.rate(name, **{label: of}) or 0.0, self.total(name, **{label: of}) or 0.0) for of in values}

    def quantiles(self, name: str, **labels: str) -> list[float] | None:
        """The 50th, 95th and 99th percentile of what a histogram saw meanwhile; None where it saw nothing."""
        buckets: dict[float, float] = {}
        wanted = set(labels.items())
        for before, after in self._pairs():
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
        for before, after in self._pairs():
            for key, value in after.items():
                if key[0] == name and wanted <= key[1]:
                    yield _rise(before.get(key, 0.0), value)

    def _pairs(self) -> Iterator[tuple[Series, Series]]:
        """Of one that did not answer before, all it ever counted would be the last seconds'."""
        for before, after in zip(self.before.processes, self.after.processes, strict=True):
            if before and after:
                yield before.series, after.series

    def _all(self) -> Iterable[tuple[tuple[str, Labels], float]]:
        for process in self.after.processes:
            if process:
                yield from process.series.items()


def _rise(before: float, after: float) -> float:
    """A counter's; one that is lower than it was belongs to a process that started again."""
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
