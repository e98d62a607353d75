"""Decides which comments of one write go to PostgreSQL, and in which order, when identities repeat within the write.

One statement can change a row once. So the first occurrence of each identity is written in the first round, a later
occurrence with other content in the next round, and so on; an exact repeat is not written. Nearly always there is one
round.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from comment_monitor.core.model import CONFLICT, DUPLICATE, STORED, UPDATED, Comment, Outcome
from comment_monitor.intake.dedup_cache import Known
from comment_monitor.storage.comments import SAME, Unchanged, Written

# Texts of one comment in one write: each needs a statement, and other requests wait for the writer meanwhile.
MAX_ROUNDS: Final = 32


def runs(comments: Sequence[Comment]) -> Iterator[Sequence[Comment]]:
    """Yields the comments, in order, as one write, or as several if one comment has more than `MAX_ROUNDS` texts.

    Other requests can be written between two of these writes.
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
            # Each write counts separately: a text equal to the latest of the previous write is a text of its own here.
            texts.clear()
            latest.clear()
        texts[comment.key] += 1
        latest[comment.key] = comment.content
    yield comments[begin:]


class WritePlan:
    """The rounds of one write, as indexes into `comments`; after `record_results`, the outcome of every comment.

    `cached`: for each comment, whether Redis knows it. `found`: indexes of the comments that a query found in
    PostgreSQL; only for a write in which no identity repeats.
    """

    def __init__(self, comments: Sequence[Comment], cached: Sequence[bool], found: Sequence[int] = ()):
        self.comments = comments
        self._keys = keys = [(comment.source, comment.id) for comment in comments]
        self.rounds: list[list[int]] = []
        self.duplicates: Counter[str] = Counter()
        self.outcomes: list[Outcome] = [DUPLICATE] * len(comments)
        # For each repeat within the write, the comment that it repeats: both get the same outcome.
        self._repeats: dict[int, int] = {}
        if len(set(keys)) == len(keys):
            self._take_distinct(cached, frozenset(found))
        else:
            self._take_repeated(cached)
        for round_ in self.rounds:
            # All writers lock rows in the same order, so they never wait for each other in a lock cycle.
            round_.sort(key=keys.__getitem__)

    def _take_distinct(self, cached: Sequence[bool], found: frozenset[int]) -> None:
        """Plans a write in which no identity repeats, as nearly always."""
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
        """Splits the only round: the added comments become the first round, the others the second."""
        [round_] = self.rounds
        self.rounds = [[], []]
        for index in round_:
            self.rounds[self._keys[index] not in added.outcomes].append(index)

    def comments_of(self, number: int) -> list[Comment]:
        """Returns the comments of one round, sorted by identity."""
        return [self.comments[index] for index in self.rounds[number]]

    def record_results(self, written: Sequence[Written]) -> list[tuple[int, int]]:
        """Records the result of each round; returns index and revision of each comment that Redis should store."""
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
        """Records the outcome for a row that kept its text; returns whether the row equals the comment."""
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
        """Returns the indexes of the comments in each outbox row; a row has at most `size`."""
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
        """Returns the comments whose text a write replaced, each with its latest revision."""
        known: dict[tuple[str, str], Known] = {}
        for round_, result in zip(self.rounds, written, strict=True):
            for index in round_ if result.outcomes else ():
                key = self._keys[index]
                _, revision = result.outcomes.get(key, (DUPLICATE, 0))
                if revision > 1:
                    known[key] = Known(self.comments[index], revision)
        return list(known.values())

    def new_and_edited(self) -> tuple[int, int]:
        """Returns the number of new comments and the number of updated ones."""
        return self.outcomes.count(STORED), self.outcomes.count(UPDATED)
