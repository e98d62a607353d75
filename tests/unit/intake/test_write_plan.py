"""Repeated identities within one write: exact repeats are not written, and edits are written in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comment_monitor.core.model import DUPLICATE, STORED, UPDATED, Comment, Outcome
from comment_monitor.intake.dedup_cache import Known
from comment_monitor.intake.write_plan import MAX_ROUNDS, WritePlan, runs
from comment_monitor.storage.comments import Unchanged, Written

# A text that is stored for a new comment only: for a stored comment it simulates a conflict.
CONFLICTING = "z"
pairs = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.booleans()), max_size=12)


CONFLICT = Outcome("rejected")


def make_comment(id_: str, text: str) -> Comment:
    """Returns a comment for tests in which only identity and text matter."""
    return Comment(source="s", post_id="p", id=id_, text=text, author="a")


def insert_new(plan: WritePlan, rows: dict[tuple[str, str], str]) -> list[Written]:
    """Simulates a statement that only adds the new comments of the only round."""
    round_ = plan.comments_of(0)
    new = {comment.key: comment.text for comment in round_ if comment.key not in rows}
    rows |= new
    if len(new) == len(round_):
        return [Written({}, [1], all_new=True)]
    added = Written(dict.fromkeys(new, (STORED, 1)), [1] if new else [])
    plan.split_off(added)
    return [added]


def write(plan: WritePlan, rows: dict[tuple[str, str], str], *, adding: bool = False) -> list[Written]:
    """Simulates PostgreSQL's statements for all rounds; `rows` is the table."""
    done = insert_new(plan, rows) if adding and len(plan.rounds) == 1 else []
    for number in range(len(done), len(plan.rounds)):
        round_ = plan.comments_of(number)
        keys = [comment.key for comment in round_]
        assert len(set(keys)) == len(keys), "a statement can change a row only once"
        assert keys == sorted(keys), "all writers lock rows in the same order"
        outcomes, unchanged = {}, {}
        for comment in round_:
            if comment.key not in rows:
                outcomes[comment.key] = (STORED, 1)
            elif comment.text == CONFLICTING != rows[comment.key]:
                unchanged[comment.key] = Unchanged("conflict", 1, "another post")
                continue
            elif rows[comment.key] != comment.text:
                outcomes[comment.key] = (UPDATED, 2)
            else:
                unchanged[comment.key] = Unchanged("same", 1, "p")
            rows[comment.key] = comment.text
        done.append(Written(outcomes, [], unchanged=unchanged))
    return done


@given(pairs, st.booleans())
def test_a_write_has_the_result_of_the_same_comments_in_sequence(
    given_pairs: list[tuple[str, str, bool]], adding: bool
) -> None:
    """Outcomes and final texts do not depend on repeats within the write, nor on the entries in Redis."""
    known = {("s", id_): text for id_, text, seen in reversed(given_pairs) if seen}
    comments = [make_comment(id_, text) for id_, text, _ in given_pairs]
    seen = [known.get(comment.key) == comment.text for comment in comments]
    rows = dict(known)
    plan = WritePlan(comments, seen)
    plan.record_results(write(plan, rows, adding=adding))

    expected_rows = dict(known)
    expected = []
    for comment in comments:
        old = expected_rows.get(comment.key)
        if old not in {None, comment.text} and comment.text == CONFLICTING:
            expected.append(CONFLICT)
            continue
        expected.append(STORED if old is None else DUPLICATE if old == comment.text else UPDATED)
        expected_rows[comment.key] = comment.text
    assert [CONFLICT if outcome.status == "rejected" else outcome for outcome in plan.outcomes] == expected
    assert rows == expected_rows
    assert plan.duplicates.total() == expected.count(DUPLICATE)


def test_redis_gets_the_last_text_of_each_identity() -> None:
    """An entry in Redis must match the final row."""
    plan = WritePlan([make_comment("a", "x"), make_comment("b", "x"), make_comment("a", "y")], [False] * 3)
    known = plan.record_results(write(plan, {}))

    entries = {(plan.comments[index].id, plan.comments[index].text, revision) for index, revision in known}
    assert entries == {
        ("a", "y", 2),
        ("b", "x", 1),
    }


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), max_size=300))
def test_many_texts_of_a_comment_are_split_into_ordered_runs(sequence: list[tuple[str, str]]) -> None:
    comments = [make_comment(*pair) for pair in sequence]
    parts = list(runs(comments))
    assert [comment for part in parts for comment in part] == comments
    for part in parts:
        assert len(WritePlan(part, [False] * len(part)).rounds) <= MAX_ROUNDS


def test_exact_repeats_and_other_comments_form_a_single_run() -> None:
    same, others = [make_comment("a", "x")] * 1000, [make_comment(str(number), "x") for number in range(1000)]
    assert list(runs([*same, *others])) == [[*same, *others]]
    assert list(runs([])) == [[]]


def test_the_last_text_of_a_run_counts_again_in_the_next_run() -> None:
    """Otherwise the next write could have more rounds than allowed."""
    first = [make_comment("a", str(number)) for number in range(MAX_ROUNDS)]
    others = [make_comment("b", str(number)) for number in range(MAX_ROUNDS + 1)]
    again = [first[-1], *(make_comment("a", f"later {number}") for number in range(MAX_ROUNDS))]
    for part in runs([*first, *others, *again]):
        assert len(WritePlan(part, [False] * len(part)).rounds) <= MAX_ROUNDS


