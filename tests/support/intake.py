"""`POST /comments/process` as a client uses it, and the invariants of every response."""

import asyncio
from typing import Any

import httpx

from comment_monitor.web.lifecycle import Lifecycle
from tests.conftest import until
from tests.support.requests import adds_up, body, comment

PATH = "/comments/process"


async def process(client: httpx.AsyncClient, *comments: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Sends comments; asserts a response 200 with counts that add up, and returns it."""
    return accepted(await client.post(PATH, json=body(*comments, **more)))


def accepted(response: httpx.Response) -> dict[str, Any]:
    """Asserts that a request was accepted; returns the response."""
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert adds_up(answer)
    return answer


def outcome_counts(answer: dict[str, Any]) -> tuple[int, int, int, int]:
    """Returns how many comments were stored, updated, duplicate and rejected."""
    return answer["stored"], answer["updated"], answer["duplicates"], len(answer["rejected"])


def refused(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """Asserts that a request was refused, with all invariants of a problem document; returns the document."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"].split(";")[0] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == f"urn:comment-monitor:problem:{slug}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert document["request_id"] == response.headers["X-Request-ID"]
    assert ("Retry-After" in response.headers) == (status in {429, 503})
    assert int(response.headers.get("Retry-After", "1")) > 0
    return document


def several(amount: int, prefix: str = "c") -> list[dict[str, Any]]:
    """Returns comments with different ids."""
    return [comment(f"{prefix}{number}") for number in range(amount)]


def in_turn(client: httpx.AsyncClient, *requests: list[dict[str, Any]]) -> list["asyncio.Task[dict[str, Any]]"]:
    """Starts requests that run concurrently."""
    return [asyncio.create_task(process(client, *comments)) for comments in requests]


async def queued(client: httpx.AsyncClient, comments: int) -> None:
    """Waits until this many comments are accepted and not yet committed."""
    await until(lambda: len(lifecycle(client).runtime.pipeline.queue) == comments)


def lifecycle(client: httpx.AsyncClient) -> Lifecycle:
    """Returns the lifecycle of the application behind a client of `open_client`."""
    found: Lifecycle = client.app.state.lifecycle  # type: ignore[attr-defined]
    return found
