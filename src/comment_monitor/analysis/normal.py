"""Whether two texts say the same: their normal form, and a digest of it."""

import re
import unicodedata
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from comment_monitor.analysis.rules import REPEATED_MIN_LENGTH

# Characters that show nothing: a campaign adds them to look different each time.
INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]"
)


def normalise(text: str) -> str:
    """Compatibility forms folded, case folded, the invisible dropped, white space collapsed."""
    return " ".join(INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold().split())


def find(text: str, _: Mapping[str, Any]) -> dict[str, Any]:
    """`text_digest`: equal for texts that say the same; None below the length at which that means anything."""
    normal = normalise(text)
    if len(normal) < REPEATED_MIN_LENGTH:
        return {"text_digest": None}
    digest = blake2b(normal.encode(), digest_size=8).digest()
    return {"text_digest": int.from_bytes(digest, "big", signed=True)}
