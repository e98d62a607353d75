"""The requests of the comments in an analysis batch, as a message header passes them to the workers.

For log lines and traces only: a lost message loses them, and a batch that is sent again is identified by its id only.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

HEADER: Final = "origins"
# Maximum number of requests in a message, because its headers have to fit into one frame.
MAX_REQUESTS: Final = 64


class RequestContext(NamedTuple):
    """A request: its id, and the parent of its further spans (W3C traceparent; empty: no trace)."""

    request_id: str
    trace: str = ""


# The requests behind each outbox row.
RequestContexts = Mapping[int, Sequence[RequestContext]]


def unique(contexts: RequestContexts) -> list[RequestContext]:
    """Returns each request once, in the order of the batches."""
    return list(dict.fromkeys(context for batch in contexts.values() for context in batch))


def request_ids(contexts: RequestContexts, batches: Iterable[int]) -> list[str]:
    """Returns the ids of the requests whose comments are in these batches."""
    return list(dict.fromkeys(context.request_id for batch in batches for context in contexts.get(batch, ())))


def encode(contexts: RequestContexts) -> str:
    """Returns the header: a JSON list of `[request id, traceparent, [batch, ...]]`; empty where no request is known."""
    batches: dict[RequestContext, list[int]] = {}
    for batch, members in contexts.items():
        for context in members:
            if context in batches or len(batches) < MAX_REQUESTS:
                batches.setdefault(context, []).append(batch)
    entries = [[*context, numbers] for context, numbers in batches.items()]
    return json.dumps(entries, separators=(",", ":")) if entries else ""


def decode(header: Any) -> dict[int, list[RequestContext]]:
    """Returns the contexts in a header of `encode`; for a foreign header, an empty dict."""
    result: dict[int, list[RequestContext]] = {}
    try:
        for request_id, trace, batches in json.loads(header or "[]"):
            for batch in batches:
                result.setdefault(batch, []).append(RequestContext(str(request_id), str(trace)))
    except (ValueError, TypeError):
        return {}
    return result


def merge(headers: Iterable[Any]) -> str:
    """Returns the header for a message that combines several messages."""
    return encode({batch: members for header in headers for batch, members in decode(header).items()})
