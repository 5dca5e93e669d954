"""What a process remembers of sessions that have ended."""

from __future__ import annotations

import asyncio
import time

import pytest

from kit import sessions
from kit.auth import REMEMBERED
from kit.sessions import SUBJECTS, Ended, EndedSessions, digest
from motcua.identity.v1 import events_pb2 as announced


class Identity:
    """Answers what ended, or fails."""

    def __init__(self, *ended: Ended) -> None:
        self.ended = list(ended)
        self.away = False
        self.once = asyncio.Event()

    async def __call__(self) -> list[Ended]:
        self.once.set()
        if self.away:
            raise OSError("away")
        return self.ended


class Heard:
    """A NATS message."""

    def __init__(self, subject: str, data: bytes) -> None:
        self.subject = subject
        self.data = data
        self.headers = {"Nats-Expected-Stream": "identity"}


def of_session(id: str, ago: float = 0.0) -> Ended:
    return Ended(time.time() - ago, session=digest(id))


def of_account(id: str, epoch: int, kept: str = "", ago: float = 0.0) -> Ended:
    return Ended(time.time() - ago, account=digest(id), epoch=epoch, kept=digest(kept))


def test_one_session_ends_and_the_others_of_the_account_go_on() -> None:
    ended = EndedSessions(Identity())
    ended.note(of_session("s1"))
    assert (ended.over("s1", "a", 0), ended.over("s2", "a", 0)) == (True, False)


def test_all_sessions_of_earlier_epochs_end_but_the_kept_one() -> None:
    ended = EndedSessions(Identity())
    ended.note(of_account("a", 3, kept="s2"))
    assert [ended.over(id, "a", 2) for id in ("s1", "s2")] == [True, False]
    assert not ended.over("s3", "a", 3)
    assert not ended.over("s1", "b", 0)
    ended.note(of_account("a", 2, kept="s1"))  # it comes late and changes nothing
    assert [ended.over(id, "a", 2) for id in ("s1", "s2")] == [True, False]


def test_an_end_is_forgotten_when_no_token_can_be_good_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = EndedSessions(Identity())
    ended.note(of_session("old", ago=REMEMBERED + 1))
    ended.note(Ended(time.time() + 1e9, session=digest("of a wrong clock")))
    ended.note(of_account("a", 1, ago=10))
    assert len(ended) == 2
    later = time.time() + REMEMBERED + 5
    monkeypatch.setattr(time, "time", lambda: later)
    assert not ended.over("of a wrong clock", "", 0)
    ended.note(Ended(later, session=digest("new")))
    assert len(ended) == 1


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_MOST", 10)
    ended = EndedSessions(Identity())
    for number in range(50):
        ended.note(of_session(f"s{number}"))
        ended.note(of_account(f"a{number}", 1))
    assert len(ended) == 20
    assert ended.over("s49", "", 0)
    assert not ended.over("s0", "", 0)


async def test_a_fresh_process_asks_and_one_that_gets_no_answer_lets_tokens_expire() -> None:
    identity = Identity(of_session("s1"))
    ended = EndedSessions(identity)
    identity.away = True
    assert not await ended.catch_up()
    assert not ended.over("s1", "a", 0)
    identity.away = False
    assert await ended.catch_up()
    assert ended.over("s1", "a", 0)


async def test_what_was_missed_is_asked_for_at_once() -> None:
    identity = Identity()
    ended = EndedSessions(identity)
    asking = asyncio.create_task(ended.run(lambda: True))
    await identity.once.wait()
    identity.ended.append(of_session("s1"))
    with ended.watch("s1", "a") as changed:
        ended.missed()
        await asyncio.wait_for(changed.wait(), 5)
    assert ended.over("s1", "a", 0)
    asking.cancel()


async def test_what_comes_under_another_subject_is_no_announcement() -> None:
    ended = EndedSessions(Identity())
    every = announced.SessionsEnded(account_id="b", epoch=2)
    every.end_time.GetCurrentTime()
    data = every.SerializeToString()
    await ended._heard(Heard("motcua.dossier.v1.dossier_submitted.0.x", data))  # type: ignore[arg-type]
    assert not ended.over("s2", "b", 1)


async def test_announcements_are_heard_and_rubbish_is_passed_over() -> None:
    ended = EndedSessions(Identity())
    one = announced.SessionRevoked(session_id="s1", account_id="a")
    one.revoke_time.GetCurrentTime()
    every = announced.SessionsEnded(account_id="b", epoch=2, kept_session_id="s3")
    every.end_time.GetCurrentTime()
    for subject, message in zip(SUBJECTS, (one, every), strict=True):
        for data in (b"\xff\xff", message.SerializeToString()):
            await ended._heard(Heard(subject.replace("*", "x"), data))  # type: ignore[arg-type]
    assert ended.over("s1", "a", 0)
    assert [ended.over(id, "b", 1) for id in ("s2", "s3")] == [True, False]
