"""What events bring about."""

from __future__ import annotations

from datetime import datetime, timedelta

from dossier.domain.dossier import (
    Dossier,
)
from dossier.domain.records import (
    Actor,
    Limit,
    TimeUnit,
    vietnam_midnight,
)
from dossier.domain.states import Party
from dossier.handlers import Ports
from dossier.handlers.common import settle, step_due_of
from dossier.handlers.records import keep_sights
from kit.auth import Caller, allow, service
from kit.clock import vietnam_day

_MORNING = timedelta(hours=8)  # a moment of a working day before which nothing is late


@allow(service("payment"))
async def charge_paid(
    ports: Ports, caller: Caller, *, dossier: str, charge: str, event: str, at: datetime
) -> None:
    """A charge was paid: the dossier goes on and the working days of the pause are added to its due time.

    The pause counts in whole working days, as the limit does; one that begins and ends on the same day
    moves nothing. `event` is handled once, in the same write.
    """
    found = await ports.dossiers.get(dossier)
    due, step_due = found.due, found.step_due
    if found.paused is not None and found.due is not None:
        days = await ports.catalog.working_days(found.paused, at)
        if days:
            morning = vietnam_midnight(vietnam_day(found.due)) + _MORNING
            due = await ports.catalog.due(morning, Limit(days, TimeUnit.WORKING_DAY))
            step_due = await step_due_of(ports, at, found.step)
    who = Actor(caller.subject, frozenset({Party.PAYMENT}))

    def pay(d: Dossier) -> None:
        d.charge_paid(who, at, charge=charge, due=due, step_due=step_due)

    await ports.dossiers.change(dossier, pay, handled=event)


@allow(service("payment"))
async def charge_refunded(
    ports: Ports,
    caller: Caller,
    *,
    dossier: str,
    charge: str,
    amount: int,
    done: bool,
    event: str,
    at: datetime,
) -> None:
    """The money that paid a charge is on its way back, or (`done`) went back: the dossier says so, and does
    what its procedure's rule has for it. `event` is handled once, in the same write."""
    who = Actor(caller.subject, frozenset({Party.PAYMENT}))

    def refund(d: Dossier) -> None:
        d.charge_refunded(who, at, charge=charge, amount=amount, done=done)

    await ports.dossiers.change(dossier, refund, handled=event)


@allow(service("dossier"))
async def keep_sights_again(ports: Ports, caller: Caller, *, dossier: str) -> None:
    """From the dossier's own event: it went to another agency, or came to an end."""
    await keep_sights(ports, await ports.dossiers.get(dossier))


@allow(service("dossier"))
async def settle_again(ports: Ports, caller: Caller, *, dossier: str) -> None:
    """From the dossier's own event."""
    await settle(ports, await ports.dossiers.get(dossier))
