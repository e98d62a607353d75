"""Declared errors and error reasons: each is unique and used."""

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
# Problems of read requests only, which are not counted as errors of processing.
READING: Final = {errors.NotFound, errors.BadRequest, errors.QueryTooSlow, errors.ReadsBusy, errors.TooManyReads}


def subclasses_of(kind: type[CommentMonitorError]) -> list[type[CommentMonitorError]]:
    """Returns all direct and indirect subclasses."""
    return [found for child in kind.__subclasses__() for found in (child, *subclasses_of(child))]


PROBLEMS: Final[list[type[Problem]]] = [
    Problem,
    *(error for error in subclasses_of(Problem) if issubclass(error, Problem)),
]
DECLARED: Final = [error for error in subclasses_of(CommentMonitorError) if error.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", DECLARED, ids=lambda kind: kind.__name__)
def test_every_error_class_is_used(kind: type[CommentMonitorError]) -> None:
    """It is raised, caught, or the base of other errors."""
    word = re.compile(rf"\b{kind.__name__}\b")
    assert kind.__subclasses__() or any(word.search(text) for text in SOURCE.values())


def test_every_problem_has_its_own_slug_and_title() -> None:
    for words in (Counter(problem.slug for problem in PROBLEMS), Counter(problem.title for problem in PROBLEMS)):
        assert [word for word, count in words.items() if count > 1] == []


def test_every_temporary_problem_has_a_default_retry_after() -> None:
    temporary = {problem.slug for problem in PROBLEMS if problem.status in {429, 503}}
    assert {problem.slug for problem in PROBLEMS if problem.default_retry_after} == temporary


def test_every_reason_is_a_slug_or_a_literal_in_the_code() -> None:
    slugs = {problem.slug for problem in PROBLEMS}
    assert set(metrics.ERROR_REASONS) >= LITERALS
    assert set(metrics.ERROR_REASONS) <= LITERALS | slugs


def test_the_slug_of_every_processing_problem_is_a_declared_reason() -> None:
    # Unavailable is only a base class. Incomplete: the client has disconnected and gets no response.
    not_counted = (errors.Unavailable, errors.Incomplete)
    counted = [problem for problem in PROBLEMS if problem not in READING and problem not in not_counted]
    assert {problem.slug for problem in counted} <= set(metrics.ERROR_REASONS)


def test_an_undeclared_reason_cannot_be_counted() -> None:
    with pytest.raises(KeyError):
        metrics.count_error("another")


def test_a_copy_of_a_problem_has_the_same_content_and_no_traceback() -> None:
    problem = DatabaseUnavailable("It does not answer.", retry_after=7, extra={"a": 1}, headers={"b": "2"})
    with pytest.raises(DatabaseUnavailable):
        raise problem
    other = problem.again()
    assert other is not problem
    assert (other.detail, other.retry_after, other.extra, other.headers) == (problem.detail, 7, {"a": 1}, {"b": "2"})
    assert str(other) == str(problem)
    assert problem.__traceback__ is not None
    assert other.__traceback__ is None


def test_each_caller_gets_its_own_exception_during_an_outage() -> None:
    """A single instance, raised for every request, would keep the frames of all these requests in memory."""
    state = DatabaseState()
    found = []
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable) as raised:
            state.require()
        found.append(raised.value)
    assert len(set(map(id, found))) == 3
    assert {len(list(traceback.walk_tb(error.__traceback__))) for error in found} == {2}
