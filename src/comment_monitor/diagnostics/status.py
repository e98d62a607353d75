"""What a running system does, computed from two scrapes of its `/metrics`; and its state, read from its `/health`."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
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
# The statement with which a worker begins a batch; only workers run it.
LOAD: Final = ("query", "load_batches")

Labels = frozenset[tuple[str, str]]
Series = Mapping[tuple[str, Labels], float]
Part = Literal["orchestrator", "worker"]
# Ignores a proxy in the environment, which is not meant for a service on this machine or network.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class StatusError(CommentMonitorError):
    """The system does not answer."""


class ProcessMetrics(NamedTuple):
    """The series of one address, and the parts whose counts they include: both, where processes share a folder."""

    series: Series
    parts: frozenset[Part]

    @staticmethod
    def classify(series: Series, *, whole: bool = False) -> "ProcessMetrics":
        """Returns the series with their parts, which the counters do not show: every process exports all of them.

        Only an orchestrator has a queue. A worker is recognised by the absence of a queue, or in a sum of both parts by
        the first batch that it loaded; before that, only the caller may know that a worker is included (`whole`).
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
    """The metrics of all processes at one moment (monotonic seconds); None: the process did not answer."""

    moment: float
    processes: tuple[ProcessMetrics | None, ...]
    problems: tuple[str, ...] = ()


def scrape(urls: Sequence[str], whole: str | None = None) -> Scrape:
    """Scrapes all processes concurrently, so that a process that hangs does not delay the figures of the others.

    Args:
        urls: the addresses of the processes' metrics.
        whole: the address among them that is known to export the sum of an orchestrator and its worker.

    Raises:
        StatusError: no address exports metrics of this program.
    """
    moment = time.monotonic()
    with ThreadPoolExecutor(len(urls)) as pool:
        found = list(pool.map(lambda url: _process(url, whole=url == whole), urls))
    problems = tuple(problem for problem in found if isinstance(problem, str))
    if len(problems) == len(found):
        raise StatusError(problems[0])
    return Scrape(moment, tuple(None if isinstance(process, str) else process for process in found), problems)


