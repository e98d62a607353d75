"""Identifies the client of a request by its address, also behind trusted proxies.

Each proxy appends the address of its peer at the right of `X-Forwarded-For` or `Forwarded` (RFC 7239). The addresses
further left came with the request, and any client can forge them. So the addresses are read from the right, for as
long as the previous address was a trusted proxy's.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from comment_monitor.core.config import Network

Address = IPv4Address | IPv6Address
Headers = Iterable[tuple[bytes, bytes]]

# An IPv6 host has a whole network of this prefix length, and can use any address in it.
IPV6_HOST: Final = 64
# Proxies in a row that are followed, and characters of a header that are read, both from the right.
MOST_HOPS: Final = 32
MOST_CHARACTERS: Final = 2_048
# One parameter of an element, its value quoted or not: a quoted value may hold a `for=` that the client forged.
_PARAMETER: Final = re.compile(r'(?:^|;)\s*+([\w-]++)\s*+=\s*+(?:"((?:[^"\\]++|\\.)*+)"|([^\s;,"]*+))\s*+(?=;|$)')
# Quotes only around a whole value: otherwise a quote that a client left open would end at the proxy's first quote, and
# hide the proxy's element.
_LIST: Final = re.compile(r'(?:[^"]++|(?<==)"(?:[^"\\]++|\\.)*+"(?=\s*+(?:[;,]|$)))*+')
_ELEMENTS: Final = re.compile(r'(?:[^,"]++|"(?:[^"\\]++|\\.)*+")++')
_WITH_PORT: Final = re.compile(r"\[([^\]]*)\](?::\w+)?|([0-9.]+):\w+")


def client_of(peer: str, headers: Headers, trusted: Sequence[Network]) -> str:
    """Returns an opaque name of the client that a request counts for.

    Args:
        peer: the address at the other end of the connection; empty if there is none, as with a Unix socket.
        headers: the request's headers in the form of ASGI.
        trusted: the networks of the proxies whose headers are believed.
    """
    address = _parse(peer)
    if address is not None and trusted and _is_in(address, trusted):
        address = _behind(address, headers, trusted)
    return blake2b(str(_host(address) if address else peer).encode(), digest_size=12).hexdigest()


def _behind(proxy: Address, headers: Headers, trusted: Sequence[Network]) -> Address:
    """Returns the client behind a trusted proxy.

    A proxy writes one of the two headers and passes on the other unchanged. If both exist and differ, it is unknown
    which one the proxy wrote, and the proxy itself counts as the client.
    """
    found = {
        _from_the_right(proxy, addresses, trusted)
        for addresses in (_x_forwarded_for(headers), _forwarded(headers))
        if addresses is not None
    }
    return found.pop() if len(found) == 1 else proxy


def _from_the_right(proxy: Address, words: Iterator[str], trusted: Sequence[Network]) -> Address:
    """Returns the first address that is not a trusted proxy's; if there is none, the last readable address."""
    latest = proxy
    for _, word in zip(range(MOST_HOPS), words, strict=False):
        address = _parse(word)
        if address is None:
            # `unknown`, a name, or a forgery: the proxy that passed it on is the last known address.
            break
        latest = address
        if not _is_in(address, trusted):
            break
    return latest


def _x_forwarded_for(headers: Headers) -> Iterator[str] | None:
    value = _joined(headers, b"x-forwarded-for")
    return None if value is None else reversed(value.split(","))


def _forwarded(headers: Headers) -> Iterator[str] | None:
    lines = [value.decode("latin-1") for key, value in headers if key == b"forwarded"]
    return _named(lines) if lines else None


def _named(lines: Sequence[str]) -> Iterator[str]:
    """Yields the `for` of the lines' elements from the right; at an unreadable line it yields "" and ends."""
    for line in reversed(lines):
        if len(line) > MOST_CHARACTERS or not _LIST.fullmatch(line):
            yield ""
            return
        yield from map(_for, reversed(_ELEMENTS.findall(line)))


def _for(element: str) -> str:
    """Returns the `for` of an element; empty if the element has none, or several."""
    found = [
        match[2] if match[2] is not None else match[3]
        for match in _PARAMETER.finditer(element)
        if match[1].lower() == "for"
    ]
    return found[0] if len(found) == 1 else ""


def _joined(headers: Headers, name: bytes) -> str | None:
    """Returns the header's lines as one (RFC 9110, 5.2), or its right end if it is long; None if it is absent."""
    lines = [value for key, value in headers if key == name]
    return b",".join(lines)[-MOST_CHARACTERS:].decode("latin-1") if lines else None


def _parse(word: str) -> Address | None:
    word = word.strip()
    if found := _WITH_PORT.fullmatch(word):
        word = found[1] if found[1] is not None else found[2]
    try:
        address = ip_address(word.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _host(address: Address) -> object:
    return address if address.version == 4 else ip_network((address, IPV6_HOST), strict=False)  # noqa: PLR2004
