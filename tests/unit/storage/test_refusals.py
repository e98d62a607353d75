"""Which errors of PostgreSQL mean wrong connection settings, and the words for each error."""

import socket
import ssl

import asyncpg
import pytest
from tests.unit.case_ids import case_id

from comment_monitor.storage.connecting import ConnectTimeoutError, SessionRefusedError
from comment_monitor.storage.postgres import in_words, refuses_us

CERTIFICATE = ssl.SSLCertVerificationError(1, "certificate verify failed")


@pytest.mark.parametrize(
    ("error", "refused", "words"),
    [
        (asyncpg.InvalidPasswordError("x"), True, "refuses the user or the password"),
        (asyncpg.InvalidAuthorizationSpecificationError("x"), True, "refuses the user or the password"),
        (asyncpg.InvalidCatalogNameError("x"), True, "no such database"),
        (SessionRefusedError("x"), True, "`options`"),
        (CERTIFICATE, True, "certificate"),
        (socket.gaierror(socket.EAI_NONAME, "x"), True, "name is not known"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), False, "name is not known"),
        (ssl.SSLError(1, "wrong version number"), False, "TLS"),
        (ConnectionRefusedError(111, "x"), False, "connection refused"),
        (ConnectTimeoutError(), False, "in time"),
        (asyncpg.CannotConnectNowError("x"), False, "ended the connection"),
        (asyncpg.ObjectNotInPrerequisiteStateError("x"), False, "does not permit"),
        (asyncpg.InsufficientPrivilegeError("x"), False, "does not permit"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else case_id(str(value)),
)
def test_wrong_connection_settings_differ_from_an_outage(error: Exception, refused: bool, words: str) -> None:
    assert refuses_us(error) == refused
    assert words in in_words(error)
