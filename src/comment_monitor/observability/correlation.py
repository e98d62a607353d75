"""Which requests the comments of an analysis batch came with, as a message tells it to the workers.

For log lines and traces only: a message that is lost takes it along, and what is sent again is known by its batch.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

HEADER: Final = "origins"
# Requests that a message names at most: its headers have to fit into one frame.
MAX_REQUESTS: Final = 64


class RequestContext(NamedTuple):
    """A request: its id, and where its trace goes on (W3C traceparent; empty: it has none)."""

    request_id: str
    trace: str = ""


# The requests behind each outbox row.
RequestContexts = Mapping[int, Sequence[RequestContext]]


def unique(contexts: RequestContexts) -> list[RequestContext]:
    """Each request once, in the order of the batches."""
    return list(dict.fromkeys(one for batch in contexts.values() for one in batch))


def request_ids(contexts: RequestContexts, batches: Iterable[int]) -> list[str]:
    """The ids of the requests behind these batches."""
    return list(dict.fromkeys(one.request_id for batch in batches for one in contexts.get(batch, ())))


def encode(contexts: RequestContexts) -> str:
    """The header's value: `[request id, traceparent, [batch, ...]]` for each request, as JSON; empty: none is known."""
    batches: dict[RequestContext, list[int]] = {}
    for batch, members in contexts.items():
        for one in members:
            if one in batches or len(batches) < MAX_REQUESTS:
                batches.setdefault(one, []).append(batch)
    return json.dumps([[*one, numbers] for one, numbers in batches.items()], separators=(",", ":")) if batches else ""


def decode(header: Any) -> dict[int, list[RequestContext]]:
    """What `encode` said; a header that is none of ours says nothing."""
    result: dict[int, list[RequestContext]] = {}
    try:
        for request_id, trace, batches in json.loads(header or "[]"):
            for batch in batches:
                result.setdefault(batch, []).append(RequestContext(str(request_id), str(trace)))
    except (ValueError, TypeError):
        return {}
    return result


def merge(headers: Iterable[Any]) -> str:
    """The header of several messages that become one."""
    return encode({batch: members for one in headers for batch, members in decode(one).items()})
