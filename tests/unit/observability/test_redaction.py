"""Redaction of log lines of other libraries: what is removed, and what is kept."""

import json
import subprocess
import sys
import time

import pytest
from tests.unit.case_ids import case_id

from comment_monitor.observability.redaction import plain_words, redact, redacted


@pytest.mark.parametrize(
    ("text", "redacted_text"),
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
    ids=case_id,
)
def test_secrets_and_personal_addresses_are_removed(text: str, redacted_text: str) -> None:
    assert redacted(text) == redacted_text


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-26T06:23:02.209Z", "2026-11-26 06:23:02", "127.0.0.1:5432", "10.244.12.7", "postgresql://postgres@db.example.org:5432/comments",
        "1234567890123",
        "550e8400-e29b-41d4-a716-446655440000",
        "took 0.123 s of 12345",
        "signal 9 (SIGKILL)", "comment_monitor/storage/comments.py:216 write", "the token bucket is empty",
    ], ids=case_id,
)  # fmt: skip
def test_times_addresses_of_machines_ids_and_counts_are_kept(text: str) -> None:
    assert redacted(text) == text


# Possible beginnings of a match, repeated without the end that the pattern requires.
PARTS = (
    "a", "-", "a-", "_", "0", "+1", "+1 ", "0123 ", ".", "a.", "@", "a@", "a@b", "a@b.", "://", "://a:", "://a:@", ":",
    "=", "/", " ", "\n", '"', "'", "password", "password ", "password=", 'password="', "password='", "secret: ",
    "token\n", "pwd", "authorization", "authorization ", "authorization:\n", "bearer ", "bearer a", "basic", "(123) ",
    "passwor", "api-",
)  # fmt: skip


@pytest.mark.parametrize("part", PARTS, ids=case_id)
@pytest.mark.parametrize(
    ("before", "after"),
    [("", ""), ("password", ""), ("a@", "!"), ("://u:", " "), ("+49", "x")],
    ids=["alone", "password", "e-mail", "address", "phone"],
)
def test_redaction_takes_linear_time(part: str, before: str, after: str) -> None:
    def seconds(length: int) -> float:
        text = f"{before}{part * (length // len(part))}{after}"
        times = []
        for _ in range(3):
            started = time.process_time()
            redacted(text)
            times.append(time.process_time() - started)
        return min(times)

    # Quadratic time would be 64 times as long. Shorter times than 0.0005 s are not measurable.
    assert seconds(8_000) < 24 * max(seconds(1_000), 0.0005)


def test_values_are_redacted_at_any_depth() -> None:
    class Odd:
        def __repr__(self) -> str:
            return "<Odd ann@example.org>"

    line = redact(None, "", {"event": "x", "a": [{"b": ("ann@example.org", 1, None, True)}], "odd": Odd(), "n": 1.5})
    assert line == {"event": "x", "a": [{"b": ["<e-mail>", 1, None, True]}], "odd": "<Odd <e-mail>>", "n": 1.5}


@pytest.mark.parametrize(
    ("logger", "message", "shortened"),
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
    ], ids=case_id,
)  # fmt: skip
def test_a_message_of_a_library_is_cut_before_quoted_data(logger: str, message: str, shortened: str) -> None:
    assert plain_words(logger, message) == shortened


FAILING_PROGRAM = """
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
started = threading.Thread(target=thread); started.start(); started.join()
warnings.warn("secret 'secret'")
logging.getLogger("library").error("takes no argument: secret", "secret")
try: raise ValueError("secret")
except ValueError: logging.getLogger("library").exception("it failed")
raise ValueError("secret")
"""


def test_output_of_python_itself_is_logged_without_messages_of_exceptions() -> None:
    """Exceptions in the program, a thread, a finaliser and a task; warnings; a message whose format is wrong."""
    process = subprocess.run([sys.executable, "-c", FAILING_PROGRAM], capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "secret" not in process.stdout + process.stderr
    lines = [json.loads(line) for line in process.stderr.splitlines()]
    events = [(line["event"], line.get("error")) for line in lines]
    for expected in (
        ("Exception in callback forgotten.", "ZeroDivisionError"),
        ("Task exception was never retrieved", "ValueError"),
        ("error_ignored", "ValueError"),
        ("thread_crashed", "ValueError"),
        ("it failed", "ValueError"),
        ("crashed", "ValueError"),
    ):
        assert expected in events, events
    assert [line["at"][-1] for line in lines if line["event"] == "crashed"] == ["<string>:19 <module>"]
