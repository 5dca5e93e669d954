"""What is told of people's requests while an installation is disturbed."""

from __future__ import annotations

import time

import httpx
import pytest

from dev.person import Person, Surprise, Tally

FINE = httpx.Response(200, json={"data": {"viewer": None}})
AWAY = httpx.Response(503)


async def asked(answers: list[httpx.Response | Exception], patience: float = 60) -> Tally:
    """The tally of somebody whose one request gets these answers."""
    waiting = iter(answers)

    def answer(_request: httpx.Request) -> httpx.Response:
        one = next(waiting)
        if isinstance(one, Exception):
            raise one
        return one

    tally = Tally()
    async with Person("An", "http://gateway", patience=patience, tally=tally) as an:
        an._http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        await an.ask("{ viewer { id } }")
    return tally


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dev.person.AGAIN", 0)


async def test_a_request_that_was_answered_at_once_needed_one_try() -> None:
    tally = await asked([FINE])
    assert (tally.at_once, tally.second_try, tally.more_tries) == (1, 0, 0)


async def test_a_break_and_one_retry_are_what_a_client_can_bear() -> None:
    tally = await asked([httpx.ReadError("gone"), FINE])
    assert (tally.at_once, tally.second_try, tally.more_tries) == (0, 1, 0)


async def test_a_request_that_was_away_twice_would_have_been_seen_to_fail() -> None:
    tally = await asked([AWAY, httpx.ConnectError("refused"), FINE])
    assert (tally.at_once, tally.second_try, tally.more_tries) == (0, 0, 1)
    assert len(tally.answered) == 1


async def test_an_answer_that_never_came_counts_as_a_failure_and_not_as_an_answer() -> None:
    tally = Tally()
    async with Person("An", "http://gateway", tally=tally) as an:
        an._http = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: AWAY))
        with pytest.raises(Surprise):
            await an.ask("{ viewer { id } }")
    assert (tally.at_once, tally.second_try, tally.more_tries, tally.answered) == (0, 0, 1, [])


def test_the_longest_wait_is_from_the_first_try_to_the_answer() -> None:
    tally = Tally()
    tally.note(3, time.monotonic() - 5)
    tally.note(1, time.monotonic())
    assert 5 <= tally.longest < 60
