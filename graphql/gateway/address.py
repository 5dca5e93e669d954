"""Who is at the other end: the address of a client behind the proxies that we trust.

Limits by address hold only as long as nobody can choose their own, so `X-Forwarded-For` counts from a trusted
proxy alone, and of it the right-most hop that is not one. Every other header of the kind is ignored.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send

Network = IPv4Network | IPv6Network
_HOPS = 20  # looked at, from the right
_WIDEST = 8  # bits of a trusted network at least: nobody trusts the whole world


def networks(text: str) -> tuple[Network, ...]:
    """Networks such as `10.244.0.0/16`, by commas. Raises ValueError for what is none, or far too wide."""
    found = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        network = ip_network(piece)
        if network.prefixlen < _WIDEST:
            raise ValueError(f"{piece}: a network of proxies has at least {_WIDEST} bits")
        found.append(network)
    return tuple(found)


def parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address with or without a port, or None; one of IPv4 inside IPv6 as what it is."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return (isinstance(found, IPv6Address) and found.ipv4_mapped) or found


def within(address: IPv4Address | IPv6Address, among: tuple[Network, ...]) -> bool:
    """Whether the address is in one of the networks."""
    return any(address.version == network.version and address in network for network in among)


def group(address: str) -> str:
    """What counts as one address for limits: of IPv6 the network of 64 bits that a subscriber gets."""
    found = parse(address)
    if isinstance(found, IPv6Address):
        return str(ip_network((int(found), 64), strict=False).network_address)
    return str(found) if found else address


class Proxied:
    """The outermost layer: puts the client's address and scheme in place of the proxy's."""

    def __init__(self, app: ASGIApp, trusted: tuple[Network, ...]) -> None:
        self._app = app
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and self._trusted and scope.get("client"):
            peer = parse(scope["client"][0])
            if peer is not None and within(peer, self._trusted):
                self._look_behind(scope)
        await self._app(scope, receive, send)

    def _look_behind(self, scope: Scope) -> None:
        given: dict[bytes, list[str]] = {b"x-forwarded-for": [], b"x-forwarded-proto": []}
        for name, value in scope["headers"]:
            if name in given:
                given[name] += value.decode("latin-1").split(",")
        for hop in reversed(given[b"x-forwarded-for"][-_HOPS:]):
            address = parse(hop)
            if address is None:
                break  # whoever wrote this is not one of ours: what is left of it is worth nothing
            scope["client"] = (str(address), 0)
            if not within(address, self._trusted):
                break
        schemes = given[b"x-forwarded-proto"]
        if schemes and schemes[-1].strip().lower() in ("http", "https"):
            secure = schemes[-1].strip().lower() == "https"
            web, socket = ("https", "wss") if secure else ("http", "ws")
            scope["scheme"] = socket if scope["type"] == "websocket" else web
