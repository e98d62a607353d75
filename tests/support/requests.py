"""Short forms for requests and comments."""

import json
from typing import Any

from comment_monitor.core.model import Parsed
from comment_monitor.intake.request_parser import parse_request


def comment(id_: object, text: str | None = None, **more: Any) -> dict[str, Any]:
    """Returns a comment as a client sends it."""
    return {"id": str(id_), "text": f"text of {id_}" if text is None else text, "author": "ana", **more}


def body(*comments: dict[str, Any], post_id: str = "post", **more: Any) -> dict[str, Any]:
    """Returns the body of a request."""
    return {"post_id": post_id, "comments": list(comments), **more}


def parsed(*comments: dict[str, Any], **more: Any) -> Parsed:
    """Returns a parsed request."""
    return parse_request(json.dumps(body(*comments, **more)).encode(), max_comments=10_000)


def adds_up(answer: dict[str, Any]) -> bool:
    """Whether the counts of a response meet their invariant."""
    parts = answer["stored"] + answer["updated"] + answer["duplicates"] + len(answer["rejected"])
    return bool(answer["received"] == parts and answer["queued"] == answer["stored"] + answer["updated"])
