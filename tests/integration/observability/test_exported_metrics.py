"""Everything that a real process tells on its metrics port: declared, bounded, and as Prometheus wants it."""

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
from tests.support.exported import Series, ours, series, text, until_told, value
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
    "invariant": {one.query.name.removeprefix("check_") for one in INVARIANTS},
    "query": QUERIES,
    "le": EDGES,
}
# Of the process and its Python, made by the library.
LIBRARYS: Final = re.compile(r"process_[a-z_]+|python_info|python_gc_[a-z_]+_total")
LIBRARYS_LABELS: Final = {"generation", "implementation", "major", "minor", "patchlevel", "version"}

Started = tuple[Program, str, str]
Start = Callable[..., Started]


def declared() -> dict[str, set[str]]:
    """The labels of every series that there may be."""
    found: dict[str, set[str]] = {name: set() for name, _, _ in cgroup.DECLARED}
    for one in metrics.ALL:
        (family,) = one.describe()
        labels = set(one._labelnames)
        if family.type == "histogram":
            found |= {f"{family.name}_{suffix}": labels for suffix in ("sum", "count")}
            found[f"{family.name}_bucket"] = labels | {"le"}
        else:
            found[family.name + ("_total" if family.type == "counter" else "")] = labels
    return found


def undeclared(told: Series) -> list[tuple[str, dict[str, str]]]:
    """What is told beyond that."""
    known = declared()
    return [
        (name, dict(labels))
        for name, labels in told
        if not (
            {label for label, _ in labels} <= LIBRARYS_LABELS
            if LIBRARYS.fullmatch(name)
            else {label for label, _ in labels} == known.get(name)
            and all(one in VALUES[label] for label, one in labels)
        )
    ]


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str], redis_server: EmbeddedRedis) -> Iterator[Start]:
    """Starts `serve` or `worker`; returns it with its address and that of its metrics."""
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
            until_told(url)
            return program, f"http://127.0.0.1:{port}", url

        yield begin


async def hostile(url: str) -> None:
    """Requests with something of a user's in every place, such as would be a series each if it were a label."""
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


@pytest.mark.parametrize("shared", [False, True], ids=["one process", "a shared folder"])
async def test_whatever_is_sent_only_what_is_declared_is_told(start: Start, tmp_path: Path, shared: bool) -> None:
    folder = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "shared")} if shared else {}
    _, url, metrics_url = start("serve", COMMENT_CHECK_INTERVAL="1", **folder)
    _, _, of_worker = start("worker", **folder)
    await hostile(url)
    await until(lambda: (value(ours(of_worker), "comment_analysis_total", outcome="done") or 0) > 60)
    await until(lambda: value(ours(metrics_url), "comment_invariant_violations", invariant="analysed") == 0)
    for told in (text(metrics_url), text(of_worker)):
        assert undeclared(series(told)) == []
        assert "odd" not in told
        assert "_created" not in told
    assert {labels for name, labels in ours(metrics_url) if name == "comment_processing_errors_total"} == {
        frozenset({("reason", reason)}) for reason in metrics.ERROR_REASONS
    }


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_prometheus_has_no_complaint_and_the_guides_figures_are_there(start: Start, command: str) -> None:
    _, _, url = start(command)
    told = text(url)
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=told, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    if (Path("/sys/fs/cgroup/memory.current")).exists() or Path("/sys/fs/cgroup/memory").exists():
        assert re.search(r"^comment_container_memory_working_set_bytes [0-9.e+]+$", told, re.MULTILINE)


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_buckets_straddle_the_guides_thresholds_and_resolve_milliseconds(start: Start, command: str) -> None:
    _, _, url = start(command)
    found = ours(url)
    for name in ("comment_processing_duration_seconds", "comment_analysis_duration_seconds"):
        edges = sorted(float(dict(labels)["le"]) for key, labels in found if key == f"{name}_bucket")
        assert {2.0, 10.0, 15.0, 45.0} <= set(edges)
        assert len([edge for edge in edges if edge < 0.01]) >= 3
        assert edges[-2] > 45
