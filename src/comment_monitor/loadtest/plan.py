"""The requests of a run with made-up comments, and the counts that a service without losses answers.

Requests overtake each other on the way, and the outcome must not depend on it. So a comment is either repeated or
edited, never both; every edit has a text of its own; and all comments with one id go to one post.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from comment_monitor.loadtest.texts import NAMES, make_tails, make_texts

SOURCE: Final = "load-test"
# Different texts of a run, and comments that can still be repeated or edited: memory stays level however long it runs.
TEXTS: Final = 4096
REMEMBERED: Final = 20_000
# Share of comments with the same text as another comment, as under real posts.
REPEATED: Final = 0.05
AUTHORS: Final = 997
REPLIES: Final = 0.2
# Fixed, because the same seed makes the same comments.
FIRST_MOMENT: Final = datetime(2026, 1, 1, tzinfo=UTC)
SPACING: Final = timedelta(milliseconds=250)

STORED: Final = "stored"
UPDATED: Final = "updated"
DUPLICATES: Final = "duplicates"

encode: Final = msgspec.json.Encoder().encode
Made = dict[str, Any]


class Expected(NamedTuple):
    """The expected outcomes of a request's comments."""

    stored: int
    updated: int
    duplicates: int


class Load(NamedTuple):
    """One encoded request: its body, its number of comments, and their expected outcomes (None: unknown)."""

    body: bytes
    size: int
    expected: Expected | None


class Mix(NamedTuple):
    """The mix of comments of a run.

    `run_id` begins every id, so that two runs share no id; `duplicates` and `edits` are the shares of all comments
    that repeat an earlier comment or edit one, with a sum of 0 to 1.
    """

    run_id: str
    seed: int
    posts: int
    duplicates: float
    edits: float


def made_up(mix: Mix, *, batch: int, total: int | None) -> Iterator[Load]:
    """Yields requests of `batch` comments, each to one post, up to `total` comments (None: without end)."""
    maker = _Maker(mix)
    left = total
    while left is None or left > 0:
        size = batch if left is None else min(batch, left)
        yield maker.request(size)
        left = None if left is None else left - size


class _Maker:
    def __init__(self, mix: Mix):
        self._mix = mix
        seeded = random.Random(mix.seed)  # noqa: S311 - load, not secrets
        self._random = seeded.random
        self._texts = make_texts(seeded, TEXTS)
        self._tails = make_tails(seeded, TEXTS)
        self._number = 0
        self._capacity = max(REMEMBERED // mix.posts, 1)
        self._repeatable: dict[int, list[Made]] = {}
        self._editable: dict[int, list[Made]] = {}
        self._last: dict[int, str] = {}

    def request(self, size: int) -> Load:
        post = self._below(self._mix.posts)
        made = [self._comment(post) for _ in range(size)]
        kinds = [kind for kind, _ in made]
        body = {"post_id": f"load-{post}", "source": SOURCE, "comments": [comment for _, comment in made]}
        expected = Expected(kinds.count(STORED), kinds.count(UPDATED), kinds.count(DUPLICATES))
        return Load(encode(body), size, expected)

    def _comment(self, post: int) -> tuple[str, Made]:
        self._number += 1
        drawn = self._random()
        if drawn < self._mix.duplicates:
            if known := self._repeatable.get(post):
                return DUPLICATES, known[self._below(len(known))]
        elif drawn < self._mix.duplicates + self._mix.edits and (known := self._editable.get(post)):
            # The number makes the text differ from every other version.
            text = f"{self._text()} (edit {self._number})"
            return UPDATED, {**known[self._below(len(known))], "text": text}
        return STORED, self._new(post)

    def _new(self, post: int) -> Made:
        made: Made = {
            "id": f"{self._mix.run_id}-{self._number}",
            "text": self._text(),
            "author": f"{NAMES[self._below(len(NAMES))]}{self._number % AUTHORS}",
            "timestamp": FIRST_MOMENT + SPACING * self._number,
        }
        if self._random() < REPLIES and post in self._last:
            made["parent_id"] = self._last[post]
        self._last[post] = made["id"]
        self._remember(post, made)
        return made

    def _remember(self, post: int, made: Made) -> None:
        repeats, edits = self._mix.duplicates, self._mix.edits
        if not repeats and not edits:
            return
        side = self._repeatable if self._random() * (repeats + edits) < repeats else self._editable
        known = side.setdefault(post, [])
        if len(known) < self._capacity:
            known.append(made)
        else:
            known[self._below(self._capacity)] = made

    def _text(self) -> str:
        text = self._texts[self._below(TEXTS)]
        return text if self._random() < REPEATED else text + self._tails[self._below(TEXTS)]

    def _below(self, bound: int) -> int:
        return int(self._random() * bound)
