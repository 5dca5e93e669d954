"""Sessions that ended before their access tokens expired: known in every process that verifies tokens.

Identity announces each end; every replica hears it with a plain NATS subscription of its own, since a durable
consumer would tell only one of them. What was announced while a process was not there, or NATS was away, it
asks identity for. While both are away it knows less, and tokens are good until they expire.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Final

from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg

from kit import origin
from kit.auth import REMEMBERED, TokenVerifier
from kit.events import subject
from kit.ids import derived
from kit.status import answered
from motcua.identity.v1 import events_pb2 as announced
from motcua.identity.v1 import identity_pb2 as pb
from motcua.identity.v1.identity_pb2_grpc import IdentityServiceStub

_MOST = 100_000  # ended sessions, and accounts, that are remembered at most: some 20 MB
_LOOK = 60.0  # seconds between two questions to identity while NATS tells
_LOOK_ALONE = 2.0  # the same while NATS is away, or identity did not answer
_DEADLINE = 5.0  # seconds identity has to answer
SUBJECTS: Final = (
    subject("identity", announced.SessionRevoked.DESCRIPTOR.name, "*"),
    subject("identity", announced.SessionsEnded.DESCRIPTOR.name, "*"),
)
_KINDS: Final = tuple(name.removesuffix(".*") for name in SUBJECTS)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """The end of one session, or, with an account, of all its sessions that began in an earlier `epoch` but
    for `kept`. All three are digests (`digest`); `at` is in Unix seconds."""

    at: float
    session: str = ""
    account: str = ""
    epoch: int = 0
    kept: str = ""


def digest(id: str) -> str:
    """What stands for the id of a session or account where anybody may ask; empty for none."""
    return derived("ended", id) if id else ""


class EndedSessions:
    """Remembers ends for as long as a token of the session can be good. `fetch` asks identity for them."""

    def __init__(self, fetch: Callable[[], Awaitable[Iterable[Ended]]]) -> None:
        self._fetch = fetch
        self._sessions: OrderedDict[str, float] = OrderedDict()
        self._accounts: OrderedDict[str, tuple[float, int, str]] = OrderedDict()
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._wake = asyncio.Event()
        self._silent = False

    def __len__(self) -> int:
        """How many ends are remembered."""
        return len(self._sessions) + len(self._accounts)

    def over(self, session: str, account: str, epoch: int) -> bool:
        """Whether this session of this account, begun in that epoch of the account, has ended."""
        now, known = time.time(), digest(session)
        if self._sessions.get(known, 0.0) > now:
            return True
        until, since, kept = self._accounts.get(digest(account), (0.0, 0, ""))
        return until > now and epoch < since and known != kept

    def note(self, ended: Ended) -> None:
        """Remembers an end, and wakes those who watch. Repeats change nothing."""
        now = time.time()
        until = min(ended.at, now) + REMEMBERED
        if until <= now:
            return
        if ended.session:
            self._sessions[ended.session] = until
        if ended.account and ended.epoch >= self._accounts.get(ended.account, (0.0, 0, ""))[1]:
            self._accounts[ended.account] = until, ended.epoch, ended.kept
            self._accounts.move_to_end(ended.account)
        self._forget(now)
        for name in (ended.session, ended.account):
            for changed in self._watchers.get(name, ()) if name else ():
                changed.set()

    @contextmanager
    def watch(self, session: str, account: str) -> Iterator[asyncio.Event]:
        """An event that is set when something about the session or its account is noted."""
        changed, names = asyncio.Event(), (digest(session), digest(account))
        for name in names:
            self._watchers[name].add(changed)
        try:
            yield changed
        finally:
            for name in names:
                self._watchers[name].discard(changed)
                if not self._watchers[name]:
                    del self._watchers[name]

    async def catch_up(self) -> bool:
        """Asks identity what ended lately; False when it does not answer, which is only logged."""
        try:
            async with asyncio.timeout(_DEADLINE):
                for ended in await self._fetch():
                    self.note(ended)
        except Exception as error:
            if not self._silent:
                log.warning("ended sessions not asked for: %s", str(error) or type(error).__name__)
            self._silent = True
            return False
        self._silent = False
        return True

    async def listen(self, client: Client) -> None:
        """Hears from now on what identity announces; what came before is asked for."""
        origin.strict(client)
        for name in SUBJECTS:
            await client.subscribe(name, cb=self._heard)
        self.missed()

    def missed(self) -> None:
        """Says that announcements may have been lost: NATS was away."""
        self._wake.set()

    async def run(self, connected: Callable[[], bool]) -> None:
        """Asks identity now and then, and often while nothing else tells, until cancelled."""
        while True:
            self._wake.clear()
            told = await self.catch_up() and connected()
            try:
                await asyncio.wait_for(self._wake.wait(), _LOOK if told else _LOOK_ALONE)
            except TimeoutError:
                continue

    async def _heard(self, message: Msg) -> None:
        if why := origin.fault_heard("identity", message):
            log.error("what %s says is not identity's: %s", message.subject, why)
            return
        try:
            # NATS lets a service that fetches events have them sent here. They come under their own subject.
            kind = message.subject.rpartition(".")[0]
            if kind not in _KINDS:
                log.warning("%s is no announcement of identity", message.subject)
            elif kind == _KINDS[0]:
                one = announced.SessionRevoked.FromString(message.data)
                at = one.revoke_time.ToDatetime(UTC).timestamp()
                self.note(Ended(at, session=digest(one.session_id)))
            else:
                every = announced.SessionsEnded.FromString(message.data)
                self.note(
                    Ended(
                        every.end_time.ToDatetime(UTC).timestamp(),
                        account=digest(every.account_id),
                        epoch=every.epoch,
                        kept=digest(every.kept_session_id),
                    )
                )
        except (DecodeError, ValueError, OverflowError) as error:
            log.warning("what %s says is not understood: %s", message.subject, type(error).__name__)

    def _forget(self, now: float) -> None:
        while self._sessions:
            id, until = next(iter(self._sessions.items()))
            if until > now and len(self._sessions) <= _MOST:
                break
            del self._sessions[id]
        while self._accounts:
            id, (until, _, _) = next(iter(self._accounts.items()))
            if until > now and len(self._accounts) <= _MOST:
                break
            del self._accounts[id]


def ended_of(message: pb.EndedSession) -> Ended:
    """What identity answers, as it is remembered."""
    return Ended(
        message.end_time.ToDatetime(UTC).timestamp(),
        session=message.session_digest,
        account=message.account_digest,
        epoch=message.epoch,
        kept=message.kept_session_digest,
    )


class SessionVerifier(TokenVerifier):
    """A TokenVerifier that knows which sessions have ended."""

    ended: EndedSessions


def verifier_of(channel: Any) -> SessionVerifier:
    """Turns access tokens into callers with what identity, at the end of the channel, tells to everybody:
    its public keys and the sessions that have ended."""
    stub: Any = IdentityServiceStub(channel)

    async def keys() -> Mapping[str, Any]:
        reply = await answered(stub.GetJwks(pb.GetJwksRequest(), timeout=_DEADLINE))
        found: Mapping[str, Any] = json.loads(reply.jwks)
        return found

    async def ended() -> Iterable[Ended]:
        reply = await answered(stub.ListEndedSessions(pb.ListEndedSessionsRequest(), timeout=_DEADLINE))
        return [ended_of(one) for one in reply.sessions]

    return SessionVerifier(keys, EndedSessions(ended))
