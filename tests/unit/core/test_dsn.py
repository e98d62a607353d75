"""Parsing of POSTGRES_DSN: the parameters that asyncpg and psycopg2 get, and the parameters that are rejected."""

import ssl
import subprocess
from pathlib import Path
from typing import Any

import asyncpg.connect_utils
import pytest
from tests.unit.case_ids import case_id

from comment_monitor.core.dsn import Host, Keepalive, psycopg_arguments, read_dsn
from comment_monitor.core.errors import ConfigurationError


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def root(tmp_path: Path) -> str:
    return certificate(tmp_path / "root.pem")


NEW_CERTIFICATE = "req -x509 -newkey rsa:2048 -nodes -subj /CN=root -keyout"


def certificate(file: Path) -> str:
    subprocess.run(
        ["openssl", *NEW_CERTIFICATE.split(), f"{file}.key", "-out", file],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(file)


@pytest.mark.parametrize(
    ("dsn", "hosts"),
    [
        ("postgresql://db/c", [("db", 5432)]),
        ("host=db dbname=c", [("db", 5432)]),
        ("postgresql://db:1/c", [("db", 1)]),
        ("postgresql://a,b/c", [("a", 5432), ("b", 5432)]),
        ("postgresql://a:1,b:2/c", [("a", 1), ("b", 2)]),
        ("postgresql://a:1,b/c", [("a", 1), ("b", 5432)]),
        ("host=a,b port=7 dbname=c", [("a", 7), ("b", 7)]),
        ("host=a,b port=,7 dbname=c", [("a", 5432), ("b", 7)]),
        ("postgresql://[::1]:1,[fd00::2]/c", [("::1", 1), ("fd00::2", 5432)]),
        ("postgresql:///c?host=/run/sockets", [("/run/sockets", 5432)]),
        ("postgresql:///c?hostaddr=192.0.2.1", [("192.0.2.1", 5432)]),
        ("postgresql://192.0.2.1/c?hostaddr=192.0.2.1", [("192.0.2.1", 5432)]),
    ],
    ids=case_id,
)
def test_both_libraries_get_the_same_hosts(dsn: str, hosts: list[tuple[str, int]]) -> None:
    address = read_dsn(dsn, {})
    assert address.hosts == [Host(*host) for host in hosts]
    assert address.libpq["host"] == ",".join(name for name, _ in hosts)
    assert address.libpq["port"] == ",".join(str(port) for _, port in hosts)
    assert "hostaddr" not in address.libpq


REJECTED = {
    # The query of a DSN, and text that the error message must contain.
    "hostaddr=192.0.2.1": "hostaddr",
    "service=nosuch": "service",
    "channel_binding=require": "channel_binding",
    "require_auth=scram-sha-256": "require_auth",
    "gssencmode=require": "gssencmode",
    "krbsrvname=other": "krbsrvname",
    "gsslib=gssapi": "gsslib",
    "gssdelegation=1": "gssdelegation",
    "requirepeer=postgres": "requirepeer",
    "replication=database": "replication",
    "sslnegotiation=direct": "sslnegotiation",
    "sslcertmode=require": "sslcertmode",
    "sslcrldir=/etc/ssl/crl": "sslcrldir",
    "sslsni=0": "sslsni",
    "load_balance_hosts=random": "load_balance_hosts",
    "client_encoding=latin1": "client_encoding",
    "connect_timeout=0": "connect_timeout must be a number from 1",
    "connect_timeout=-1": "connect_timeout",
    "connect_timeout=soon": "connect_timeout",
    "connect_timeout=99999999": "connect_timeout",
    "keepalives_idle=-5": "keepalives_idle",
    "keepalives_count=1000": "keepalives_count",
    "keepalives=on": "keepalives",
    "tcp_user_timeout=1s": "tcp_user_timeout",
    "target_session_attrs=master": "target_session_attrs must be one of any",
    "port=0": "port",
    "port=65536": "port",
    "port=5432,5433": "1 hosts, but 2 ports",
    "host=@abstract": "abstract",
    "sslmode=bogus": "sslmode must be one of",
    "sslmode=verify-full": "sslrootcert",
    "sslmode=verify-ca": "sslrootcert",
    "sslmode=verify-full&sslrootcert=/nosuch": "sslrootcert",
    "sslmode=require&sslrootcert=system": "verify-full",
    "sslmode=require&sslcert=/nosuch": "sslcert",
    "sslmode=require&sslcrl=/nosuch": "sslcrl",
    "sslmode=require&ssl_min_protocol_version=SSLv3": "ssl_min_protocol_version",
    "sslmode=require&ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2": "ssl_max_protocol_version",
    "sslrootcert=/etc/ssl/root.crt": "sslrootcert needs sslmode=",
    "sslmode=prefer&sslcert=/c": "sslcert needs sslmode=",
    "sslmode=disable&sslcrl=/c": "sslcrl needs sslmode=",
    "nosuch=1": "must be a libpq URI",
}


@pytest.mark.parametrize(("query", "named"), REJECTED.items(), ids=map(case_id, REJECTED))
def test_a_parameter_that_not_both_libraries_honour_is_rejected_by_name(query: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_dsn(f"postgresql://ana:geheim@db/c?{query}", {})
    message = str(caught.value)
    assert message.startswith("POSTGRES_DSN=<hidden>: ")
    assert named in message
    assert "geheim" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "query",
    [
        "application_name=x", "fallback_application_name=x", "channel_binding=prefer", "channel_binding=disable",
        "gssencmode=disable", "gssencmode=prefer", "sslsni=1", "sslcompression=0", "sslnegotiation=postgres",
        "client_encoding=UTF8", "client_encoding=auto", "load_balance_hosts=disable", "replication=false",
        "sslcertmode=allow",
    ],
)  # fmt: skip
def test_a_parameter_that_changes_nothing_is_ignored(query: str) -> None:
    assert read_dsn(f"postgresql://db/c?{query}", {}) == read_dsn("postgresql://db/c", {})


def test_both_libraries_get_every_supported_parameter_explicitly() -> None:
    address = read_dsn(
        "postgresql://ana:geheim@a:1,b:2/c?options=-c%20search_path%3Dcomments&connect_timeout=3&keepalives_idle=30"
        "&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=20000&target_session_attrs=read-write"
        "&passfile=/run/pass&sslmode=require",
        {},
    )
    assert (address.user, address.password, address.database) == ("ana", "geheim", "c")
    assert address.options == "-c search_path=comments"
    assert address.connect_timeout == 3
    assert address.keepalive == Keepalive(True, 30, 10, 3, 20000)
    assert address.target_session_attrs == "read-write"
    assert address.passfile == "/run/pass"
    assert isinstance(address.ssl, ssl.SSLContext)
    assert address.libpq == {
        "user": "ana", "password": "geheim", "host": "a,b", "port": "1,2", "dbname": "c",
        "options": "-c search_path=comments", "connect_timeout": "3", "keepalives_idle": "30",
        "keepalives_interval": "10", "keepalives_count": "3", "tcp_user_timeout": "20000",
        "target_session_attrs": "read-write", "passfile": "/run/pass", "sslmode": "require",
    }  # fmt: skip


VARIABLES = {
    "PGHOST": "db2", "PGPORT": "77", "PGUSER": "ben", "PGPASSWORD": "pw", "PGDATABASE": "d2", "PGOPTIONS": "-c a.b=1",
    "PGCONNECT_TIMEOUT": "4", "PGSSLMODE": "require", "PGTARGETSESSIONATTRS": "primary", "PGPASSFILE": "/p",
}  # fmt: skip


def test_libpq_variables_complete_the_dsn() -> None:
    address = read_dsn("postgresql://", VARIABLES)
    assert address.libpq == {
        "host": "db2", "port": "77", "user": "ben", "password": "pw", "dbname": "d2", "options": "-c a.b=1",
        "connect_timeout": "4", "sslmode": "require", "target_session_attrs": "primary", "passfile": "/p",
    }  # fmt: skip
    parameters = "options=-c%20d.e%3D1&connect_timeout=5&sslmode=disable&target_session_attrs=any&passfile=/q"
    dsn = f"postgresql://ana:x@db:1/c?{parameters}"
    assert read_dsn(dsn, VARIABLES) == read_dsn(dsn, {})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PGSERVICE", "x"), ("PGHOSTADDR", "192.0.2.1"), ("PGCHANNELBINDING", "require"), ("PGREQUIREAUTH", "md5"),
        ("PGREQUIREPEER", "x"),
    ],
)  # fmt: skip
def test_a_variable_that_not_both_libraries_honour_is_rejected_by_name(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=variable.removeprefix("PG")[:4].lower()):
        read_dsn("postgresql://db/c", {variable: value})