def health(url: str) -> tuple[str, dict[str, str]]:
    """Returns the state of the service and of each of its checks, as the service reports them.

    Raises:
        StatusError: there is no server at the address, or it is not this service.
    """
    address = f"{url.rstrip('/')}/health"
    try:
        body = json.loads(_get(address))
        return str(body["status"]), {str(name): str(value) for name, value in body["checks"].items()}
    except OSError as error:
        raise StatusError(f"{_no_answer(address, error)}. Is the service running? `make up` starts it.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StatusError(f"{address} answers, but is not this service: pass the service's URL with --url.") from None


def _process(url: str, *, whole: bool) -> ProcessMetrics | str:
    """Returns the metrics at the URL, or the reason why there are none."""
    try:
        families = list(text_string_to_metric_families(_get(url).decode()))
    except OSError as error:
        return f"{_no_answer(url, error)}: pass the URL of the metrics with --metrics-url."
    except ValueError:
        families = []
    series = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    found = ProcessMetrics.classify(series, whole=whole and bool(series))
    if found.parts:
        return found
    return f"{url} answers, but without metrics of comment-monitor: pass the URL of the metrics with --metrics-url."


def _no_answer(url: str, error: OSError) -> str:
    return f"Nothing answers at {url} ({getattr(error, 'reason', None) or error})"


def _get(url: str) -> bytes:
    try:
        with _open(url, timeout=TIMEOUT) as response:
            body: bytes = response.read()
            return body
    except urllib.error.HTTPError as error:
        # A service that shuts down answers 503, with its state in the body.
        return error.read()
    except (ValueError, http.client.HTTPException) as error:
        # The URL is not valid, or the server does not speak HTTP.
        raise OSError(str(error)) from None


class ScrapeDelta(NamedTuple):
    """The changes between two scrapes of the same processes. None: no process exports the value, unlike 0."""

    before: Scrape
    after: Scrape

    @property
    def seconds(self) -> float:
        """The time between the scrapes."""
        return self.after.moment - self.before.moment

    def of(self, part: Part) -> "ScrapeDelta":
        """Returns the delta of only those processes whose counts include this part."""
        chosen = [at for at, process in enumerate(self.after.processes) if process and part in process.parts]
        return ScrapeDelta(
            *(scrape._replace(processes=tuple(scrape.processes[at] for at in chosen)) for scrape in self)
        )

    def parts(self) -> list[frozenset[Part]]:
        """Returns the parts of each process that answers."""
        return [process.parts for process in self.after.processes if process]

    def now(self, name: str) -> float | None:
        """Returns a gauge, summed over its series and the processes."""
        return self.total(name)

    def most(self, name: str) -> float | None:
        """Returns the maximum of a gauge that every process exports for the whole system, at different moments."""
        return max((value for _, value in self._values(name) if not isnan(value)), default=None)

    def most_by(self, name: str, label: str) -> dict[str, float]:
        """Returns the maximum of such a gauge for each value of a label."""
        found: dict[str, float] = {}
        for labels, value in self._values(name):
            if (key := dict(labels).get(label)) is not None:
                found[key] = max(value, found.get(key, 0.0))
        return found

    def rate(self, name: str, **labels: str) -> float | None:
        """Returns a counter's rise per second, summed over the series with these labels and the processes."""
        rises = [rise for _, rise in self._rises(name, labels)]
        return sum(rises) / self.seconds if rises else None

    def total(self, name: str, **labels: str) -> float | None:
        """Returns a counter's value since the start of each process, summed likewise."""
        found = [value for own, value in self._values(name) if labels.items() <= own]
        return sum(found) if found else None

    def by(self, name: str, label: str) -> dict[str, tuple[float, float]]:
        """Returns a counter's rise per second and its value, for each value of a label."""
        return {
            value: (self.rate(name, **{label: value}) or 0.0, self.total(name, **{label: value}) or 0.0)
            for value in self._label_values(name, label)
        }

    def quantiles(self, name: str, **labels: str) -> list[float] | None:
        """Returns a histogram's 50th, 95th and 99th percentile between the scrapes; None without observations."""
        buckets: dict[float, float] = {}
        for own, rise in self._rises(f"{name}_bucket", labels):
            edge = float(dict(own)["le"])
            buckets[edge] = buckets.get(edge, 0.0) + rise
        ordered = sorted(buckets.items())
        if not ordered or not ordered[-1][1]:
            return None
        return [_quantile(quantile, ordered) for quantile in QUANTILES]

    def slowest(self) -> tuple[str, float] | None:
        """Returns the statement with the highest 95th percentile, and that percentile; None if no statement ran."""
        names = self._label_values(f"{STATEMENT}_count", "query")
        found = [(name, values[1]) for name in names if (values := self.quantiles(STATEMENT, query=name))]
        return max(found, key=lambda statement: statement[1], default=None)

    def _values(self, name: str) -> Iterator[tuple[Labels, float]]:
        for process in filter(None, self.after.processes):
            yield from ((labels, value) for (found, labels), value in process.series.items() if found == name)

    def _label_values(self, name: str, label: str) -> set[str]:
        return {value for labels, _ in self._values(name) for key, value in labels if key == label}

    def _rises(self, name: str, labels: Mapping[str, str]) -> Iterator[tuple[Labels, float]]:
        """Yields the labels and the rise of each series.

        Omits a process that did not answer before: all its counts would appear as rises of the last seconds.
        """
        for before, after in zip(self.before.processes, self.after.processes, strict=True):
            if not before or not after:
                continue
            for key, value in after.series.items():
                if key[0] == name and labels.items() <= key[1]:
                    yield key[1], _rise(before.series.get(key, 0.0), value)


def _rise(before: float, after: float) -> float:
    """Returns a counter's rise; a lower value than before belongs to a process that restarted from zero."""
    return after - before if after >= before else after


def _quantile(wanted: float, buckets: Sequence[tuple[float, float]]) -> float:
    """Returns PromQL's histogram_quantile: linear within a bucket; above the last finite edge, that edge."""
    rank = wanted * buckets[-1][1]
    start = below = 0.0
    for edge, count in buckets:
        if count >= rank:
            if edge == inf:
                return start
            return start + (edge - start) * ((rank - below) / (count - below) if count > below else 1.0)
        start, below = edge, count
    return start
