"""What is taken out of the lines that others wrote, and what stays."""

import json
import subprocess
import sys
import time

import pytest

from comment_monitor.observability.redaction import plain_words, redact, redacted


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("amqp://user:secret@rabbit:5672//", "amqp://user:***@rabbit:5672//"),
        ("redis://:s:e/cret@host".replace("/c", "%2Fc"), "redis://:***@host"),
        ("postgresql://u:p@ss@host/db?x=1", "postgresql://u:***@host/db?x=1"),
        ("host=db password=secret user=u", "host=db password=*** user=u"),
        ("password='se cret'", "password=***"),
        ("?password=a,secret&sslpassword=secret&host=h", "?password=***&sslpassword=***&host=h"),
        ("client_secret=secret PGPASSWORD=secret", "client_secret=*** PGPASSWORD=***"),
        ('{"token": "secret"}', '{"token": ***}'),
        ("Authorization: Digest secret, secret", "Authorization: ***"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: ***"),
        ("sent Bearer abcdefgh12345", "sent Bearer ***"),
        ("access_token=THAA123&fields=id", "access_token=***&fields=id"),
        ("from ann.lee+x@mail.example.org, said", "from <e-mail>, said"),
        ("call +49 170 5550123 now", "call <phone> now"),
        ("call (030) 555-0199 now", "call <phone> now"),
        ("call 555-010-4477", "call <phone>"),
        ("call 0170/5550123", "call <phone>"),
    ],
)
def test_secrets_and_addresses_are_taken_out(text: str, left: str) -> None:
    assert redacted(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-26T06:23:02.209Z", "2026-11-26 06:23:02", "127.0.0.1:5432", "10.244.12.7", "postgresql://postgres@db.example.org:5432/comments",
        "1234567890123",
        "550e8400-e29b-41d4-a716-446655440000",
        "took 0.123 s of 12345",
        "signal 9 (SIGKILL)", "comment_monitor/storage/comments.py:216 write", "the token bucket is empty",
    ],
)  # fmt: skip
def test_times_addresses_of_machines_ids_and_counts_stay(text: str) -> None:
    assert redacted(text) == text


# What a pattern may begin with again and again, without an end that it would need.
LONG = (
    "a", "-", "a-", "_", "0", "+1", "+1 ", "0123 ", ".", "a.", "@", "a@", "a@b", "a@b.", "://", "://a:", "://a:@", ":",
    "=", "/", " ", "\n", '"', "'", "password", "password ", "password=", 'password="', "password='", "secret: ",
    "token\n", "pwd", "authorization", "authorization ", "authorization:\n", "bearer ", "bearer a", "basic", "(123) ",
    "passwor", "api-",
)  # fmt: skip


@pytest.mark.parametrize("part", LONG)
@pytest.mark.parametrize(("before", "after"), [("", ""), ("password", ""), ("a@", "!"), ("://u:", " "), ("+49", "x")])
def test_eight_times_as_long_a_line_takes_eight_times_as_long(part: str, before: str, after: str) -> None:
    def took(length: int) -> float:
        text = f"{before}{part * (length // len(part))}{after}"
        times = []
        for _ in range(3):
            started = time.process_time()
            redacted(text)
            times.append(time.process_time() - started)
        return min(times)

    # Quadratic, it would be 64 times. (Below the second figure a clock says nothing.)
    assert took(8_000) < 24 * max(took(1_000), 0.0005)


def test_a_line_is_redacted_at_any_depth_whatever_is_in_it() -> None:
    class Odd:
        def __repr__(self) -> str:
            return "<Odd ann@example.org>"

    line = redact(None, "", {"event": "x", "a": [{"b": ("ann@example.org", 1, None, True)}], "odd": Odd(), "n": 1.5})
    assert line == {"event": "x", "a": [{"b": ["<e-mail>", 1, None, True]}], "odd": "<Odd <e-mail>>", "n": 1.5}


@pytest.mark.parametrize(
    ("logger", "message", "left"),
    [
        ("asyncio", "Task was never retrieved\nfuture: <Task ... ValueError('words')>", "Task was never retrieved"),
        ("asyncio", "Exception in callback send('words')", "Exception in callback send"),
        ("some.library", "cannot take 'words' for a number", "cannot take"),
        ("some.library", "invalid input: words", "invalid input"),
        ("some.library", "'words'", "(left out)"),
        ("celery.worker.consumer", "Cannot connect to amqp://rabbit: no", "Cannot connect to amqp://rabbit: no"),
        ("celery.app.trace", "Task analyse[1] raised: ValueError('words')", "Task analyse"),
        ("celeryish", "took: words", "took"),
        ("celery.worker", "Unrecoverable error: ValueError('words')", "Unrecoverable error"),
        ("opentelemetry.util.re", "Header format invalid! occurrences: words", "Header format invalid! occurrences"),
        ("uvicorn.error", "\n  + Exception Group Traceback\n words", "+ Exception Group Traceback"),
    ],
)  # fmt: skip
def test_a_third_partys_line_ends_where_it_quotes(logger: str, message: str, left: str) -> None:
    assert plain_words(logger, message) == left


ENDS = """
import asyncio, gc, logging, sys, threading, warnings
from comment_monitor.observability import logs as log
log.configure("DEBUG")
class Bad:
    def __del__(self): raise ValueError("secret")
async def forgotten():
    asyncio.get_running_loop().call_soon(lambda word: 1 / 0, "secret")
    async def fails(): raise ValueError("secret")
    task = asyncio.create_task(fails()); await asyncio.sleep(0.01); del task; gc.collect()
asyncio.run(forgotten())
bad = Bad(); del bad
def thread(): raise ValueError("secret")
one = threading.Thread(target=thread); one.start(); one.join()
warnings.warn("secret 'secret'")
logging.getLogger("library").error("takes no argument: secret", "secret")
try: raise ValueError("secret")
except ValueError: logging.getLogger("library").exception("it failed")
raise ValueError("secret")
"""


def test_what_python_itself_would_print_is_one_line_without_its_words() -> None:
    """Ends by an exception, in a thread, in a finaliser, in a task; warnings; a line that can't be made."""
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "secret" not in done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    said = [(one["event"], one.get("error")) for one in lines]
    for expected in (
        ("Exception in callback forgotten.", "ZeroDivisionError"),
        ("Task exception was never retrieved", "ValueError"),
        ("error_ignored", "ValueError"),
        ("thread_crashed", "ValueError"),
        ("it failed", "ValueError"),
        ("crashed", "ValueError"),
    ):
        assert expected in said, said
    assert [one["at"][-1] for one in lines if one["event"] == "crashed"] == ["<string>:19 <module>"]
