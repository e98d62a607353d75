"""The time limit of one text: a text that exceeds the limit fails, whatever exceptions its libraries catch."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from comment_monitor.analysis import engine
from comment_monitor.analysis.engine import Finding, analyse_all
from comment_monitor.analysis.time_limit import AGAIN, TextTimeout, TimeLimit, bounded
from comment_monitor.core.model import Analysis, Failure


@pytest.fixture(autouse=True)
def a_foreign_timer_continues() -> Iterator[None]:
    """Checks that a timer that was set before a test, such as the test runner's, still runs after the test."""
    engine.warm_up()
    before = signal.getitimer(signal.ITIMER_REAL), signal.getsignal(signal.SIGALRM)
    signals: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, _: signals.append(number))
    signal.setitimer(signal.ITIMER_REAL, 30, 7)
    began = time.monotonic()
    yield
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    signal.signal(signal.SIGALRM, before[1])
    signal.setitimer(signal.ITIMER_REAL, *before[0])
    assert interval == 7
    assert left == pytest.approx(30 - (time.monotonic() - began), abs=1)
    assert signals == []


def wait_forever() -> None:
    while True:
        time.sleep(0.01)


def swallow_exceptions() -> None:
    while True:
        with suppress(Exception):
            wait_forever()


def swallow_any_exception_once() -> None:
    with suppress(BaseException):
        wait_forever()
    wait_forever()


def test_a_function_within_its_limit_returns_its_result() -> None:
    assert bounded(5, lambda: 7) == 7


def test_an_exception_of_the_function_is_passed_on() -> None:
    with pytest.raises(ZeroDivisionError):
        bounded(5, lambda: 1 // 0)


@pytest.mark.parametrize("act", [wait_forever, swallow_exceptions, swallow_any_exception_once])
def test_a_function_beyond_its_limit_is_ended_whatever_exceptions_are_caught(act: Callable[[], None]) -> None:
    with pytest.raises(TextTimeout):
        bounded(0.05, act)


def test_no_timer_is_left_after_functions_that_end_near_their_limit() -> None:
    """The timer may fire at any instruction, even at the last or after it."""
    for number in range(400):
        with suppress(TextTimeout):
            bounded(0.0005, partial(spin, 0.0004 + number % 20 * 0.00001))
    spin(1.2)


def test_the_timer_may_fire_immediately_after_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may pause this process at that moment; the timer that was set before is still restored."""
    set_timer = signal.setitimer

    def set_and_pause(which: int, seconds: float, interval: float = 0.0) -> tuple[float, float]:
        before = set_timer(which, seconds, interval)
        if interval == AGAIN:
            signal.raise_signal(signal.SIGALRM)
        return before

    monkeypatch.setattr(signal, "setitimer", set_and_pause)
    with pytest.raises(TextTimeout):
        bounded(5, partial(spin, 0))


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_a_function_in_another_thread_is_not_limited() -> None:
    done = threading.Event()

    def act() -> None:
        time.sleep(0.1)
        done.set()

    thread = threading.Thread(target=bounded, args=(0.01, act))
    thread.start()
    thread.join()
    assert done.is_set()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds a finding that never ends for SLOW texts, nor for several texts in one call."""

    def find(text: object, _found: object) -> dict[str, object]:
        if "SLOW" in text.typed:  # type: ignore[attr-defined]
            wait_forever()
        return {}

    def find_all(_texts: object) -> list[dict[str, object]]:
        wait_forever()
        return []

    monkeypatch.setattr(engine, "FINDINGS", (*engine.FINDINGS, Finding("slow", find, find_all)))


def test_only_a_slow_text_fails_with_the_name_of_the_finding(slow: None) -> None:
    limit = TimeLimit(0.3, together=0.1)
    first, second, third = analyse_all(["first", "SLOW", "third"], limit)
    assert isinstance(first, Analysis)
    assert second == Failure(reason="slow: TextTimeout: no result within 0.3 s")
    assert isinstance(third, Analysis)


def test_a_text_interrupted_before_its_own_limit_has_no_result(slow: None) -> None:
    limit = TimeLimit(60, until=time.monotonic() + 0.5, together=0.1)
    (first,) = analyse_all(["first", "SLOW", "third"], limit)
    assert isinstance(first, Analysis)


def test_no_text_is_analysed_after_the_end(slow: None) -> None:
    assert list(analyse_all(["first", "second"], TimeLimit(60, until=time.monotonic() - 1))) == []
