"""How this program retries: exponential backoff with jitter, bounded in tries and in time."""

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import stamina
import stamina.instrumentation

from comment_monitor.core.config import Settings
from comment_monitor.storage.postgres import CONFLICT_ERRORS, UNAVAILABLE_ERRORS

# Its hooks would log an exception's own words, which may quote what a user sent; the callers log by name instead.
stamina.instrumentation.set_on_retry_hooks(())

T = TypeVar("T")

RETRIED: Final = (*UNAVAILABLE_ERRORS, *CONFLICT_ERRORS)

FIRST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 5.0


async def with_retries(settings: Settings, attempt: Callable[[], Awaitable[T]]) -> T:
    """Calls `attempt` until it succeeds; raises its last error once COMMENT_MAX_RETRIES are used up.

    Only the database's absence and conflicts are retried. Waits grow by COMMENT_BACKOFF_MULTIPLIER; all of it ends
    with COMMENT_PROCESSING_TIMEOUT.
    """
    started = time.monotonic()
    # Nearly always there is nothing to be repeated, and then none of the library's objects is needed: they hold each
    # other, and what only the collector can find costs a pause.
    try:
        return await attempt()
    except RETRIED as error:
        failed = error
    async for one in stamina.retry_context(
        on=RETRIED,
        attempts=settings.max_retries + 1,
        timeout=max(settings.processing_timeout - (time.monotonic() - started), 0.001),
        wait_initial=FIRST_WAIT,
        wait_max=LONGEST_WAIT,
        wait_jitter=FIRST_WAIT,
        wait_exp_base=settings.backoff_multiplier,
    ):
        with one:
            if one.num == 1:
                raise failed
            return await attempt()
    raise AssertionError("stamina returns or raises")
