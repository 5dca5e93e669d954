"""What notify does by itself: sends the deliveries that are due and reminds officials of deadlines."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from opentelemetry import trace
from prometheus_client import Histogram

from kit.clock import Clock, to_text
from kit.errors import DomainError, Unavailable
from kit.telemetry import SECONDS, parent_from, tracer
from notify import handlers
from notify.domain.delivery import Outcome, Retry, Step
from notify.domain.kinds import KINDS, SECRETS, Channel, Secret
from notify.domain.notice import Notice
from notify.domain.people import Contact
from notify.handlers import Ports, Repository
from notify.senders import Sender

DELIVERIES: Final = Histogram(
    "delivery_seconds", "Attempts to deliver a notice", ("channel", "outcome"), buckets=SECONDS
)
log = logging.getLogger(__name__)


class Secrets(Protocol):
    """Makes secrets that serve once; identity."""

    async def secret(self, account: str, purpose: str, channel: Channel) -> tuple[str, str] | None:
        """The address and the secret; None when none is to be sent that way."""


class _NothingDue(Exception):
    """Another replica has taken the delivery: nothing is written."""


@dataclass
class Deliveries:
    """Sends what is due, `at_once` notices at a time. Several replicas may run: each delivery is claimed by a
    versioned write that holds it for a lease, so no two send it at the same time."""

    notices: Repository[Notice]
    contacts: Repository[Contact]
    senders: Mapping[Channel, Sender]
    secrets: Secrets
    now: Clock
    retry: Retry = field(default_factory=Retry)
    poll: float = 2.0  # seconds between looks when nothing wakes it
    at_once: int = 16
    grace: float = 5.0  # seconds that what is being sent gets to end when the worker is stopped
    jitter: Callable[[], float] = random.random
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """There is something to send now."""
        self._woken.set()

    async def run(self) -> None:
        """Sends until cancelled, and then ends what it has begun. A database that is away costs a wait."""
        while True:
            self._woken.clear()
            sending = asyncio.create_task(self.send_due())
            try:
                if await asyncio.shield(sending):
                    continue
            except DomainError as error:
                log.warning("deliveries wait: %s", error)
            except asyncio.CancelledError:
                await asyncio.wait([sending], timeout=self.grace)
                sending.cancel()
                raise
            try:
                async with asyncio.timeout(self.poll):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def send_due(self) -> int:
        """Sends what is due now, the longest waiting first; answers how many notices it looked at."""
        page = await self.notices.page(
            {"due": {"$lte": to_text(self.now())}}, size=self.at_once, order="+due"
        )
        await asyncio.gather(*(self.deliver(notice.id) for notice in page.items))
        return len(page.items)

    async def deliver(self, id: str) -> None:
        """Claims what is due of one notice, sends it and records what came of it."""
        claims: dict[Channel, int] = {}

        def claim(notice: Notice) -> None:
            at = self.now()
            if at < notice.due:
                raise _NothingDue
            claims.clear()
            claims.update(notice.claim(at, self.retry))

        try:
            notice = await self.notices.change(id, claim)
        except _NothingDue:
            return
        outcomes = await asyncio.gather(*(self._attempt(notice, channel) for channel in claims))

        def settle(notice: Notice) -> None:
            for (channel, attempt), outcome in zip(claims.items(), outcomes, strict=True):
                notice.deliveries[channel].settle(attempt, outcome, self.now(), self.retry, self.jitter())

        if claims:
            await self.notices.change(id, settle)

    async def _attempt(self, notice: Notice, channel: Channel) -> Outcome:
        began = time.perf_counter()
        with tracer.start_as_current_span(
            f"deliver {channel}",
            parent_from(notice.trace),
            kind=trace.SpanKind.PRODUCER,
            attributes={"notice.id": notice.id, "notice.kind": notice.kind},
        ) as span:
            outcome = await self._send(notice, channel)
            span.set_attribute("delivery.outcome", f"{outcome.step} {outcome.error}".rstrip())
        DELIVERIES.labels(channel, outcome.step).observe(time.perf_counter() - began)
        if outcome.step is not Step.ACCEPT:
            log.warning("delivery %s %s: %s %s", notice.id, channel, outcome.step, outcome.error)
        return outcome

    async def _send(self, notice: Notice, channel: Channel) -> Outcome:
        sender = self.senders.get(channel)
        if sender is None:
            return Outcome(Step.REFUSE, "channel_off")  # switched off since the notice was written
        try:
            async with asyncio.timeout(self.retry.lease.total_seconds() / 2):
                secret = await self._secret(notice, channel)
                if secret is not None:
                    return await sender.send(notice, secret.address, secret)
                if KINDS[notice.kind].purpose:
                    return Outcome(Step.REFUSE, "not_asked")
                contact = await self.contacts.find(notice.recipient)
                address = notice.addresses.get(channel) or (contact.address(channel) if contact else "")
                if not address:
                    return Outcome(Step.REFUSE, "no_address")
                return await sender.send(notice, address)
        except Unavailable:
            return Outcome(Step.DEFER, "unavailable")
        except TimeoutError:
            return Outcome(Step.DEFER, "timeout")
        except Exception as error:  # a fault of ours must not keep the others from going out
            log.exception("delivery %s %s", notice.id, channel)
            return Outcome(Step.DEFER, f"fault_{type(error).__name__}")

    async def _secret(self, notice: Notice, channel: Channel) -> Secret | None:
        """What the notice is sent with, made now; None when there is nothing of that."""
        purpose = KINDS[notice.kind].purpose
        if not purpose:
            return None
        made = await self.secrets.secret(notice.recipient, purpose, channel)
        return Secret(made[0], made[1], SECRETS[purpose].format(secret=made[1])) if made else None


async def keep_reminding(ports: Ports, every: float) -> None:
    """Reminds officials of deadlines until cancelled, looking every so many seconds."""
    while True:
        try:
            while await handlers.remind(ports):
                pass
        except DomainError as error:
            log.warning("reminders wait: %s", error)
        await asyncio.sleep(every)
