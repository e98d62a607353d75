"""Whether two texts say the same: their normal form, and a digest of it."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from comment_monitor.analysis.findings.text import Text

# Shorter texts repeat naturally. Runs of white space count as one character.
MIN_LENGTH: Final = 14


def normalise(text: Text) -> list[str]:
    """The words, case folded."""
    return text.plain.casefold().split()


def find(text: Text, _: Mapping[str, Any]) -> dict[str, Any]:
    """`text_digest`: equal for texts that say the same; None below the length at which that means anything."""
    words = normalise(text)
    # Without what separates the words: that may be one of many characters, or none.
    normal = "".join(words)
    if len(normal) + len(words) - 1 < MIN_LENGTH:
        return {"text_digest": None}
    digest = blake2b(normal.encode(), digest_size=8).digest()
    return {"text_digest": int.from_bytes(digest, "big", signed=True)}
