"""Which language a text is in (py3langid: 139 languages, no network)."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import py3langid.langid

from comment_monitor.analysis.findings.ngrams import Classifier
from comment_monitor.analysis.findings.text import Text

UNKNOWN: Final = "und"
# Of 1,956 real comments about every fifth is too short to tell ("lol", "love it"): those score under a tenth. Between
# 0.3 and 0.5 right and wrong guesses are mixed; above it nearly all are right.
MIN_CONFIDENCE: Final = 0.5
ISO_639_1_LENGTH: Final = 2
# Scripts in which the sentence goes on without a space: Thai, Lao and Khmer, Chinese, Japanese, and Korean's particles.
_GLUED: Final = r"\u0e00-\u0eff\u1780-\u17ff\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
# Addresses and names are no language, and would be taken for one.
NOISE: Final = re.compile(rf"https?://[^\s{_GLUED}]++|www\.[^\s{_GLUED}]++|@[^\W{_GLUED}]++")
# More text makes no better guess, but costs its length.
MAX_LENGTH: Final = 2000


@functools.cache
def _classifier() -> Classifier:
    identifier = py3langid.langid.LanguageIdentifier.from_model_file(py3langid.langid.MODEL_FILE, norm_probs=True)
    # Two-letter languages only: Pidgin and other relatives of English would claim English comments. zxx stays, so that
    # what is no language at all has where to go.
    identifier.set_languages([one for one in identifier.labels if len(one) == ISO_639_1_LENGTH or one == "zxx"])
    return Classifier(identifier)


def find(text: Text, _: Mapping[str, Any]) -> dict[str, Any]:
    """`language` and `language_confidence`."""
    return find_all([text])[0]


def find_all(texts: Sequence[Text]) -> list[dict[str, Any]]:
    """The same for several texts, in less time than one by one."""
    words = [_without_noise(text.plain[:MAX_LENGTH]) for text in texts]
    sayable = [index for index, one in enumerate(words) if any(map(str.isalpha, one))]
    found: list[dict[str, Any]] = [{"language": UNKNOWN, "language_confidence": None} for _ in texts]
    guesses = _classifier().classify([words[index] for index in sayable]) if sayable else []
    for index, (language, confidence) in zip(sayable, guesses, strict=True):
        told = confidence >= MIN_CONFIDENCE and language != "zxx"
        found[index] = {"language": language if told else UNKNOWN, "language_confidence": round(confidence, 4)}
    return found


def _without_noise(text: str) -> str:
    if "@" in text or "://" in text or "www." in text:
        return NOISE.sub(" ", text)
    return text
