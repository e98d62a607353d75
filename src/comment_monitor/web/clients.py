"""Who sent a request: the address that is counted, also behind proxies that are trusted to say it.

Each proxy adds the address that it was asked from at the right of `X-Forwarded-For` or `Forwarded` (RFC 7239); what is
further left came with the request, and anybody can write it. So the addresses are gone through from the right, for as
long as the one before was a trusted proxy's.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from comment_monitor.core.config import Network

Address = IPv4Address | IPv6Address
Headers = Iterable[tuple[bytes, bytes]]

# One host of IPv6 has a whole network of this length, and so as many addresses as it likes.
IPV6_HOST: Final = 64
# Proxies in a row that are gone through, and characters of a header that are looked at: from the right.
MOST_HOPS: Final = 32
MOST_CHARACTERS: Final = 2_048
# One parameter of an element, its value quoted or not: a quoted one may hold a `for=` of the client's.
_PARAMETER: Final = re.compile(r'(?:^|;)\s*+([\w-]++)\s*+=\s*+(?:"((?:[^"\\]++|\\.)*+)"|([^\s;,"]*+))\s*+(?=;|$)')
# Quotes only around a whole value: else one that a client left open would end with the first one of the proxy's, and
# hide what the proxy says.
_LIST: Final = re.compile(r'(?:[^"]++|(?<==)"(?:[^"\\]++|\\.)*+"(?=\s*+(?:[;,]|$)))*+')
_ELEMENTS: Final = re.compile(r'(?:[^,"]++|"(?:[^"\\]++|\\.)*+")++')
_WITH_PORT: Final = re.compile(r"\[([^\]]*)\](?::\w+)?|([0-9.]+):\w+")


def client_of(peer: str, headers: Headers, trusted: Sequence[Network]) -> str:
    """Whom to count for a request, as an opaque name.

    Args:
        peer: the address at the other end of the connection; empty where there is none, as at a Unix socket.
        headers: the request's, as ASGI has them.
        trusted: the networks of proxies whose word counts.
    """
    address = _parse(peer)
    if address is not None and trusted and _is_in(address, trusted):
        address = _behind(address, headers, trusted)
    return blake2b(str(_host(address) if address else peer).encode(), digest_size=12).hexdigest()


def _behind(proxy: Address, headers: Headers, trusted: Sequence[Network]) -> Address:
    """The client of a trusted proxy.

    A proxy writes one of the two headers and passes on the other as it came. Where both are there and differ, nobody
    knows which one it wrote, and the proxy itself is counted.
    """
    found = {
        _from_the_right(proxy, addresses, trusted)
        for addresses in (_x_forwarded_for(headers), _forwarded(headers))
        if addresses is not None
    }
    return found.pop() if len(found) == 1 else proxy


def _from_the_right(proxy: Address, words: Iterator[str], trusted: Sequence[Network]) -> Address:
    """The first address that is no trusted proxy's; the last one that can be read, where there is none."""
    latest = proxy
    for _, word in zip(range(MOST_HOPS), words, strict=False):
        address = _parse(word)
        if address is None:
            # `unknown`, a name, or a forgery: who said it is the last who is known.
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
    """Whom the lines' elements name, from the right; a line that can't be read names nobody, and ends it."""
    for line in reversed(lines):
        if len(line) > MOST_CHARACTERS or not _LIST.fullmatch(line):
            yield ""
            return
        yield from map(_for, reversed(_ELEMENTS.findall(line)))


def _for(element: str) -> str:
    """Whom an element names; empty where it names nobody, or more than one."""
    found = [
        one[2] if one[2] is not None else one[3] for one in _PARAMETER.finditer(element) if one[1].lower() == "for"
    ]
    return found[0] if len(found) == 1 else ""


def _joined(headers: Headers, name: bytes) -> str | None:
    """The header's lines as one (RFC 9110, 5.2), or its right end where it is long; None where it is not there."""
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
