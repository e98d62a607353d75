"""The circuit breaker: open after a failure, closed by a success, logged once."""

from comment_monitor.breaker import Breaker


def test_a_failure_opens_it_and_a_success_closes_it() -> None:
    """Only the first failure of a row is news."""
    breaker = Breaker()
    assert breaker.closed

    assert breaker.failure()
    assert not breaker.closed
    assert not breaker.failure()
    breaker.success()
    assert breaker.closed
    assert breaker.failure()
