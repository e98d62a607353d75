"""Analyses a comment's text. Pure functions: text in, findings out, no I/O.

A new finding is one file in `findings/` and one line in FINDINGS.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, Final, NamedTuple

from comment_monitor.analysis.findings import labels, language, repetition, sentiment
from comment_monitor.analysis.findings.text import Text, read
from comment_monitor.analysis.time_limit import TextTimeout, TimeLimit, bounded
from comment_monitor.core.model import Analysis, Failure

RULES_VERSION: Final = "2"
# Stored with every result: the versions of the rules and libraries whose upgrade may change the result.
VERSION: Final = "+".join(
    (
        RULES_VERSION,
        f"py3langid-{version('py3langid')}",
        f"vader-{version('vaderSentiment')}",
        f"emoji-{version('emoji')}",
        f"publicsuffixlist-{version('publicsuffixlist')}",
    )
)

MAX_REASON: Final = 500


Found = Mapping[str, Any]


class Finding(NamedTuple):
    """A named step: takes the text and the results of earlier findings, and returns fields of `Analysis`.

    `find_all` analyses several texts in one call, if that is less work; it does not use earlier findings.
    """

    name: str
    find: Callable[[Text, Found], Found]
    find_all: Callable[[Sequence[Text]], Sequence[Found]] | None = None


FINDINGS: Final = (
    Finding("language", language.find, language.find_all),
    Finding("sentiment", sentiment.find),
    Finding("labels", labels.find),
    Finding("repetition", repetition.find),
)


NO_LIMIT: Final = TimeLimit(math.inf)


def analyse(text: str) -> Analysis | Failure:
    """Runs all findings on a text. An error in a finding makes the result a Failure; this function never raises it."""
    return next(analyse_all([text]))


def analyse_all(texts: Sequence[str], limit: TimeLimit = NO_LIMIT) -> Iterator[Analysis | Failure]:
    """Yields the result of `analyse` for each text, in order; the caller may do other work in between.

    A text that takes longer than `limit.seconds` is a Failure. The results end early at `limit.until`: a text that is
    interrupted then, before `limit.seconds`, has no result, and neither have the texts after it.
    """
    read_texts = [_read(text) for text in texts]
    together = _find_together([text for text in read_texts if isinstance(text, Text)], limit)
    for text in read_texts:
        if isinstance(text, Failure):
            yield text
            continue
        seconds = limit.left
        if seconds <= 0:
            return
        known = {name: next(results) for name, results in together.items()}
        try:
            result = bounded(seconds, partial(_analyse, text, known))
        except TextTimeout as timeout:
            if seconds < limit.seconds:
                return
            result = Failure(reason=f"{timeout.finding}: TextTimeout: no result within {limit.seconds:g} s")
        yield result


def _find_together(texts: Sequence[Text], limit: TimeLimit) -> dict[str, Iterator[Found]]:
    """Returns the results of findings that analyse several texts in one call, by the finding's name."""
    together: dict[str, Iterator[Found]] = {}
    for finding in FINDINGS:
        seconds = min(limit.together, limit.left)
        if finding.find_all is None or len(texts) < 2 or seconds <= 0:  # noqa: PLR2004
            continue
        try:
            together[finding.name] = iter(bounded(seconds, partial(finding.find_all, texts)))
        except (Exception, TextTimeout):  # noqa: BLE001, S112 - then `_analyse` finds the text at fault
            continue
    return together


def _read(text: str) -> Text | Failure:
    try:
        return read(text)
    except Exception as error:  # noqa: BLE001 - as in _analyse
        return _failure("text", error)


def _analyse(text: Text, known: Mapping[str, Found]) -> Analysis | Failure:
    """Runs all findings on a text. `known`: results that `_find_together` has already computed, by name."""
    found: dict[str, Any] = {}
    for finding in FINDINGS:
        try:
            found.update(known.get(finding.name) or finding.find(text, found))
        except TextTimeout as timeout:
            timeout.finding = finding.name
            raise
        except Exception as error:  # noqa: BLE001 - a text that breaks an analyser must not break its batch
            return _failure(finding.name, error)
    return Analysis(**found)


def _failure(name: str, error: Exception) -> Failure:
    reason = f"{name}: {type(error).__name__}: {error}"[:MAX_REASON]
    # The message may quote characters that PostgreSQL's text cannot hold.
    return Failure(reason=reason.replace("\0", "").encode(errors="replace").decode())


def warm_up() -> None:
    """Loads the models and lists, so that the first comment does not wait for them."""
    analyse("Is this the first comment on example.com? \u2764")
