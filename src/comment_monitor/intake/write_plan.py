"""Which comments of one write go to PostgreSQL, and in which order, when identities repeat within the write.

One statement can touch a row once. So the first occurrence of each identity goes in the first round, a later one
that says something else in the next, and so on; an exact repeat goes nowhere. Nearly always there is one round.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from comment_monitor.core.model import CONFLICT, DUPLICATE, STORED, UPDATED, Comment, Outcome
from comment_monitor.intake.dedup_cache import Known
from comment_monitor.storage.comments import SAME, Unchanged, Written

# Texts of one comment in one write: each is a statement, and for so long others wait for its writer.
MAX_ROUNDS: Final = 32


def runs(comments: Sequence[Comment]) -> Iterator[Sequence[Comment]]:
    """The comments in their order: as one write, or where one of them has many texts as several, each after the other.

    Between these, others have their turn.
    """
    begin = 0
    texts: Counter[tuple[str, str]] = Counter()
    latest: dict[tuple[str, str], object] = {}
    for index, comment in enumerate(comments):
        if latest.get(comment.key) == comment.content:
            continue
        if texts[comment.key] == MAX_ROUNDS:
            yield comments[begin:index]
            begin = index
            # A write knows nothing of the one before: a text that was the latest there is one of its own here.
            texts.clear()
            latest.clear()
        texts[comment.key] += 1
        latest[comment.key] = comment.content
    yield comments[begin:]


class WritePlan:
    """The rounds of one write, as indexes into `comments`; after `record_results`, the outcome of every comment.

    `cached`: which of them Redis knows. `found`: indexes of those that PostgreSQL was asked about and has, where no
    identity stands in the write twice.
    """

    def __init__(self, comments: Sequence[Comment], cached: Sequence[bool], found: Sequence[int] = ()):
        self.comments = comments
        self._keys = keys = [(one.source, one.id) for one in comments]
        self.rounds: list[list[int]] = []
        self.duplicates: Counter[str] = Counter()
        self.outcomes: list[Outcome] = [DUPLICATE] * len(comments)
        # Of each repeat within the write, the comment that it repeats: what becomes of that one becomes of both.
        self._repeats: dict[int, int] = {}
        if len(set(keys)) == len(keys):
            self._take_distinct(cached, frozenset(found))
        else:
            self._take_repeated(cached)
        for round_ in self.rounds:
            # Two writers that lock the same rows do so in the same order, and so never wait for each other in a cycle.
            round_.sort(key=keys.__getitem__)

    def _take_distinct(self, cached: Sequence[bool], found: frozenset[int]) -> None:
        """Nearly always: no identity stands in the write twice."""
        round_ = [index for index, known in enumerate(cached) if not known and index not in found]
        self.rounds = [round_] if round_ else []
        if len(round_) < len(cached):
            self.duplicates["cache"] = len(cached) - len(round_) - len(found)
            self.duplicates["database"] = len(found)

    def _take_repeated(self, cached: Sequence[bool]) -> None:
        latest: dict[tuple[str, str], tuple[int, int]] = {}
        for index, (key, comment) in enumerate(zip(self._keys, self.comments, strict=True)):
            before, depth = latest.get(key, (None, 0))
            if before is not None and self.comments[before].content == comment.content:
                self._repeats[index] = before
                continue
            if before is None and cached[index]:
                self.duplicates["cache"] += 1
            else:
                if depth == len(self.rounds):
                    self.rounds.append([])
                self.rounds[depth].append(index)
                depth += 1
            latest[key] = (index, depth)

    def split_off(self, added: Written) -> None:
        """What was added of the only round becomes a round by itself, and the rest the next."""
        [round_] = self.rounds
        self.rounds = [[], []]
        for index in round_:
            self.rounds[self._keys[index] not in added.outcomes].append(index)

    def comments_of(self, number: int) -> list[Comment]:
        """The comments of one round, sorted by identity."""
        return [self.comments[index] for index in self.rounds[number]]

    def record_results(self, written: Sequence[Written]) -> list[tuple[int, int]]:
        """Records what the write of each round did; returns index and revision of what Redis should store of it."""
        known: dict[tuple[str, str], tuple[int, int]] = {}
        for round_, result in zip(self.rounds, written, strict=True):
            for index in round_:
                key = self._keys[index]
                if key in result.outcomes or result.all_new:
                    self.outcomes[index], revision = result.outcomes.get(key, (STORED, 1))
                    known[key] = (index, revision)
                elif self._take_unchanged(index, result.unchanged.get(key, SAME)):
                    known[key] = (index, result.unchanged.get(key, SAME).revision)
        for index, before in self._repeats.items():
            if self.outcomes[before].status == "rejected":
                self.outcomes[index] = self.outcomes[before]
            else:
                self.duplicates["request"] += 1
        return list(known.values())

    def _take_unchanged(self, index: int, row: Unchanged) -> bool:
        """Takes over that a row kept its text; returns whether the row holds just what came."""
        if row.outcome == "conflict":
            self.outcomes[index] = Outcome("rejected", self._conflict(self.comments[index], row))
            return False
        self.outcomes[index] = DUPLICATE
        self.duplicates["version" if row.outcome == "version" else "database"] += 1
        return row.outcome == "same"

    @staticmethod
    def _conflict(comment: Comment, row: Unchanged) -> str:
        reason = f"{CONFLICT.format(comment.id)} (post {row.post_id})"
        return reason if row.post_id != comment.post_id else f"{reason}, by another author"

    def rows_by_outbox_id(self, written: Sequence[Written], size: int) -> dict[int, list[int]]:
        """The indexes of the comments in each outbox row, of `size` at most."""
        rows: dict[int, list[int]] = {}
        for round_, result in zip(self.rounds, written, strict=True):
            order = round_
            if not result.all_new:
                places = {self._keys[index]: index for index in round_}
                order = [places[key] for key in result.outcomes]
            for number, outbox_id in enumerate(result.outbox):
                rows[outbox_id] = order[number * size : (number + 1) * size]
        return rows

    def edited(self, written: Sequence[Written]) -> list[Known]:
        """The comments whose text a write replaced, each with its latest revision."""
        known: dict[tuple[str, str], Known] = {}
        for round_, result in zip(self.rounds, written, strict=True):
            for index in round_ if result.outcomes else ():
                key = self._keys[index]
                _, revision = result.outcomes.get(key, (DUPLICATE, 0))
                if revision > 1:
                    known[key] = Known(self.comments[index], revision)
        return list(known.values())

    def new_and_edited(self) -> tuple[int, int]:
        """How many comments were stored and how many updated."""
        return self.outcomes.count(STORED), self.outcomes.count(UPDATED)
