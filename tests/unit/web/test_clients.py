"""Whom the rate limit counts: the address at the other end, or what trusted proxies say, from the right."""

from ipaddress import ip_network

import pytest

from comment_monitor.core.config import load, networks
from comment_monitor.core.errors import ConfigurationError
from comment_monitor.web.clients import client_of

TRUSTED = tuple(map(ip_network, ("10.0.0.0/8", "fd00::/8", "192.0.2.9/32")))
Given = list[tuple[bytes, bytes]]


def of(peer: str, **headers: str) -> str:
    given: Given = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return client_of(peer, given, TRUSTED)


def plain(address: str) -> str:
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
)
def test_addresses_are_counted_from_the_right(value: str, client: str) -> None:
    assert of("10.0.0.1", x_forwarded_for=value) == plain(client)
    # Nobody else is believed.
    assert of("198.51.100.66", x_forwarded_for=value) == plain("198.51.100.66")


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
        # A quote that the client left open, and what a proxy puts behind it.
        ('for=198.51.100.1;a=", for="[2001:db8::7]:4711"', "10.0.0.1"),
        ('for=198.51.100.1;a=", for="203.0.113.7";proto="http"', "10.0.0.1"),
        ('for=198.51.100.1;a="\\, for="203.0.113.7:1";by="_a"', "10.0.0.1"),
        ('for=198.51.100.1;a=", for=203.0.113.7;proto="http"', "10.0.0.1"),
        ('for=198.51.100.1", for="203.0.113.7:1"', "10.0.0.1"),
        ("what this is, for=203.0.113.7", "203.0.113.7"),
    ],
)
def test_forwarded_is_read_as_rfc_7239_says(value: str, client: str) -> None:
    assert of("10.0.0.1", forwarded=value) == plain(client)


def test_of_two_headers_that_differ_the_proxy_itself_is_counted() -> None:
    """One of them came with the request, and which one nobody knows."""
    assert of("10.0.0.1", forwarded="for=198.51.100.1", x_forwarded_for="203.0.113.7") == plain("10.0.0.1")
    assert of("10.0.0.1", forwarded="for=203.0.113.7", x_forwarded_for="203.0.113.7") == plain("203.0.113.7")


def test_several_lines_of_a_header_are_one_list() -> None:
    given = [(b"x-forwarded-for", b"198.51.100.1"), (b"x-forwarded-for", b"203.0.113.7")]
    assert client_of("10.0.0.1", given, TRUSTED) == plain("203.0.113.7")


def test_what_a_client_left_open_in_its_line_is_closed_by_no_other() -> None:
    given = [(b"forwarded", b'for=198.51.100.1;a="'), (b"forwarded", b'for="203.0.113.7:4711"')]
    assert client_of("10.0.0.1", given, TRUSTED) == plain("203.0.113.7")


def test_a_host_of_ipv6_is_its_network_and_a_mapped_address_is_the_one_of_ipv4() -> None:
    assert plain("2001:db8:1:2::1") == plain("2001:db8:1:2:ffff::9")
    assert plain("2001:db8:1:2::1") != plain("2001:db8:1:3::1")
    assert plain("::ffff:203.0.113.7") == plain("203.0.113.7")
    assert plain("203.0.113.7") != plain("203.0.113.8")
    assert "203" not in plain("203.0.113.7")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ["a,", '"', '"\\"', "for=", '\\"', "[", ';for="', "1.1.1.1,", "10.0.0.1,"])
@pytest.mark.parametrize("name", ["x_forwarded_for", "forwarded"])
def test_a_header_of_any_length_is_read_at_once(name: str, unit: str) -> None:
    assert of("10.0.0.1", **{name: unit * (60_000 // len(unit))})


def test_the_setting_takes_networks_and_addresses_and_names_what_is_none() -> None:
    settings = load({"COMMENT_TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.9 fd00::/8"})
    assert networks(settings.trusted_proxies) == TRUSTED[:1] + TRUSTED[2:] + TRUSTED[1:2]
    assert networks(load({}).trusted_proxies) == ()
    for wrong in ("10.0.0.1/8", "proxy.example", "10.0.0.0/33", "*"):
        with pytest.raises(ConfigurationError, match=r"COMMENT_TRUSTED_PROXIES=.*: must be networks"):
            load({"COMMENT_TRUSTED_PROXIES": f"10.0.0.0/8,{wrong}"})
