"""Repeated identities within one write: counted once, edits in order."""

from hypothesis import given
from hypothesis import strategies as st

from comment_monitor.core.model import DUPLICATE, STORED, UPDATED, Comment, Outcome
from comment_monitor.intake.write_plan import MAX_ROUNDS, WritePlan, runs
from comment_monitor.storage.comments import Unchanged, Written

# A text that only a new comment may have: to a stored one it is another comment's.
REFUSED = "z"
pairs = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.booleans()), max_size=12)


CONFLICT = Outcome("rejected")


def make(id_: str, text: str) -> Comment:
    """A comment of which only identity and text matter."""
    return Comment(source="s", post_id="p", id=id_, text=text, author="a")


def add(plan: WritePlan, rows: dict[tuple[str, str], str]) -> list[Written]:
    """What it would do with a wave of which it adds what is new."""
    round_ = plan.comments_of(0)
    new = {one.key: one.text for one in round_ if one.key not in rows}
    rows |= new
    if len(new) == len(round_):
        return [Written({}, [1], all_new=True)]
    added = Written(dict.fromkeys(new, (STORED, 1)), [1] if new else [])
    plan.split_off(added)
    return [added]


def play(plan: WritePlan, rows: dict[tuple[str, str], str], *, adding: bool = False) -> list[Written]:
    """What PostgreSQL would do with the waves, `rows` being its table."""
    done = add(plan, rows) if adding and len(plan.rounds) == 1 else []
    for number in range(len(done), len(plan.rounds)):
        round_ = plan.comments_of(number)
        keys = [one.key for one in round_]
        assert len(set(keys)) == len(keys), "one statement can touch a row once"
        assert keys == sorted(keys), "locks are taken in one order"
        outcomes, unchanged = {}, {}
        for one in round_:
            if one.key not in rows:
                outcomes[one.key] = (STORED, 1)
            elif one.text == REFUSED != rows[one.key]:
                unchanged[one.key] = Unchanged("conflict", 1, "another post")
                continue
            elif rows[one.key] != one.text:
                outcomes[one.key] = (UPDATED, 2)
            else:
                unchanged[one.key] = Unchanged("same", 1, "p")
            rows[one.key] = one.text
        done.append(Written(outcomes, [], unchanged=unchanged))
    return done


@given(pairs, st.booleans())
def test_a_write_ends_like_the_same_comments_one_by_one(given_pairs: list[tuple[str, str, bool]], adding: bool) -> None:
    """Whatever repeats in it, and whatever Redis knows, fates and final texts are those of a sequence of writes."""
    known = {("s", id_): text for id_, text, seen in reversed(given_pairs) if seen}
    comments = [make(id_, text) for id_, text, _ in given_pairs]
    seen = [known.get(one.key) == one.text for one in comments]
    rows = dict(known)
    plan = WritePlan(comments, seen)
    plan.record_results(play(plan, rows, adding=adding))

    expected_rows = dict(known)
    expected = []
    for one in comments:
        old = expected_rows.get(one.key)
        if old not in {None, one.text} and one.text == REFUSED:
            expected.append(CONFLICT)
            continue
        expected.append(STORED if old is None else DUPLICATE if old == one.text else UPDATED)
        expected_rows[one.key] = one.text
    assert [CONFLICT if outcome.status == "rejected" else outcome for outcome in plan.outcomes] == expected
    assert rows == expected_rows
    assert plan.duplicates.total() == expected.count(DUPLICATE)


def test_redis_is_told_the_last_text_of_each_identity() -> None:
    """What is remembered is what the row holds at the end."""
    plan = WritePlan([make("a", "x"), make("b", "x"), make("a", "y")], [False] * 3)
    known = plan.record_results(play(plan, {}))

    told = {(plan.comments[at].id, plan.comments[at].text, revision) for at, revision in known}
    assert told == {
        ("a", "y", 2),
        ("b", "x", 1),
    }


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), max_size=300))
def test_many_texts_of_one_comment_are_written_in_runs_that_keep_their_order(sequence: list[tuple[str, str]]) -> None:
    comments = [make(*one) for one in sequence]
    parts = list(runs(comments))
    assert [one for part in parts for one in part] == comments
    for part in parts:
        assert len(WritePlan(part, [False] * len(part)).rounds) <= MAX_ROUNDS


def test_exact_repeats_and_other_comments_are_one_run() -> None:
    same, others = [make("a", "x")] * 1000, [make(str(number), "x") for number in range(1000)]
    assert list(runs([*same, *others])) == [[*same, *others]]
    assert list(runs([])) == [[]]


def test_a_text_that_ends_one_run_is_counted_again_in_the_next() -> None:
    """Else the next write would have a statement more than it may."""
    first = [make("a", str(number)) for number in range(MAX_ROUNDS)]
    others = [make("b", str(number)) for number in range(MAX_ROUNDS + 1)]
    again = [first[-1], *(make("a", f"later {number}") for number in range(MAX_ROUNDS))]
    for part in runs([*first, *others, *again]):
        assert len(WritePlan(part, [False] * len(part)).rounds) <= MAX_ROUNDS
