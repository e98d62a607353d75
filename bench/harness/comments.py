"""The comments to send: as requests for the service, and as columns for the reference measurements."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from comment_monitor.loadtest.texts import make_tails, make_texts

SOURCE: Final = "threads"
TEXTS: Final = 5_000
AUTHORS: Final = 50_000
BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
SPAN: Final = timedelta(days=300)


class Columns(NamedTuple):
    """Comments by column, as PostgreSQL's `unnest` takes them."""

    ids: list[str]
    posts: list[str]
    authors: list[str]
    texts: list[str]
    moments: list[datetime]

    def slices(self, size: int) -> "Iterator[Columns]":
        """Yields `size` comments at a time."""
        for at in range(0, len(self.ids), size):
            ids, posts, authors, texts, moments = self
            part = slice(at, at + size)
            yield Columns(ids[part], posts[part], authors[part], texts[part], moments[part])


def make_columns(amount: int, *, run: int, per_post: int = 1000) -> Columns:
    """Returns `amount` comments, none of which is in another run; a post has `per_post` comments.

    Identifiers are 17 digits in random order, as on the platforms; the texts are as long as real texts.
    """
    choice = random.Random(run)
    texts, tails = make_texts(choice, TEXTS), make_tails(choice, TEXTS)
    return Columns(
        ids=[f"{run % 10}{number:016d}" for number in _distinct(choice, amount)],
        posts=[f"{run}-{at // per_post}" for at in range(amount)],
        authors=[f"author{choice.randrange(AUTHORS)}" for _ in range(amount)],
        texts=[choice.choice(texts) + choice.choice(tails) for _ in range(amount)],
        moments=[BEGIN + SPAN * choice.random() for _ in range(amount)],
    )


def _distinct(choice: random.Random, amount: int) -> list[int]:
    return choice.sample(range(10**16), amount)


def make_bodies(columns: Columns, size: int) -> list[bytes]:
    """Returns the requests' bodies, with `size` comments in each."""
    return [_body(part) for part in columns.slices(size)]


def _body(part: Columns) -> bytes:
    comments = [
        {"id": id_, "text": text, "author": author, "timestamp": moment.isoformat()}
        for id_, _, author, text, moment in zip(*part, strict=True)
    ]
    request = {"post_id": part.posts[0], "source": SOURCE, "comments": comments}
    return json.dumps(request, ensure_ascii=False).encode()
