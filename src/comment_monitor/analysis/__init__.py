"""What is found in a comment's text. Pure functions: text in, findings out, no I/O.

It grows by one file and one line in FINDINGS.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import msgspec

from comment_monitor.analysis import language, normal, rules, sentiment

RULES_VERSION: Final = "1"
# Named with every result: what an upgrade of a library or a rule would find anew can be told from what it would not.
VERSION: Final = f"{RULES_VERSION}+py3langid-{version('py3langid')}+vader-{version('vaderSentiment')}"

MAX_REASON: Final = 500


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one text."""

    language: str  # ISO 639-1, or "und": can't be told
    language_confidence: float | None  # 0 to 1
    sentiment: str | None  # positive, neutral, negative; None: not said of this language
    sentiment_score: float | None  # -1 to 1
    labels: tuple[str, ...]  # sorted
    text_digest: int | None  # signed 64 bits of the normalised text; None: too short to count as a repetition


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a text could not be analysed: "<finding>: <error>: <message>"."""

    reason: str


Found = Mapping[str, Any]


class Finding(NamedTuple):
    """A named step: takes the text and what was found before it, returns fields of `Analysis`.

    `find_all` takes texts together, where that is less work; it needs nothing of what was found before.
    """

    name: str
    find: Callable[[str, Found], Found]
    find_all: Callable[[Sequence[str]], Sequence[Found]] | None = None


FINDINGS: Final = (
    Finding("language", language.find, language.find_all),
    Finding("sentiment", sentiment.find),
    Finding("labels", rules.find),
    Finding("repetition", normal.find),
)


def analyse(text: str) -> Analysis | Failure:
    """Walks all findings. An error inside one makes the result a Failure; it never leaves this function."""
    return next(analyse_all([text]))


def analyse_all(texts: Sequence[str]) -> Iterator[Analysis | Failure]:
    """The same for each of several texts, in their order; whoever asks may do something else in between."""
    together: dict[str, Sequence[Found]] = {}
    for finding in FINDINGS:
        if finding.find_all and len(texts) > 1:
            # One that fails with them all is asked about each, to find the text at fault.
            with suppress(Exception):
                together[finding.name] = finding.find_all(texts)
    for index, text in enumerate(texts):
        yield _analyse(text, {name: results[index] for name, results in together.items()})


def _analyse(text: str, known: Mapping[str, Found]) -> Analysis | Failure:
    """`known`: what findings by these names have found already."""
    found: dict[str, Any] = {}
    for finding in FINDINGS:
        try:
            found.update(known.get(finding.name) or finding.find(text, found))
        except Exception as error:  # noqa: BLE001 - a text that breaks an analyser must not break its batch
            reason = f"{finding.name}: {type(error).__name__}: {error}"[:MAX_REASON]
            # It may quote what PostgreSQL's text can't hold.
            return Failure(reason=reason.replace("\0", "").encode(errors="replace").decode())
    return Analysis(**found)


def warm_up() -> None:
    """Loads the models, so that the first comment does not wait for them."""
    analyse("Is this the first comment?")
