"""Detects the language of a text (py3langid: 139 languages, no network)."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from comment_monitor.analysis.findings.text import Text

if TYPE_CHECKING:
    from comment_monitor.analysis.findings.ngrams import Classifier

UNKNOWN: Final = "und"
# Of 1,956 real comments about one in five is too short to classify ("lol", "love it"): those score below 0.1. Between
# 0.3 and 0.5 right and wrong guesses are mixed; above 0.5 nearly all are right.
MIN_CONFIDENCE: Final = 0.5
ISO_639_1_LENGTH: Final = 2
# Scripts that continue without a space after an address: Thai, Lao, Khmer, Chinese, Japanese, and Korean particles.
_GLUED: Final = r"\u0e00-\u0eff\u1780-\u17ff\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
# Addresses and names have no language, but would be classified as one.
NOISE: Final = re.compile(rf"https?://[^\s{_GLUED}]++|www\.[^\s{_GLUED}]++|@[^\W{_GLUED}]++")
# More text does not improve the guess, but takes time in proportion to its length.
MAX_LENGTH: Final = 2000


@functools.cache
def _classifier() -> "Classifier":
    # Imported here: the API needs the names of the labels only, not numpy and the model.
    import py3langid.langid  # noqa: PLC0415

    from comment_monitor.analysis.findings.ngrams import Classifier  # noqa: PLC0415

    identifier = py3langid.langid.LanguageIdentifier.from_model_file(py3langid.langid.MODEL_FILE, norm_probs=True)
    # Only languages with a two-letter code: otherwise English comments would be classified as Pidgin and the like.
    # Keeps zxx, the class of texts without a language.
    identifier.set_languages([label for label in identifier.labels if len(label) == ISO_639_1_LENGTH or label == "zxx"])
    return Classifier(identifier)


def find(text: Text, _: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `language` and `language_confidence`."""
    return find_all([text])[0]


def find_all(texts: Sequence[Text]) -> list[dict[str, Any]]:
    """Returns the results of `find` for several texts, in less time than one by one."""
    words = [_without_noise(text.plain[:MAX_LENGTH]) for text in texts]
    with_letters = [index for index, text in enumerate(words) if any(map(str.isalpha, text))]
    found: list[dict[str, Any]] = [{"language": UNKNOWN, "language_confidence": None} for _ in texts]
    guesses = _classifier().classify([words[index] for index in with_letters]) if with_letters else []
    for index, (language, confidence) in zip(with_letters, guesses, strict=True):
        known = confidence >= MIN_CONFIDENCE and language != "zxx"
        found[index] = {"language": language if known else UNKNOWN, "language_confidence": round(confidence, 4)}
    return found


def _without_noise(text: str) -> str:
    if "@" in text or "://" in text or "www." in text:
        return NOISE.sub(" ", text)
    return text
