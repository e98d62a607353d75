"""What a run found, in words or as JSON, and whether it stayed within its bounds."""

from typing import Any, NamedTuple

from comment_monitor.loadtest.drive import Result
from comment_monitor.loadtest.texts import Expected

PERCENTILES = (0.5, 0.9, 0.95, 0.99)


class Bounds(NamedTuple):
    """Past these a run has failed; None: not asked."""

    max_p95_ms: float | None
    max_p99_ms: float | None
    min_throughput: float | None
    max_error_rate: float


def summary(result: Result, expected: Expected | None) -> dict[str, Any]:
    """The numbers of a run. `expected` is known for made-up comments only."""
    seconds = max(result.seconds, 1e-9)
    found: dict[str, Any] = {
        "seconds": round(result.seconds, 3),
        "requests": result.requests,
        "comments": result.comments,
        "requests_per_second": round(result.requests / seconds, 1),
        "comments_per_second": round(result.comments / seconds, 1),
        "latency_ms": {
            **{f"p{share * 100:g}": round(result.latency.percentile(share) * 1000, 2) for share in PERCENTILES},
            "max": round(result.latency.highest * 1000, 2),
        },
        **{kind: result.totals[kind] for kind in ("stored", "updated", "duplicates", "rejected")},
        "errors": dict(result.errors.most_common()),
        "error_rate": round(result.errors.total() / max(result.requests, 1), 6),
        "retries": result.retries,
    }
    if expected:
        found["expected"] = {
            "stored": expected.stored,
            "updated": expected.updated,
            "duplicates": expected.duplicates,
        }
    return found


def failures(found: dict[str, Any], bounds: Bounds) -> list[str]:
    """What lies past its bound, in words."""
    latency = found["latency_ms"]
    result = []
    if bounds.max_p95_ms is not None and latency["p95"] > bounds.max_p95_ms:
        result.append(f"p95 is {latency['p95']} ms, above {bounds.max_p95_ms:g}")
    if bounds.max_p99_ms is not None and latency["p99"] > bounds.max_p99_ms:
        result.append(f"p99 is {latency['p99']} ms, above {bounds.max_p99_ms:g}")
    if bounds.min_throughput is not None and found["comments_per_second"] < bounds.min_throughput:
        result.append(f"{found['comments_per_second']} comments/s are fewer than {bounds.min_throughput:g}")
    if found["error_rate"] > bounds.max_error_rate:
        result.append(f"{found['error_rate']:.2%} of the requests failed, above {bounds.max_error_rate:.2%}")
    if not found["requests"]:
        result.append("no request was sent")
    expected = found.get("expected")
    if expected and not found["errors"] and any(found[kind] != amount for kind, amount in expected.items()):
        got = ", ".join(f"{found[kind]} {kind}" for kind in expected)
        result.append(f"expected {', '.join(f'{amount} {kind}' for kind, amount in expected.items())}, got {got}")
    return result


def in_words(found: dict[str, Any]) -> str:
    """The report for a person."""
    latency = "  ".join(f"{name} {value:g}" for name, value in found["latency_ms"].items())
    lines = [
        f"{found['comments']:,} comments in {found['requests']:,} requests, {found['seconds']:g} s",
        f"throughput  {found['comments_per_second']:,} comments/s, {found['requests_per_second']:,} requests/s",
        f"latency ms  {latency}",
        (
            f"answers     {found['stored']:,} stored, {found['updated']:,} updated, {found['duplicates']:,} duplicates, "
            f"{found['rejected']:,} rejected"
        ),
        f"errors      {sum(found['errors'].values()):,}"
        + "".join(f"\n            {amount:,} x {kind}" for kind, amount in found["errors"].items()),
    ]
    if found["retries"]:
        lines.append(f"retries     {found['retries']:,}")
    return "\n".join(lines)
