"""Runs py3langid's classifier on many texts at once, with the same results.

The library spends its time in two places: a loop over every byte in Python, and about ten calls into numpy per text.
The loop runs an automaton, and a word's features depend only on the state at the word's beginning, so they are cached
by state and word. The calls into numpy are made once for all texts.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
from py3langid.langid import LanguageIdentifier

# The most cached words, about 20 MiB; then the cache is cleared. Words longer than LONGEST_WORD are not cached.
WORDS: Final = 50_000
LONGEST_WORD: Final = 24
# Features whose weights are loaded together: 0.5 KB each.
TOGETHER: Final = 4096


class Guess(NamedTuple):
    """A language of the model, and its probability among all of them, 0 to 1."""

    language: str
    confidence: float


class Classifier:
    """Classifies several texts together, with a `LanguageIdentifier` that returns probabilities."""

    def __init__(self, identifier: Any):
        self._identifier: LanguageIdentifier = identifier
        self._words: dict[tuple[int, bytes], tuple[int, list[int]]] = {}
        self._prior = identifier.nb_pc
        # The model's file has half precision, which single precision, used for all computations, represents exactly.
        self._table = np.ascontiguousarray(identifier.nb_ptc, dtype=np.float32)

    def classify(self, texts: Sequence[str]) -> list[Guess]:
        """Returns one guess per text."""
        encoded = [self._identifier._encode(text) for text in texts]  # noqa: SLF001 - its normal form
        scores = self._scores([self._features(text) for text in encoded])
        scores *= np.array([1.0 / len(text) ** 0.5 if text else 1.0 for text in encoded], dtype=np.float32)[:, None]
        np.exp(scores - scores.max(axis=1, keepdims=True), out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        for first, other in self._identifier._alias_pairs:  # noqa: SLF001 - two columns of one language
            scores[:, first] += scores[:, other]
            scores[:, other] = 0.0
        best = scores.argmax(axis=1)
        names = self._identifier.nb_classes
        return [
            Guess(names[at], confidence)
            for at, confidence in zip(best.tolist(), scores[np.arange(len(best)), best].tolist(), strict=True)
        ]

    def _scores(self, features: Sequence[list[int]]) -> Any:
        """Returns log posteriors: a row per text and a column per language; zeros for a text without features."""
        scores = np.zeros((len(features), len(self._prior)), dtype=np.float32)
        start = pending = 0
        for number, found in enumerate(features):
            pending += len(found)
            # Process only as many weights at a time as fit into the processor's cache.
            if pending >= TOGETHER or number == len(features) - 1:
                self._score(features[start : number + 1], scores[start : number + 1])
                start, pending = number + 1, 0
        return scores

    def _score(self, features: Sequence[list[int]], scores: Any) -> None:
        lengths = [len(found) for found in features]
        texts = np.repeat(np.arange(len(features)), lengths)
        # Sorted by text and then by feature: the length of a run of equal keys is the count of a feature in a text.
        keys = texts * len(self._table) + np.fromiter(chain.from_iterable(features), dtype=np.int64, count=sum(lengths))
        if not len(keys):
            return
        keys.sort()
        runs = np.flatnonzero(np.diff(keys, prepend=-1))
        counts = np.diff(runs, append=len(keys))
        texts, kinds = np.divmod(keys[runs], len(self._table))
        weights = self._table.take(kinds, axis=0)
        weights *= np.log1p(counts.astype(np.float32))[:, None]
        begins = np.flatnonzero(np.diff(texts, prepend=-1))
        scores[texts[begins]] = np.add.reduceat(weights, begins, axis=0) + self._prior

    def _features(self, text: bytes) -> list[int]:
        """Returns the numbers of a text's features in order, each as often as it occurs."""
        known = self._words
        *words, last = text.split(b" ")
        state = 0
        found: list[int] = []
        for word in words:
            step = known.get((state, word))
            if step is None:
                step = self._walk(state, word + b" ")
                if len(word) <= LONGEST_WORD:
                    if len(known) >= WORDS:
                        known.clear()
                    known[state, word] = step
            state = step[0]
            found += step[1]
        found += self._walk(state, last)[1]
        return found

    def _walk(self, state: int, part: bytes) -> tuple[int, list[int]]:
        """Returns the automaton's state after these bytes, and the features found on the way."""
        identifier = self._identifier
        found = []
        for letter in part:
            state = identifier.tk_nextmove[identifier._rowbase[state] + letter]  # noqa: SLF001 - the automaton's rows
            feature = identifier.tk_output[state]
            if feature >= 0:
                found.append(feature)
        return state, found
