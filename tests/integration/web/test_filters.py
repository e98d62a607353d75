"""Filters and names as people write them: times, spellings, ids with slashes, and invalid filters."""

from datetime import datetime, timedelta
from typing import Any, Final

import httpx
import pytest
from tests.support.intake import process
from tests.support.requests import comment


async def found(client: httpx.AsyncClient, path: str) -> list[str]:
    """Returns the ids on a page."""
    response = await client.get(path)
    assert response.status_code == 200, response.text
    items: list[dict[str, Any]] = response.json()["items"]
    return [item["id"] for item in items]


MOMENT: Final = "2026-01-31T09:30:00Z"
# A time as it is written in a URL, and in a comment's `timestamp`.
TIMES: Final = {
    "2026-01-31T09:30:00Z": "2026-01-31T09:30:00Z",
    "2026-01-31t09:30:00z": "2026-01-31t09:30:00z",
    "2026-01-31%2009:30:00%2B00:00": "2026-01-31 09:30:00+00:00",
    "2026-01-31+09:30:00%2B00:00": "2026-01-31 09:30:00+00:00",
    "2026-01-31+09:30:00+00:00": "2026-01-31 09:30:00+00:00",
    "2026-01-31T10:30:00+01:00": "2026-01-31T10:30:00+01:00",
    "2026-01-31T10:30:00%2B0100": "2026-01-31T10:30:00+0100",
    "2026-01-31T09:30:00.000-00:00": "2026-01-31T09:30:00.000-00:00",
    "%202026-01-31T09:30:00Z%20": " 2026-01-31T09:30:00Z ",
}


@pytest.mark.parametrize("given", TIMES)
async def test_since_and_until_accept_the_formats_of_a_comments_timestamp(
    client: httpx.AsyncClient, given: str
) -> None:
    before = datetime.fromisoformat(MOMENT) - timedelta(microseconds=1)
    await process(client, comment("at", timestamp=TIMES[given]), comment("before", timestamp=before.isoformat()))
    assert (await client.get("/comments/threads/at")).json()["timestamp"] == MOMENT
    assert await found(client, f"/comments?since={given}") == ["at"]
    assert await found(client, f"/comments?until={given}") == ["before"]


WRONG: Final = {
    "since=2026-01-31T09:30:00": "`since` has no offset from UTC",
    "until=2026-01-31+09:30:00": "`until` has no offset from UTC",
    "since=yesterday": "`since` must be RFC 3339",
    "since=1769851800": "`since` must be RFC 3339",
    "since=0001-01-01T00:00:00%2B05:00": "`since` lies at or beyond the ends of the years",
    "label=questions": "`label` must be one of link, mention, question, repeated, shouting",
    "label=Question": "`label` must be one of",
    "label=": "`label` must be one of",
    "sentiment=Positive": "`sentiment` must be one of",
    "language=EN": "`language` must be",
    "id=1": "`id` needs `source`",
    "source=threads&id=%00": "`id` holds a NUL character",
}


@pytest.mark.parametrize("query", WRONG, ids=lambda query: query.replace("&", "-"))
async def test_an_invalid_filter_gets_400_with_its_name(client: httpx.AsyncClient, query: str) -> None:
    response = await client.get(f"/comments?{query}")
    assert response.status_code == 400
    assert WRONG[query] in response.json()["detail"]


@pytest.mark.parametrize("source", ["threads", "Threads", "%20threads"])
async def test_a_source_is_found_in_any_spelling(client: httpx.AsyncClient, source: str) -> None:
    await process(client, comment(1), source=" THREADS ")
    assert await found(client, f"/comments?source={source}") == ["1"]
    assert (await client.get(f"/comments/{source}/1")).json()["source"] == "threads"
    assert (await client.get(f"/posts/{source}/post/summary")).json()["source"] == "threads"


async def test_an_unknown_id_gets_an_empty_page(client: httpx.AsyncClient) -> None:
    await process(client, comment("a/b"))
    assert await found(client, "/comments?source=threads&id=a/b") == ["a/b"]
    assert await found(client, "/comments?source=threads&id=a") == []
    assert (await client.get("/posts/summary?source=threads&post_id=a")).status_code == 404
