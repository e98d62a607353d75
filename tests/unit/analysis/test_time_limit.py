"""The time limit of one text: who reaches it fails, whatever its libraries catch; nobody else does."""

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
def the_timer_of_somebody_else_goes_on() -> Iterator[None]:
    """The test runner's own, for one."""
    engine.warm_up()
    before = signal.getitimer(signal.ITIMER_REAL), signal.getsignal(signal.SIGALRM)
    strikes: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, _: strikes.append(number))
    signal.setitimer(signal.ITIMER_REAL, 30, 7)
    began = time.monotonic()
    yield
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    signal.signal(signal.SIGALRM, before[1])
    signal.setitimer(signal.ITIMER_REAL, *before[0])
    assert interval == 7
    assert left == pytest.approx(30 - (time.monotonic() - began), abs=1)
    assert strikes == []


def for_ever() -> None:
    while True:
        time.sleep(0.01)


def swallow_exceptions() -> None:
    while True:
        with suppress(Exception):
            for_ever()


def swallow_it_once() -> None:
    with suppress(BaseException):
        for_ever()
    for_ever()


def test_what_is_done_in_time_gives_its_result() -> None:
    assert bounded(5, lambda: 7) == 7


def test_an_error_of_its_own_is_passed_on() -> None:
    with pytest.raises(ZeroDivisionError):
        bounded(5, lambda: 1 // 0)


@pytest.mark.parametrize("act", [for_ever, swallow_exceptions, swallow_it_once])
def test_what_is_not_is_ended_whatever_it_catches(act: Callable[[], None]) -> None:
    with pytest.raises(TextTimeout):
        bounded(0.05, act)


def test_many_that_end_at_their_limit_leave_nothing_behind() -> None:
    """The timer may strike at any instruction: also at the last one, and after it."""
    for number in range(400):
        with suppress(TextTimeout):
            bounded(0.0005, partial(spin, 0.0004 + number % 20 * 0.00001))
    spin(1.2)


def test_the_timer_may_strike_as_soon_as_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine pauses this process just then; whose timer was set before gets it back."""
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


def test_another_thread_has_no_timer_and_waits() -> None:
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
    """One more finding, which takes for ever with SLOW texts; asked about several it takes for ever with any."""

    def find(text: object, _found: object) -> dict[str, object]:
        if "SLOW" in text.typed:  # type: ignore[attr-defined]
            for_ever()
        return {}

    def find_all(_texts: object) -> list[dict[str, object]]:
        for_ever()
        return []

    monkeypatch.setattr(engine, "FINDINGS", (*engine.FINDINGS, Finding("slow", find, find_all)))


def test_a_text_that_is_too_slow_fails_alone_with_the_findings_name(slow: None) -> None:
    limit = TimeLimit(0.3, together=0.1)
    first, second, third = analyse_all(["one", "SLOW", "three"], limit)
    assert isinstance(first, Analysis)
    assert second == Failure(reason="slow: TextTimeout: no result within 0.3 s")
    assert isinstance(third, Analysis)


def test_a_text_that_had_less_than_its_time_has_no_result_and_no_failure(slow: None) -> None:
    limit = TimeLimit(60, until=time.monotonic() + 0.5, together=0.1)
    (first,) = analyse_all(["one", "SLOW", "three"], limit)
    assert isinstance(first, Analysis)


def test_no_text_begins_after_the_end(slow: None) -> None:
    assert list(analyse_all(["one", "two"], TimeLimit(60, until=time.monotonic() - 1))) == []