def test_a_run_has_exactly_as_many_texts_as_allowed() -> None:
    """Splitting earlier would let other requests in without need; a repeat does not end the counting."""
    texts = [make_comment("a", str(number)) for number in range(MAX_ROUNDS)]
    assert list(runs(texts)) == [texts]

    one_more = make_comment("a", "one more")
    assert list(runs([texts[0], *texts, one_more])) == [[texts[0], *texts], [one_more]]


def test_only_comments_unknown_to_redis_and_postgresql_are_written() -> None:
    plan = WritePlan([make_comment(id_, "x") for id_ in "dcba"], [True, False, False, True], [1])

    assert plan.rounds == [[2]]
    assert plan.duplicates == {"cache": 2, "database": 1}


def test_a_write_of_known_comments_has_no_round() -> None:
    """No statement is sent for it."""
    plan = WritePlan([make_comment("a", "x"), make_comment("b", "x")], [True, False], [1])

    assert plan.rounds == []
    assert plan.record_results([]) == []
    assert plan.outcomes == [DUPLICATE, DUPLICATE]


def test_duplicates_are_counted_by_where_they_were_noticed() -> None:
    comments = [make_comment(id_, "x") for id_ in ("a", "b", "b", "c", "d", "e")]
    plan = WritePlan(comments, [True, False, False, False, False, False])
    same = Unchanged("same", 2, "p")
    unchanged = {("s", "c"): Unchanged("version", 3, "p"), ("s", "d"): same, ("s", "e"): same}
    known = plan.record_results([Written({("s", "b"): (STORED, 1)}, [1], unchanged=unchanged)])

    assert plan.duplicates == {"cache": 1, "request": 1, "version": 1, "database": 2}
    # Redis must not get an earlier text.
    assert sorted(known) == [(1, 1), (4, 2), (5, 2)]


def test_a_row_without_result_equals_the_comment() -> None:
    """Its revision was not read."""
    plan = WritePlan([make_comment("a", "x"), make_comment("b", "x")], [False, False])

    assert plan.record_results([Written({("s", "a"): (STORED, 1)}, [1])]) == [(0, 1), (1, 0)]
    assert plan.outcomes == [STORED, DUPLICATE]


def test_new_comments_have_revision_1() -> None:
    plan = WritePlan([make_comment("a", "x"), make_comment("b", "x")], [False, False])

    assert plan.record_results([Written({}, [1], all_new=True)]) == [(0, 1), (1, 1)]
    assert plan.new_and_edited() == (2, 0)


@pytest.mark.parametrize(("post", "by_another_author"), [("other post", False), ("p", True)])
def test_a_conflict_says_which_comment_it_hit(post: str, by_another_author: bool) -> None:
    """A comment of the same post must have another author. Redis does not get the rejected comment."""
    plan = WritePlan([make_comment("number 7", "x")], [False])
    result = Written({}, [], unchanged={("s", "number 7"): Unchanged("conflict", 1, post)})

    assert plan.record_results([result]) == []
    [outcome] = plan.outcomes
    assert outcome.status == "rejected"
    reason = str(outcome[1])
    assert "number 7" in reason
    assert post in reason
    assert ("another author" in reason) == by_another_author


def test_outbox_rows_are_filled_in_the_order_of_the_statement() -> None:
    """A row has at most the size of a batch; unchanged comments are in none."""
    plan = WritePlan([make_comment(id_, "x") for id_ in "edcba"], [False] * 5)
    assert plan.rows_by_outbox_id([Written({}, [7, 8, 9], all_new=True)], 2) == {7: [4, 3], 8: [2, 1], 9: [0]}

    some = Written({("s", id_): (STORED, 1) for id_ in "dbae"}, [7, 8])
    assert plan.rows_by_outbox_id([some], 3) == {7: [1, 3, 4], 8: [0]}


def test_edits_carry_their_latest_revision() -> None:
    """Neither new nor unchanged comments are edits."""
    comments = [make_comment("a", "x"), make_comment("b", "x"), make_comment("c", "x"), make_comment("a", "y")]
    plan = WritePlan(comments, [False] * 4)
    first = Written({("s", "a"): (UPDATED, 2), ("s", "b"): (STORED, 1)}, [1])
    second = Written({("s", "a"): (UPDATED, 3)}, [2])

    assert plan.edited([first, Written({}, [])]) == [Known(comments[0], 2)]
    assert plan.edited([first, second]) == [Known(comments[3], 3)]
    plan.record_results([first, second])
    assert plan.new_and_edited() == (1, 2)


def test_a_round_without_result_is_an_error() -> None:
    """Otherwise its comments would be acknowledged as duplicates although nothing stored them."""
    plan = WritePlan([make_comment("a", "x")], [False])
    with pytest.raises(ValueError, match="shorter"):
        plan.record_results([])
    with pytest.raises(ValueError, match="shorter"):
        plan.rows_by_outbox_id([], 1)
    with pytest.raises(ValueError, match="shorter"):
        plan.edited([])
