"""Detects texts with the same words: their normal form and its digest."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from comment_monitor.analysis.findings.text import Text

# The fewest characters of a repeated text: shorter texts repeat naturally. A run of white space counts as one.
MIN_LENGTH: Final = 14


def normalise(text: Text) -> list[str]:
    """Returns the words, case folded."""
    return text.plain.casefold().split()


def find(text: Text, _: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `text_digest`, equal for texts with the same words; None for texts shorter than MIN_LENGTH."""
    words = normalise(text)
    # Without white space, which may be any of several characters, or missing.
    normal = "".join(words)
    if len(normal) + len(words) - 1 < MIN_LENGTH:
        return {"text_digest": None}
    digest = blake2b(normal.encode(), digest_size=8).digest()
    return {"text_digest": int.from_bytes(digest, "big", signed=True)}
