"""The circuit breaker: open after a failure, closed by a success, logged once."""

from comment_monitor.core.circuit_breaker import Breaker


def test_a_failure_opens_it_and_a_success_closes_it() -> None:
    """Only the first failure of a row is news."""
    breaker = Breaker()
    states = [breaker.closed]
    news = []
    for _ in range(2):
        news.append(breaker.failure())
        states.append(breaker.closed)
    breaker.success()
    states.append(breaker.closed)

    assert states == [True, False, False, True]
    assert news == [True, False]
    assert breaker.failure()
