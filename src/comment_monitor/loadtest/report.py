"""The results of a run, in words or as JSON, and whether they are within its bounds."""

from typing import Any, Final, NamedTuple

from comment_monitor.loadtest.drive import Result
from comment_monitor.loadtest.plan import DUPLICATES, STORED, UPDATED
from comment_monitor.loadtest.replay import Skipped

PERCENTILES: Final = (0.5, 0.9, 0.95, 0.99)
EXPECTED: Final = (STORED, UPDATED, DUPLICATES)
KINDS: Final = (*EXPECTED, "rejected")


class Bounds(NamedTuple):
    """The bounds past which a run has failed; None: no bound. The error rate is a share of the requests."""

    max_p95_ms: float | None
    max_p99_ms: float | None
    min_throughput: float | None
    max_error_rate: float


def summary(result: Result, *, skipped: Skipped | None) -> dict[str, Any]:
    """Returns the numbers of a run as JSON values.

    Throughput counts requests answered with 200. `skipped` is given if the comments came from a file: then the expected
    counts are unknown.
    """
    seconds = max(result.seconds, 1e-9)
    found: dict[str, Any] = {
        "seconds": round(result.seconds, 3),
        "requests": result.requests,
        "comments": result.comments,
        "comments_per_second": round(result.answered_comments / seconds, 1),
        "requests_per_second": round(result.answered / seconds, 1),
        "latency_ms": _latency(result),
        **{kind: result.counts[kind] for kind in KINDS},
        "errors": dict(result.errors.most_common()),
        "error_rate": result.errors.total() / max(result.requests, 1),
        "retries": dict(result.retries.most_common()),
        "uncertain": result.uncertain,
    }
    if skipped:
        found["skipped_lines"] = skipped.count
        found["first_skipped"] = skipped.first
    else:
        found["expected"] = {kind: result.expected[kind] for kind in EXPECTED}
    return found


def _latency(result: Result) -> dict[str, float]:
    shares = {f"p{share * 100:g}": round(result.latency.percentile(share) * 1000, 2) for share in PERCENTILES}
    return {**shares, "max": round(result.latency.highest * 1000, 2)}


def failures(found: dict[str, Any], bounds: Bounds) -> list[str]:
    """Returns one line for each number that is past its bound or wrong."""
    checks = (
        _above("p95", found, bounds.max_p95_ms),
        _above("p99", found, bounds.max_p99_ms),
        _too_few(found, bounds.min_throughput),
        _errors(found, bounds.max_error_rate),
        _surprise(found),
        _skipped(found),
        "" if found["requests"] else "no request was sent",
    )
    return [line for line in checks if line]


def _above(name: str, found: dict[str, Any], bound: float | None) -> str:
    value = found["latency_ms"][name]
    return f"{name} is {value:g} ms, above {bound:g} ms" if bound is not None and value > bound else ""


def _too_few(found: dict[str, Any], bound: float | None) -> str:
    value = found["comments_per_second"]
    return f"{value:,} comments/s, fewer than {bound:,g}" if bound is not None and value < bound else ""


def _errors(found: dict[str, Any], bound: float) -> str:
    rate = found["error_rate"]
    if rate <= bound:
        return ""
    limited = any(kind.startswith("429 ") for kind in found["errors"])
    hint = " (the service's rate limit: switch it off with COMMENT_RATE_LIMIT_PER_MINUTE=0, or use --retry)"
    return f"{rate:.2%} of the requests failed, above {bound:.2%}{hint if limited else ''}"


def _surprise(found: dict[str, Any]) -> str:
    """Returns a line if the counts differ from the expected ones although every request was answered.

    A repeated request may have been stored at its first try; the counts may differ by the comments of such requests.
    """
    expected = found.get("expected")
    if not expected or found["errors"]:
        return ""
    if all(abs(found[kind] - amount) <= found["uncertain"] for kind, amount in expected.items()):
        return ""
    return f"expected {_list(expected)}, got {_list({kind: found[kind] for kind in KINDS})}"


def _skipped(found: dict[str, Any]) -> str:
    count = found.get("skipped_lines", 0)
    return f"{count:,} lines of the file can't be sent; {found['first_skipped']}" if count else ""


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{amount:,} {kind}" for kind, amount in counts.items())


def in_words(found: dict[str, Any]) -> str:
    """Returns the report for a person."""
    latency = "   ".join(f"{name} {value:,g}" for name, value in found["latency_ms"].items())
    lines = [
        f"{found['comments']:,} comments in {found['requests']:,} requests, {found['seconds']:g} s",
        f"throughput  {found['comments_per_second']:,} comments/s, {found['requests_per_second']:,} requests/s",
        f"latency ms  {latency}",
        f"answers     {_list({kind: found[kind] for kind in KINDS})}",
    ]
    if "expected" in found:
        lines.append(f"expected    {_list(found['expected'])}")
    lines += _by_kind("errors", found["errors"])
    if found["retries"]:
        lines += _by_kind("retries", found["retries"])
    return "\n".join(lines)


def _by_kind(title: str, amounts: dict[str, int]) -> list[str]:
    return [f"{title:<11} {sum(amounts.values()):,}", *(f"{'':<11} {n:,} x {kind}" for kind, n in amounts.items())]