@pytest.mark.parametrize(
    "variable", sorted({"PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSSLMODE", "PGTARGETSESSIONATTRS"})
)
def test_asyncpg_reads_no_variable_that_the_dsn_overrides(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every parameter is an explicit argument."""
    address = read_dsn("postgresql://ana:x@db:1/c?sslmode=disable", {})
    monkeypatch.setenv(variable, VARIABLES.get(variable, "x"))
    host = address.hosts[0]
    addresses, parameters = asyncpg.connect_utils._parse_connect_dsn_and_args(  # type: ignore[attr-defined]
        dsn=None, host=host.name, port=host.port, user=address.user, password=address.password,
        passfile=address.passfile, ssl=address.ssl, direct_tls=None, database=address.database, server_settings=None,
        target_session_attrs=address.target_session_attrs, krbsrvname=None, gsslib=None, service=None, servicefile=None,
    )  # fmt: skip
    assert addresses == [("db", 1)]
    assert (parameters.user, parameters.password, parameters.database) == ("ana", "x", "c")
    assert (parameters.sslmode.name, parameters.target_session_attrs.value) == ("disable", "any")


@pytest.mark.parametrize(
    ("mode", "checks_name", "verifies"),
    [("require", False, True), ("verify-ca", False, True), ("verify-full", True, True)],
)
def test_with_sslrootcert_the_server_is_verified(mode: str, checks_name: bool, verifies: bool, root: str) -> None:
    address = read_dsn(f"postgresql://db/c?sslmode={mode}&sslrootcert={root}", {})
    assert isinstance(address.ssl, ssl.SSLContext)
    assert (address.ssl.check_hostname, address.ssl.verify_mode == ssl.CERT_REQUIRED) == (checks_name, verifies)
    assert address.libpq["sslrootcert"] == root


def test_without_sslrootcert_sslmode_require_only_encrypts() -> None:
    address = read_dsn("postgresql://db/c?sslmode=require", {})
    assert isinstance(address.ssl, ssl.SSLContext)
    assert address.ssl.verify_mode == ssl.CERT_NONE


def test_both_libraries_use_the_certificates_in_libpqs_home_folder(empty_home: Path) -> None:
    folder = empty_home / ".postgresql"
    folder.mkdir()
    root = certificate(folder / "root.crt")
    certificate(folder / "postgresql.crt")
    (folder / "postgresql.crt.key").rename(folder / "postgresql.key")
    address = read_dsn("postgresql://db/c?sslmode=verify-full", {})
    assert isinstance(address.ssl, ssl.SSLContext)
    assert address.ssl.verify_mode == ssl.CERT_REQUIRED
    assert address.libpq["sslrootcert"] == root
    assert address.libpq["sslcert"] == f"{folder}/postgresql.crt"
    assert address.libpq["sslkey"] == f"{folder}/postgresql.key"


def test_sslrootcert_system_is_the_same_file_for_both_libraries(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", root)
    address = read_dsn("postgresql://db/c?sslrootcert=system", {})
    assert (address.libpq["sslmode"], address.libpq["sslrootcert"]) == ("verify-full", root)
    assert isinstance(address.ssl, ssl.SSLContext)
    assert [certificate["subject"] for certificate in address.ssl.get_ca_certs()] == [((("commonName", "root"),),)]


def test_an_encrypted_key_does_not_prompt_for_its_password(tmp_path: Path, root: str) -> None:
    key = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "rsa", "-aes256", "-passout", "pass:geheim", "-in", f"{root}.key", "-out", key],
        check=True,
        capture_output=True,
    )
    dsn = f"postgresql://db/c?sslmode=require&sslcert={root}&sslkey={key}"
    with pytest.raises(ConfigurationError, match="sslkey"):
        read_dsn(dsn, {})
    assert isinstance(read_dsn(f"{dsn}&sslpassword=geheim", {}).ssl, ssl.SSLContext)


def test_tls_parameters_are_ignored_for_a_unix_socket() -> None:
    address = read_dsn("postgresql:///c?host=/run/sockets&sslmode=verify-full", {})
    assert (address.ssl, address.libpq["sslmode"]) == ("disable", "disable")


def test_the_default_user_is_the_processs_and_names_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    # asyncpg would read these variables.
    for name in ("LOGNAME", "USER", "USERNAME"):
        monkeypatch.setenv(name, "somebody")
    address = read_dsn("postgresql://db", {})
    assert address.user == address.database == address.libpq["user"] == address.libpq["dbname"] != "somebody"


def test_psycopg2_gets_the_parsed_dsn_with_a_connect_timeout() -> None:
    arguments: dict[str, Any] = psycopg_arguments(
        "postgresql://ana@db/c?application_name=x", application="comment-monitor test"
    )
    assert (arguments["connect_timeout"], arguments["application_name"]) == (10, "comment-monitor test")
    assert psycopg_arguments("postgresql://ana@db/c?connect_timeout=3", application="t")["connect_timeout"] == "3"
