"""The client of a request: the peer's address, or the address that trusted proxies report."""

from ipaddress import ip_network

import pytest
from tests.unit.case_ids import case_id

from comment_monitor.core.config import load, networks
from comment_monitor.core.errors import ConfigurationError
from comment_monitor.web.clients import client_of

TRUSTED = tuple(map(ip_network, ("10.0.0.0/8", "fd00::/8", "192.0.2.9/32")))
Headers = list[tuple[bytes, bytes]]


def behind(peer: str, **headers: str) -> str:
    given: Headers = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return client_of(peer, given, TRUSTED)


def direct(address: str) -> str:
    return client_of(address, [], ())


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("198.51.100.1, 203.0.113.7, 192.0.2.9", "203.0.113.7"),
        ("198.51.100.1,203.0.113.7 ,10.1.2.3,\tfd00::5", "203.0.113.7"),
        ("203.0.113.7:51234", "203.0.113.7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("10.0.0.8, 10.0.0.9", "10.0.0.8"),
        ("unknown", "10.0.0.1"),
        ("198.51.100.1, unknown", "10.0.0.1"),
        ("198.51.100.1, _hidden, 10.0.0.9", "10.0.0.9"),
        ("", "10.0.0.1"),
        (", ,", "10.0.0.1"),
        ("999.1.1.1", "10.0.0.1"),
        ("203.0.113.7%eth0", "203.0.113.7"),
    ],
    ids=case_id,
)
def test_x_forwarded_for_is_read_from_the_right(value: str, client: str) -> None:
    assert behind("10.0.0.1", x_forwarded_for=value) == direct(client)
    # The header of any other peer is ignored.
    assert behind("198.51.100.66", x_forwarded_for=value) == direct("198.51.100.66")


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=203.0.113.7", "203.0.113.7"),
        ("For=198.51.100.1, for=203.0.113.7;proto=https;by=10.0.0.1", "203.0.113.7"),
        ('for="[2001:db8::7]:4711"', "2001:db8::7"),
        ('proto=http;for="203.0.113.7:80" , for=192.0.2.9', "203.0.113.7"),
        ('for="198.51.100.1, for=203.0.113.8"', "10.0.0.1"),
        ('host="a,b";for=203.0.113.7', "203.0.113.7"),
        ('host="a;for=198.51.100.1";for=203.0.113.7', "203.0.113.7"),
        ('host="a\\";for=198.51.100.1";for=203.0.113.7', "203.0.113.7"),
        ("for=198.51.100.1;for=203.0.113.7", "10.0.0.1"),
        ("for=_secret", "10.0.0.1"),
        ("proto=https", "10.0.0.1"),
        ('for="203.0.113.7', "10.0.0.1"),
        # A quote that the client left open, followed by the proxy's element.
        ('for=198.51.100.1;a=", for="[2001:db8::7]:4711"', "10.0.0.1"),
        ('for=198.51.100.1;a=", for="203.0.113.7";proto="http"', "10.0.0.1"),
        ('for=198.51.100.1;a="\\, for="203.0.113.7:1";by="_a"', "10.0.0.1"),
        ('for=198.51.100.1;a=", for=203.0.113.7;proto="http"', "10.0.0.1"),
        ('for=198.51.100.1", for="203.0.113.7:1"', "10.0.0.1"),
        ("what this is, for=203.0.113.7", "203.0.113.7"),
    ],
    ids=case_id,
)
def test_forwarded_is_read_according_to_rfc_7239(value: str, client: str) -> None:
    assert behind("10.0.0.1", forwarded=value) == direct(client)


def test_the_proxy_is_the_client_if_the_two_headers_differ() -> None:
    """One of the headers came from the client, and it is unknown which."""
    assert behind("10.0.0.1", forwarded="for=198.51.100.1", x_forwarded_for="203.0.113.7") == direct("10.0.0.1")
    assert behind("10.0.0.1", forwarded="for=203.0.113.7", x_forwarded_for="203.0.113.7") == direct("203.0.113.7")


def test_several_lines_of_a_header_form_a_single_list() -> None:
    given = [(b"x-forwarded-for", b"198.51.100.1"), (b"x-forwarded-for", b"203.0.113.7")]
    assert client_of("10.0.0.1", given, TRUSTED) == direct("203.0.113.7")


def test_an_open_quote_in_a_header_line_does_not_affect_the_next_line() -> None:
    given = [(b"forwarded", b'for=198.51.100.1;a="'), (b"forwarded", b'for="203.0.113.7:4711"')]
    assert client_of("10.0.0.1", given, TRUSTED) == direct("203.0.113.7")


def test_an_ipv6_client_is_its_network_and_a_mapped_address_counts_as_ipv4() -> None:
    assert direct("2001:db8:1:2::1") == direct("2001:db8:1:2:ffff::9")
    assert direct("2001:db8:1:2::1") != direct("2001:db8:1:3::1")
    assert direct("::ffff:203.0.113.7") == direct("203.0.113.7")
    assert direct("203.0.113.7") != direct("203.0.113.8")
    assert "203" not in direct("203.0.113.7")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit", ["a,", '"', '"\\"', "for=", '\\"', "[", ';for="', "1.1.1.1,", "10.0.0.1,"], ids=case_id
)
@pytest.mark.parametrize("name", ["x_forwarded_for", "forwarded"])
def test_a_long_header_is_read_in_little_time(name: str, unit: str) -> None:
    assert behind("10.0.0.1", **{name: unit * (60_000 // len(unit))})


def test_the_setting_accepts_networks_and_addresses_and_rejects_other_values() -> None:
    settings = load({"COMMENT_TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.9 fd00::/8"})
    assert networks(settings.trusted_proxies) == TRUSTED[:1] + TRUSTED[2:] + TRUSTED[1:2]
    assert networks(load({}).trusted_proxies) == ()
    for wrong in ("10.0.0.1/8", "proxy.example", "10.0.0.0/33", "*"):
        with pytest.raises(ConfigurationError, match=r"COMMENT_TRUSTED_PROXIES=.*: must be networks"):
            load({"COMMENT_TRUSTED_PROXIES": f"10.0.0.0/8,{wrong}"})
