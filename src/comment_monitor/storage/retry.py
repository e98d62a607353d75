"""Retries with exponential backoff and jitter, bounded in attempts and in time."""

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import stamina
import stamina.instrumentation

from comment_monitor.core.config import Settings
from comment_monitor.storage.postgres import CONFLICT_ERRORS, UNAVAILABLE_ERRORS

# stamina's hooks would log an exception's message, which may quote a user's data; the callers log its type instead.
stamina.instrumentation.set_on_retry_hooks(())

T = TypeVar("T")

RETRIED: Final = (*UNAVAILABLE_ERRORS, *CONFLICT_ERRORS)

FIRST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 5.0


async def with_retries(settings: Settings, attempt: Callable[[], Awaitable[T]]) -> T:
    """Calls `attempt` until it succeeds; raises its last error once COMMENT_MAX_RETRIES are used up.

    It retries only errors of an unavailable database and conflicts. The waits grow by COMMENT_BACKOFF_MULTIPLIER; all
    attempts together take at most COMMENT_PROCESSING_TIMEOUT.
    """
    started = time.monotonic()
    # The first attempt nearly always succeeds, and then creates none of the library's objects: they form reference
    # cycles, which only the garbage collector frees, at the cost of a pause.
    try:
        return await attempt()
    except RETRIED as error:
        failed = error
    async for stamina_attempt in stamina.retry_context(
        on=RETRIED,
        attempts=settings.max_retries + 1,
        timeout=max(settings.processing_timeout - (time.monotonic() - started), 0.001),
        wait_initial=FIRST_WAIT,
        wait_max=LONGEST_WAIT,
        wait_jitter=FIRST_WAIT,
        wait_exp_base=settings.backoff_multiplier,
    ):
        with stamina_attempt:
            if stamina_attempt.num == 1:
                raise failed
            return await attempt()
    raise AssertionError("stamina returns or raises")
