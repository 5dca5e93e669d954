"""Which hop of `X-Forwarded-For` is the client, and what counts as one address."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.address import Proxied, group, networks
from gateway.crowd import Rates, Replicas
from gateway.settings import GatewaySettings


async def client(trusted: str, *headers: tuple[str, str], peer: str = "127.0.0.1") -> str:
    """The address that the application behind the proxies sees."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    raw = [(name.encode(), value.encode()) for name, value in headers]
    scope = {"type": "http", "client": (peer, 1), "scheme": "http", "headers": raw}
    await Proxied(app, networks(trusted))(scope, None, None)  # type: ignore[arg-type]
    return str(seen[0]["client"][0])


@pytest.mark.parametrize(
    ("trusted", "hops", "address"),
    [
        ("127.0.0.0/8", "198.51.100.7", "198.51.100.7"),
        ("127.0.0.0/8", "203.0.113.1, 198.51.100.7", "198.51.100.7"),
        ("127.0.0.0/8,10.0.0.0/8", "10.9.9.9, 10.1.2.3", "10.9.9.9"),
        ("127.0.0.0/8", "198.51.100.7, nonsense", "127.0.0.1"),
        ("127.0.0.0/8", "198.51.100.7:4711", "198.51.100.7"),
        ("127.0.0.0/8", "[2001:db8::1]:443", "2001:db8::1"),
        ("127.0.0.0/8", "::ffff:198.51.100.7", "198.51.100.7"),
        ("10.0.0.0/8", "198.51.100.7", "127.0.0.1"),
        ("127.0.0.0/8", "", "127.0.0.1"),
        ("127.0.0.0/8", "1.1.1.1, " * 5000 + "198.51.100.7", "198.51.100.7"),
    ],
)
async def test_the_right_most_hop_that_is_no_proxy_counts(trusted: str, hops: str, address: str) -> None:
    assert await client(trusted, ("x-forwarded-for", hops)) == address


async def test_a_second_line_of_the_header_comes_after_the_first() -> None:
    lines = [("x-forwarded-for", "203.0.113.1"), ("x-forwarded-for", "198.51.100.7")]
    assert await client("127.0.0.0/8", *lines) == "198.51.100.7"


@pytest.mark.parametrize("name", ["forwarded", "x-real-ip", "true-client-ip", "cf-connecting-ip"])
async def test_other_headers_of_the_kind_say_nothing(name: str) -> None:
    assert await client("127.0.0.0/8", (name, "203.0.113.1")) == "127.0.0.1"


@pytest.mark.parametrize("text", ["0.0.0.0/0", "::/0", "10.0.0.0/4", "10.0.0.1/8", "ingress"])
def test_what_trusts_too_many_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"network|host bits|bits"):
        GatewaySettings(trusted_proxies=text)


def test_a_subscriber_of_ipv6_is_one_address() -> None:
    assert group("2001:db8:1:2::3") == group("2001:db8:1:2:ffff::1")
    assert group("2001:db8:1:2::3") != group("2001:db8:1:3::3")
    assert group("::ffff:192.0.2.1") == "192.0.2.1"


def test_a_rate_has_a_burst_and_then_its_speed() -> None:
    rates = Rates()
    waits = [rates.take("a", burst=3, per_second=0.5) for _ in range(4)]
    assert waits[:3] == [0, 0, 0]
    assert 1 < waits[3] <= 2
    assert rates.take("b", burst=3, per_second=0.5) == 0


def test_without_a_service_to_ask_the_settings_say_how_many_we_are() -> None:
    assert Replicas(GatewaySettings(gateway_replicas=3)).count == 3
