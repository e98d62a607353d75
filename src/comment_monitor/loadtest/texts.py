"""Comments made up for load: lengths, languages and habits of real ones, the same for the same seed."""

import random
from collections.abc import Iterator
from typing import Final, NamedTuple

SENTENCES: Final = (
    "Love this",
    "first",
    "Where can I buy this?",
    "Is there a version for Linux?",
    "Thanks for sharing, this helped me a lot",
    "I do not agree with this at all",
    "Worst update ever, please bring back the old one",
    "@{name} have you seen this?",
    "@{name} totally agree with you",
    "Check out https://example.com/{number} for more",
    "WHY IS NOBODY TALKING ABOUT THIS",
    "Das ist wirklich gut gemacht, danke",
    "C'est magnifique, merci beaucoup",
    "¿Cuándo sale la segunda parte?",
    "Очень интересно, спасибо",
    "素晴らしい動画をありがとう",
    "lol {number}",
    "I have been waiting for this since {number}",
    "My order {number} has not arrived, who can help?",
    "So proud of you, keep going 💪",
)
NAMES: Final = ("ana", "ben", "chen", "dara", "eli", "fatima", "goran", "hana", "ivan", "june")
# A real comment has about 50 characters in the median; some run to many sentences.
SENTENCE_COUNTS: Final = (1, 1, 1, 1, 2, 2, 3, 8)


class Made(NamedTuple):
    """A comment as it goes into a request, and its post."""

    post: int
    comment: dict[str, str]


class Expected:
    """What a service that loses and doubles nothing answers to the comments made so far."""

    def __init__(self) -> None:
        self.stored = 0
        self.updated = 0
        self.duplicates = 0


def make_comments(
    *, run_id: str, seed: int, posts: int, duplicates: float, edits: float, expected: Expected
) -> Iterator[Made]:
    """An endless row of comments.

    Args:
        run_id: prefix of all ids, so that two runs do not meet.
        seed: the same seed makes the same comments.
        posts: over how many posts they are spread.
        duplicates: share of comments that repeat an earlier one.
        edits: share of comments that bring an earlier one with another text.
        expected: counts along.
    """
    choice = random.Random(seed)  # noqa: S311 - load, not secrets
    recent: list[Made] = []
    number = 0
    while True:
        kind = choice.random()
        if recent and kind < duplicates:
            expected.duplicates += 1
            yield choice.choice(recent)
            continue
        if recent and kind < duplicates + edits:
            at = choice.randrange(len(recent))
            number += 1
            old = recent[at]
            recent[at] = Made(old.post, {**old.comment, "text": f"{_text(choice, number)} (edit {number})"})
            expected.updated += 1
            yield recent[at]
            continue
        number += 1
        author = choice.choice(NAMES)
        made = Made(
            choice.randrange(posts),
            {"id": f"{run_id}-{number}", "text": _text(choice, number), "author": f"{author}{number % 997}"},
        )
        expected.stored += 1
        if len(recent) < REMEMBERED:
            recent.append(made)
        else:
            recent[choice.randrange(REMEMBERED)] = made
        yield made


# How many comments can be repeated or edited: memory stays level however long it runs.
REMEMBERED: Final = 10_000


def _text(choice: random.Random, number: int) -> str:
    parts = (choice.choice(SENTENCES) for _ in range(choice.choice(SENTENCE_COUNTS)))
    return ". ".join(parts).format(name=choice.choice(NAMES), number=number)
