"""Every error and every reason is declared once, and used."""

import re
import traceback
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

import comment_monitor
from comment_monitor.core import errors
from comment_monitor.core.errors import CommentMonitorError, DatabaseUnavailable, Problem
from comment_monitor.observability import metrics
from comment_monitor.storage.readiness import DatabaseState

SOURCE: Final = {
    path: path.read_text() for path in Path(comment_monitor.__file__).parent.rglob("*.py") if path.name != "errors.py"
}
LITERALS: Final = {found for text in SOURCE.values() for found in re.findall(r'count_error\("([^"]+)"', text)}
# What only reading answers: it is no error of processing.
OF_READING: Final = {errors.NotFound, errors.BadRequest, errors.QueryTooSlow, errors.ReadsBusy, errors.TooManyReads}


def below(kind: type[CommentMonitorError]) -> list[type[CommentMonitorError]]:
    """All that derive from it."""
    return [found for one in kind.__subclasses__() for found in (one, *below(one))]


PROBLEMS: Final[list[type[Problem]]] = [Problem, *(one for one in below(Problem) if issubclass(one, Problem))]
DECLARED: Final = [one for one in below(CommentMonitorError) if one.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", DECLARED, ids=lambda kind: kind.__name__)
def test_every_error_is_used(kind: type[CommentMonitorError]) -> None:
    """Raised, caught, or the base of others that are."""
    word = re.compile(rf"\b{kind.__name__}\b")
    assert kind.__subclasses__() or any(word.search(text) for text in SOURCE.values())


def test_every_problem_has_a_slug_and_a_title_of_its_own() -> None:
    for words in (Counter(one.slug for one in PROBLEMS), Counter(one.title for one in PROBLEMS)):
        assert [word for word, count in words.items() if count > 1] == []


def test_every_problem_that_may_pass_says_when_to_come_back() -> None:
    passing = {one.slug for one in PROBLEMS if one.status in {429, 503}}
    assert {one.slug for one in PROBLEMS if one.default_retry_after} == passing


def test_a_reason_is_the_slug_of_a_problem_or_is_named_where_it_is_counted() -> None:
    slugs = {one.slug for one in PROBLEMS}
    assert set(metrics.ERROR_REASONS) >= LITERALS
    assert set(metrics.ERROR_REASONS) <= LITERALS | slugs


def test_the_slug_of_every_problem_of_processing_is_a_declared_reason() -> None:
    # A client that hung up had no answer, and is no error of processing.
    not_counted = (errors.Unavailable, errors.Incomplete)
    raised = [one for one in PROBLEMS if one not in OF_READING and one not in not_counted]
    assert {one.slug for one in raised} <= set(metrics.ERROR_REASONS)


def test_a_reason_that_is_not_declared_can_not_be_counted() -> None:
    with pytest.raises(KeyError):
        metrics.count_error("another")


def test_a_problem_for_another_caller_says_the_same_and_knows_nothing_of_the_first() -> None:
    problem = DatabaseUnavailable("It does not answer.", retry_after=7, extra={"a": 1}, headers={"b": "2"})
    with pytest.raises(DatabaseUnavailable):
        raise problem
    other = problem.again()
    assert other is not problem
    assert (other.detail, other.retry_after, other.extra, other.headers) == (problem.detail, 7, {"a": 1}, {"b": "2"})
    assert str(other) == str(problem)
    assert problem.__traceback__ is not None
    assert other.__traceback__ is None


def test_a_state_that_lasts_is_told_each_caller_by_an_exception_of_its_own() -> None:
    """One instance, raised with every request of an outage, would hold the frames of all of them."""
    schema = DatabaseState()
    found = []
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable) as raised:
            schema.require()
        found.append(raised.value)
    assert len(set(map(id, found))) == 3
    assert {len(list(traceback.walk_tb(one.__traceback__))) for one in found} == {2}
