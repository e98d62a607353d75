"""Which comments of one write go to PostgreSQL, and in which order, when identities repeat within the write.

One statement can touch a row once. So the first occurrence of each identity goes in the first wave, a later one
with another text (an edit of it) in the next, and so on; a repeat of the same text goes nowhere. Nearly always
there is one wave.
"""

from collections import Counter
from collections.abc import Sequence

from comment_monitor.dedup import Known
from comment_monitor.model import DUPLICATE, STORED, UPDATED, Comment, Fate
from comment_monitor.store import Written


class Plan:
    """The waves of one write, as indexes into `comments`; after `apply`, the fate of every comment.

    `seen`: which of them Redis knows. `found`: indexes of those that PostgreSQL was asked about and has, where no
    identity stands in the write twice.
    """

    def __init__(self, comments: Sequence[Comment], seen: Sequence[bool], found: Sequence[int] = ()):
        self.comments = comments
        self._keys = keys = [(one.source, one.id) for one in comments]
        self.waves: list[list[int]] = []
        self.duplicates: Counter[str] = Counter()
        self.fates: list[Fate] = [DUPLICATE] * len(comments)
        if len(set(keys)) == len(keys):
            self._take_distinct(seen, frozenset(found))
        else:
            self._take_repeated(seen)
        for wave in self.waves:
            # Two writers that lock the same rows do so in the same order, and so never wait for each other in a ring.
            wave.sort(key=keys.__getitem__)

    def _take_distinct(self, seen: Sequence[bool], found: frozenset[int]) -> None:
        """Nearly always: no identity stands in the write twice."""
        wave = [index for index, known in enumerate(seen) if not known and index not in found]
        self.waves = [wave] if wave else []
        if len(wave) < len(seen):
            self.duplicates["cache"] = len(seen) - len(wave) - len(found)
            self.duplicates["database"] = len(found)

    def _take_repeated(self, seen: Sequence[bool]) -> None:
        latest: dict[tuple[str, str], tuple[str, int]] = {}
        for index, (key, comment) in enumerate(zip(self._keys, self.comments, strict=True)):
            text, depth = latest.get(key, (None, 0))
            if text == comment.text:
                self.duplicates["request"] += 1
            elif text is None and seen[index]:
                self.duplicates["cache"] += 1
                latest[key] = (comment.text, 0)
            else:
                if depth == len(self.waves):
                    self.waves.append([])
                self.waves[depth].append(index)
                latest[key] = (comment.text, depth + 1)

    def wave(self, number: int) -> list[Comment]:
        """The comments of one wave, sorted by identity."""
        return [self.comments[index] for index in self.waves[number]]

    def apply(self, written: Sequence[Written]) -> list[tuple[int, int]]:
        """Takes over what each wave's write did; returns index and revision of what Redis should remember of it.

        A duplicate's revision is not known here: 0, which yields to whatever Redis holds.
        """
        known: dict[tuple[str, str], tuple[int, int]] = {}
        for wave, result in zip(self.waves, written, strict=True):
            otherwise = (STORED, 1) if result.all_new else (DUPLICATE, 0)
            for index in wave:
                key = self._keys[index]
                fate, revision = result.fates.get(key, otherwise)
                self.fates[index] = fate
                known[key] = (index, revision)
                if fate is DUPLICATE:
                    self.duplicates["database"] += 1
        return list(known.values())

    def queued(self, written: Sequence[Written], size: int) -> dict[int, list[int]]:
        """The indexes of the comments in each outbox row, of `size` at the most."""
        rows: dict[int, list[int]] = {}
        for wave, result in zip(self.waves, written, strict=True):
            order = wave
            if not result.all_new:
                places = {self._keys[index]: index for index in wave}
                order = [places[key] for key in result.fates]
            for number, outbox_id in enumerate(result.outbox):
                rows[outbox_id] = order[number * size : (number + 1) * size]
        return rows

    def edited(self, written: Sequence[Written]) -> list[Known]:
        """The comments whose text a write replaced, each with its latest revision."""
        known: dict[tuple[str, str], Known] = {}
        for wave, result in zip(self.waves, written, strict=True):
            for index in wave if result.fates else ():
                key = self._keys[index]
                _, revision = result.fates.get(key, (DUPLICATE, 0))
                if revision > 1:
                    known[key] = Known(self.comments[index], revision)
        return list(known.values())

    def new_and_edited(self) -> tuple[int, int]:
        """How many comments were stored and how many updated."""
        return self.fates.count(STORED), self.fates.count(UPDATED)
