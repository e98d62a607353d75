"""No log line holds personal data or secrets: the whole system at level DEBUG, through faults."""

import json
import re
import signal
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.conftest import Broker, execute
from tests.integration.conftest import make_up, migrated
from tests.support import http
from tests.support.rabbitmq import RabbitMQ
from tests.support.requests import body, comment
from tests.support.up import Up, until

from comment_monitor.devserver.endpoints import read_endpoints

__all__ = ["make_up", "migrated"]

PRIVATE = {
    "text": "quokkatext",
    "author": "quokkaauthor",
    "id": "quokkaid",
    "post": "quokkapost",
    "metadata": "quokkameta",
    "query": "quokkaquery",
    "path": "quokkapath",
    "key": "quokkakey",
    "password": "quokkapassword",
    "e-mail": "ann.quokka@example.org",
    "phone": "+49 170 5550123",
    "phone, too": "(030) 555-0199",
}
PRIVATE_TEXT = " ".join(PRIVATE[kind] for kind in ("text", "e-mail", "phone", "phone, too"))

# The lines that `up` prints beside the log.
SHOWN = re.compile(r"Comment Monitoring Pipeline is up|[A-Z][A-Za-z]+: |Stopped\.")
CUT_OFF = f"POST /comments/process HTTP/1.1\r\nhost: x\r\ncontent-length: 999\r\n\r\n{PRIVATE_TEXT}"


def personal(number: int, text: str = PRIVATE_TEXT, **more: Any) -> dict[str, Any]:
    """Returns a comment of private data."""
    author = f"{PRIVATE['author']} {PRIVATE['e-mail']}"
    more = {"metadata": {PRIVATE["metadata"]: [PRIVATE["phone"]]}, **more}
    return {**comment(f"{PRIVATE['id']}-{number}", text), "author": author, **more}


def lines(up: Up) -> list[str]:
    """Returns every line of output and of the servers' logs."""
    files = [*(up.data_dir / "log").glob("*.log")]
    assert len(files) == 2, files
    return [*up.output().splitlines(), *(line for file in files for line in file.read_text().splitlines())]


def entries(up: Up) -> list[dict[str, Any]]:
    """Returns the JSON lines of the output: all of the program's lines except the addresses that `up` prints."""
    written, _, _ = up.output().rpartition("\n")
    return [json.loads(line) for line in written.splitlines() if line.startswith("{")]


def events(up: Up) -> set[str]:
    return {entry["event"] for entry in entries(up)}


def plain(text: str) -> str:
    """Removes formatting, so that a phone number is found in any notation."""
    return re.sub(r"\W", "", text).lower()


def assert_nothing_private(up: Up) -> None:
    words = {kind: plain(word) for kind, word in PRIVATE.items()}
    for line in lines(up):
        found = [kind for kind, word in words.items() if word in plain(line)]
        assert not found, f"{found} in: {line}"


def refuse_and_quote(dsn: str, table: str, *, of: str) -> None:
    """Makes PostgreSQL refuse rows of a table and quote them in the error."""
    execute(
        dsn,
        f"""
        CREATE FUNCTION quote_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'refused: %', {of} USING DETAIL = {of}, HINT = {of}; END $$;
        CREATE TRIGGER quote BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION quote_{table}();
        """,
    )


def stop_refusing(dsn: str, table: str) -> None:
    execute(dsn, f"DROP FUNCTION quote_{table} CASCADE")


def send_all_kinds(up: Up) -> None:
    """Sends valid, repeated, edited and invalid comments, malformed documents, and invalid queries."""
    process = f"{up.url}/comments/process"
    secrets = {"x-api-key": PRIVATE["key"], "authorization": f"Bearer {PRIVATE['key']}", "cookie": PRIVATE["key"]}
    with http.Client(headers=secrets, timeout=60) as client:
        for text in (PRIVATE_TEXT, PRIVATE_TEXT, f"{PRIVATE_TEXT} edited"):
            answer = client.post(
                process, json=body(*(personal(number, text) for number in range(20)), post_id=PRIVATE["post"])
            )
            assert answer.status_code == 200
        bad = [
            personal(100, PRIVATE_TEXT * 1000),
            personal(101, "\ud800" + PRIVATE_TEXT),
            personal(102, "\x00" + PRIVATE_TEXT),
            personal(103, " "),
            personal(104, timestamp=PRIVATE["text"]),
            personal(105, parent_id=PRIVATE["text"] * 50),
            personal(106, metadata=PRIVATE["text"]),
            {PRIVATE["text"]: PRIVATE["text"]},
        ]
        assert client.post(process, content=json.dumps(body(*bad, personal(107))).encode()).status_code == 200
        for content in (
            PRIVATE_TEXT,
            "[" * 50_000 + PRIVATE_TEXT,
            json.dumps({PRIVATE_TEXT: PRIVATE_TEXT}),
            json.dumps(body()) + PRIVATE_TEXT,
        ):
            assert client.post(process, content=content.encode()).status_code in {400, 422}
        for path in (
            "/comments?q={query}&author={author}&cursor={query}", "/comments?limit={query}", "/comments?since={query}",
            "/comments?q={query}&author={author}", "/comments/{path}/{id}", "/{path}?{query}",
            "/posts/{path}/{post}/summary",
            "/comments?q=%00{query}", "/comments?source={query}&label={query}&language={query}&sentiment={query}",
        ):  # fmt: skip
            client.get(up.url + path.format(**PRIVATE))
        client.request(PRIVATE["query"].upper(), process)
    # Bytes that are no HTTP, and a request cut off in the middle of its text.
    for raw in (
        f"{PRIVATE['query']} {PRIVATE_TEXT}\r\n\r\n",
        f"POST /comments/process HTTP/1.1\r\nhost: x\r\ncontent-length: 999\r\n\r\n{PRIVATE_TEXT}",
    ):
        with socket.create_connection(("127.0.0.1", up.port)) as connection:
            connection.sendall(raw.encode())


