"""The circuit breaker of an optional server, such as Redis."""

from comment_monitor.core.circuit_breaker import Breaker


def test_a_failure_opens_the_breaker_and_a_success_closes_the_breaker() -> None:
    """Only the first of several failures is reported as new."""
    breaker = Breaker()
    states = [breaker.closed]
    new_failures = []
    for _ in range(2):
        new_failures.append(breaker.failure())
        states.append(breaker.closed)
    breaker.success()
    states.append(breaker.closed)

    assert states == [True, False, False, True]
    assert new_failures == [True, False]
    assert breaker.failure()
