"""Everything that a real process exports on its metrics port is declared, bounded, and valid for Prometheus."""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from tests.chart.conftest import tool
from tests.conftest import project_root, until
from tests.support import http
from tests.support.exported import Series, ours, series, text, until_reported, value
from tests.support.rabbitmq import free_port
from tests.support.requests import body, comment
from tests.support.system import Program

from comment_monitor.devserver.redis_process import EmbeddedRedis
from comment_monitor.observability import cgroup, metrics
from comment_monitor.storage.invariants import INVARIANTS

SOURCE: Final = project_root() / "src" / "comment_monitor"
QUERIES: Final = {
    name for file in SOURCE.rglob("*.py") for name in re.findall(r'Query\(\s*"([a-z_]+)"', file.read_text())
}
EDGES: Final = {"+Inf", *(str(float(edge)) for edge in metrics.DURATION_BUCKETS)}
VALUES: Final[dict[str, set[str]]] = {
    "tier": set(metrics.TIERS),
    "reason": set(metrics.ERROR_REASONS),
    "kind": set(metrics.KINDS),
    "outcome": set(metrics.OUTCOMES),
    "check": set(metrics.HEALTH_CHECKS),
    "invariant": {invariant.query.name.removeprefix("check_") for invariant in INVARIANTS},
    "query": QUERIES,
    "le": EDGES,
}
# Metrics of the process and of Python, which the library adds.
OF_LIBRARY: Final = re.compile(r"process_[a-z_]+|python_info|python_gc_[a-z_]+_total")
LABELS_OF_LIBRARY: Final = {"generation", "implementation", "major", "minor", "patchlevel", "version"}

Started = tuple[Program, str, str]
Start = Callable[..., Started]


def declared() -> dict[str, set[str]]:
    """Returns the labels of every series that may exist."""
    found: dict[str, set[str]] = {name: set() for name, _, _ in cgroup.DECLARED}
    for metric in metrics.ALL:
        (family,) = metric.describe()
        labels = set(metric._labelnames)
        if family.type == "histogram":
            found |= {f"{family.name}_{suffix}": labels for suffix in ("sum", "count")}
            found[f"{family.name}_bucket"] = labels | {"le"}
        else:
            found[family.name + ("_total" if family.type == "counter" else "")] = labels
    return found


def undeclared(exported: Series) -> list[tuple[str, dict[str, str]]]:
    """Returns the exported series that are not declared."""
    known = declared()
    return [
        (name, dict(labels))
        for name, labels in exported
        if not (
            {label for label, _ in labels} <= LABELS_OF_LIBRARY
            if OF_LIBRARY.fullmatch(name)
            else {label for label, _ in labels} == known.get(name)
            and all(setting in VALUES[label] for label, setting in labels)
        )
    ]


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str], redis_server: EmbeddedRedis) -> Iterator[Start]:
    """Returns a function that starts `serve` or `worker` and returns it, its URL and the URL of its metrics."""
    with ExitStack() as stack:

        def begin(command: str, **more: str) -> Started:
            port, metrics_port = free_port(), free_port()
            words = ["--metrics-port", str(metrics_port)]
            words += ["--port", str(port)] if command == "serve" else ["--concurrency", "1"]
            variables = {**environment, "CELERY_BROKER_URL": redis_server.broker_url, **more}
            program = Program(tmp_path, variables, command, *words)
            stack.callback(program.kill)
            program.start()
            url = f"http://127.0.0.1:{metrics_port}/metrics"
            until_reported(url)
            return program, f"http://127.0.0.1:{port}", url

        yield begin


async def hostile(url: str) -> None:
    """Sends requests with a client's data in every place; each value would be a series if it were a label."""
    async with http.AsyncClient(base_url=url, timeout=30) as client:
        for number in range(30):
            name = f'odd-{number} "\n\\{{}}é'
            sent = [comment(name, author=name), comment(name), comment(f"{name}2", ""), comment(number, name)]
            await client.post("/comments/process", json=body(*sent, post_id=name, source=name))
            await client.post(
                "/comments/process", json=body(comment(number, f"edit {number}"), post_id=name, source=name)
            )
            await client.post("/comments/process", content=b"{odd")
            await client.post("/comments/process", json={"odd": name})
            await client.request(f"ODD{number}", f"/odd-{number}")
            await client.get(f"/odd-{number}", headers={"X-Request-ID": f"odd-{number}", "X-API-Key": f"odd {number}"})
            await client.get("/comments", params={"author": name, "source": name, f"odd-{number}": name})
            await client.get(f"/comments/odd-{number}/odd-{number}")
            await client.get(f"/posts/odd-{number}/odd-{number}/summary")


@pytest.mark.parametrize("shared", [False, True], ids=["one-process", "shared-folder"])
async def test_only_declared_series_are_exported_for_any_input(start: Start, tmp_path: Path, shared: bool) -> None:
    folder = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "shared")} if shared else {}
    _, url, metrics_url = start("serve", COMMENT_CHECK_INTERVAL="1", **folder)
    _, _, worker_url = start("worker", **folder)
    await hostile(url)
    await until(lambda: (value(ours(worker_url), "comment_analysis_total", outcome="done") or 0) > 60)
    await until(lambda: value(ours(metrics_url), "comment_invariant_violations", invariant="analysed") == 0)
    for exported in (text(metrics_url), text(worker_url)):
        assert undeclared(series(exported)) == []
        assert "odd" not in exported
        assert "_created" not in exported
    assert {labels for name, labels in ours(metrics_url) if name == "comment_processing_errors_total"} == {
        frozenset({("reason", reason)}) for reason in metrics.ERROR_REASONS
    }


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_promtool_accepts_the_metrics_and_memory_is_exported(start: Start, command: str) -> None:
    _, _, url = start(command)
    exported = text(url)
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=exported, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    if (Path("/sys/fs/cgroup/memory.current")).exists() or Path("/sys/fs/cgroup/memory").exists():
        assert re.search(r"^comment_container_memory_working_set_bytes [0-9.e+]+$", exported, re.MULTILINE)


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_buckets_straddle_the_guides_thresholds_and_resolve_milliseconds(start: Start, command: str) -> None:
    _, _, url = start(command)
    found = ours(url)
    for name in ("comment_processing_duration_seconds", "comment_analysis_duration_seconds"):
        edges = sorted(float(dict(labels)["le"]) for key, labels in found if key == f"{name}_bucket")
        assert {2.0, 10.0, 15.0, 45.0} <= set(edges)
        assert len([edge for edge in edges if edge < 0.01]) >= 3
        assert edges[-2] > 45