def pool(up: Up) -> list[psutil.Process]:
    """Returns the pool processes of the worker."""
    return up.child("worker").children()


@pytest.fixture
def up(make_up: Any, own_rabbitmq: RabbitMQ) -> Up:
    instance: Up = make_up(
        LOG_LEVEL="DEBUG", CELERY_BROKER_URL=own_rabbitmq.url, COMMENT_RATE_LIMIT_PER_MINUTE="0",
        COMMENT_RESEND_AFTER="1", COMMENT_MAX_RETRIES="1",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        # The second header has a common mistake, which the library's error message quotes.
        OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{PRIVATE['key']},x-team:{PRIVATE['key']}",
    )  # fmt: skip
    return instance.start().wait_until_up()


def test_no_log_line_at_debug_holds_private_data(up: Up, own_rabbitmq: RabbitMQ) -> None:
    dsn = (read_endpoints(up.data_dir) or {})["POSTGRES_DSN"]
    send_all_kinds(up)
    until(lambda: "analysed" in events(up))
    # PostgreSQL refuses rows and quotes the comment in its error: in the orchestrator, then in the worker.
    refuse_and_quote(dsn, "comments", of="NEW.text || NEW.author")
    assert up.post(json=body(personal(200))).status_code == 503
    stop_refusing(dsn, "comments")
    refuse_and_quote(dsn, "comment_analyses", of="(SELECT text || author FROM comments WHERE id = NEW.comment_id)")
    assert up.post(json=body(*map(personal, range(300, 330)))).status_code == 200
    until(lambda: {"batch_failed", "write_failed"} <= events(up))
    # A pool process is killed at work.
    [victim, *_] = pool(up)
    victim.send_signal(signal.SIGKILL)
    stop_refusing(dsn, "comment_analyses")
    # The broker has an outage.
    own_rabbitmq.stop()
    assert up.post(json=body(personal(400))).status_code == 200
    until(lambda: "broker_away" in events(up))
    own_rabbitmq.start()
    until(lambda: execute(dsn, "SELECT count(*) FROM analysis_outbox") == [(0,)])
    until(lambda: "broker_back" in events(up))
    # An incomplete request with private text is open when the whole system ends.
    with socket.create_connection(("127.0.0.1", up.port)) as connection:
        connection.sendall(CUT_OFF.encode())
        up.ctrl_c()
        assert up.process.wait() == 0
    found = entries(up)
    assert {"stored", "sent", "analysed", "refused"} <= events(up)
    assert {"debug", "info", "warning", "error"} <= {entry["level"] for entry in found}
    assert {"celery", "kombu"} & {entry["logger"].partition(".")[0] for entry in found}
    assert any(entry.get("at") for entry in found)
    # The whole log is JSON, including the pool's line about a killed process and Celery's last line.
    assert [entry for entry in found if entry["logger"] == "multiprocessing" and "signal 9" in entry["event"]]
    assert [entry for entry in found if entry["event"] == "worker: Warm shutdown (MainProcess)"]
    plainly = [line for line in up.output().splitlines() if line and not line.startswith("{")]
    assert not [line for line in plainly if not SHOWN.match(line)]
    assert_nothing_private(up)


def test_no_log_line_holds_a_server_password(make_up: Any, rabbitmq: Broker, tmp_path: Path) -> None:
    """Wrong passwords and an unrequested password: no error message of a client library contains them."""
    secret = PRIVATE["password"]
    first: Up = make_up().start().wait_until_up()
    servers = read_endpoints(first.data_dir) or {}
    redis = servers["REDIS_URL"].replace("unix://", f"unix://nobody:{secret}@")
    dsn = f"{servers['POSTGRES_DSN']}&password={secret}"
    second: Up = make_up(LOG_LEVEL="DEBUG", REDIS_URL=redis, POSTGRES_DSN=dsn, CELERY_BROKER_URL=rabbitmq.url)
    second.data_dir = tmp_path / "second"
    second.start().wait_until_up()
    until(lambda: second.get("/health").json()["checks"]["cache"] != "ok")
    assert second.post(json=body(personal(1))).status_code == 200
    wrong = rabbitmq.url.replace("guest:guest", f"guest:{secret}")
    third: Up = make_up(LOG_LEVEL="DEBUG", REDIS_URL=redis, POSTGRES_DSN=dsn, CELERY_BROKER_URL=wrong)
    third.data_dir = tmp_path / "third"
    third.start()
    # Celery gives up when its password is refused.
    until(lambda: third.process.poll() is not None)
    # PostgreSQL stops.
    first.ctrl_c()
    assert first.process.wait() == 0
    assert second.post(json=body(personal(2))).status_code == 503
    until(lambda: {"refused", "database_not_usable"} <= events(second))
    second.ctrl_c()
    second.process.wait()
    assert "Unrecoverable error" in third.output()
    for line in [*second.output().splitlines(), *third.output().splitlines()]:
        assert secret not in line
