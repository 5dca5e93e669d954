"""What one account and one address may have of a replica follows from how many replicas are ready."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable

import pytest

from gateway.crowd import Crowd, _resolved
from gateway.settings import GatewaySettings
from kit.errors import RateLimited


class Names:
    """Answers as a name server does, one answer after the other; the last one stands."""

    def __init__(self, *answers: Iterable[str] | OSError) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.at_the_last = asyncio.Event()

    async def __call__(self, name: str) -> Iterable[str]:
        self.asked.append(name)
        if len(self.answers) == 1:
            self.at_the_last.set()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


def crowd(names: Names, *, peers: str = "gateway-peers") -> Crowd:
    settings = GatewaySettings(
        environment="test", gateway_peers=peers, gateway_replicas=2, streams_per_account=12
    )
    return Crowd(settings, names)


def held(crowd: Crowd) -> int:
    """How many streams this replica lets an account have; given back afterwards."""
    releases = []
    for _ in range(100):
        try:
            releases.append(crowd.take("stream", account="an", address=""))
        except RateLimited:
            break
    for release in releases:
        release()
    return len(releases)


async def test_each_address_of_the_service_is_a_ready_replica_and_gets_its_share() -> None:
    names = Names(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.3"], ["10.0.0.1"], [])
    shared = crowd(names)
    assert held(shared) == 6  # as the settings say, before anybody answered
    shares = []
    for _ in range(3):
        await shared.replicas.look()
        shares.append((shared.replicas.count, held(shared)))
    assert shares == [(3, 4), (1, 12), (1, 12)]  # nobody is ready yet: at least we are there
    assert names.asked == ["gateway-peers"] * 3


async def test_without_an_answer_the_last_count_stands() -> None:
    shared = crowd(Names([f"fd00::{number}" for number in range(5)], socket.gaierror("no such name")))
    for _ in range(2):
        await shared.replicas.look()
        assert (shared.replicas.count, held(shared)) == (5, 3)


async def test_the_share_is_never_nothing() -> None:
    shared = crowd(Names([f"10.0.{number}.1" for number in range(100)]))
    await shared.replicas.look()
    assert held(shared) == 1


async def test_it_goes_on_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.crowd._LOOK", 0.0)
    names = Names(["10.0.0.1"], OSError("away"), [f"10.0.0.{number}" for number in range(4)])
    shared = crowd(names)
    watching = asyncio.create_task(shared.replicas.watch())
    await asyncio.wait_for(names.at_the_last.wait(), 20)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert len(names.asked) >= 3
    await shared.replicas.look()
    assert shared.replicas.count == 4


async def test_without_a_service_nobody_is_asked() -> None:
    names = Names(["10.0.0.1"])
    shared = crowd(names, peers="")
    await shared.replicas.watch()
    assert (shared.replicas.count, names.asked) == (2, [])


async def test_addresses_are_asked_of_the_system() -> None:
    assert await _resolved("127.0.0.1") == {"127.0.0.1"}
