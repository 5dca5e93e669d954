"""Reading: dossiers one by one and in lists, work, tracking and statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta
from enum import IntEnum
from typing import Any

from dossier.domain.dossier import Dossier, normal_code
from dossier.domain.records import (
    Channel,
    Limit,
    Timeliness,
    TimeUnit,
    vietnam_midnight,
)
from dossier.domain.states import PAUSED, TERMINAL, TICKING, WORK, State
from dossier.handlers import Ports, agencies_of
from dossier.handlers.sight import View, actor, hidden, look, open_dossier, speaks_for
from kit.auth import ANYONE, CITIZEN, OFFICIAL, Caller, allow, service
from kit.clock import to_text, vietnam_day
from kit.errors import FieldViolation, Forbidden, InvalidInput, NotFound

NEVER = "9999-12-31T23:59:59.999Z"  # what lists hold for a time that has not come: it sorts last
NO_DAY = "9999-12-31"
_SOON = 2  # working days
_OVERSEERS = ("leader", "admin")  # who see the agencies below their own


UNLISTED = ("form",)  # what lists do not read of a dossier


@dataclass(frozen=True)
class Listed:
    """A page: each dossier with the token of a page that ends after it, and the token of what follows."""

    views: list[tuple[View, str]]
    next_token: str


class Due(IntEnum):
    ANY = 0
    OVERDUE = 1
    SOON = 2
    LATER = 3


@dataclass
class Statistics:
    """Counts of a period. Carried over and newly received together are what was
    handled, is in process and is paused."""

    carried_over: int = 0
    newly_received: int = 0
    handled_early: int = 0
    handled_on_time: int = 0
    handled_overdue: int = 0
    in_process_in_time: int = 0
    in_process_overdue: int = 0
    paused: int = 0
    online: int = 0
    paid_online: int = 0
    rated: int = 0
    rating_total: int = 0


def scalars(dossier: Dossier) -> dict[str, Any]:
    """What lists and statistics filter by. `due` is the deadline; of what has ended it is the due time that
    it had, for the statistics of days before that. Days are those of Vietnam; `finished_on` is that of a
    result or an accepted withdrawal of something received, which is what counts as handled: on time where
    there is no limit."""
    ended = dossier.withdrawn or dossier.state in (State.DONE, State.HANDED_OVER)
    handled = dossier.receipt is not None and ended
    timely = dossier.timeliness or Timeliness.ON_TIME
    over = dossier.state in TERMINAL or dossier.state is State.DONE
    due = dossier.due if over else dossier.deadline
    return {
        "applicant": dossier.applicant,
        "status": dossier.state.value,
        "agency": dossier.current_agency,
        "receiving": dossier.receiving_agency,
        "assignee": dossier.assignee,
        "code": dossier.code,
        "due": to_text(due) if due else NEVER,
        "received_on": vietnam_day(dossier.receipt.received).isoformat() if dossier.receipt else NO_DAY,
        "finished_on": vietnam_day(dossier.finished).isoformat() if handled and dossier.finished else NO_DAY,
        "timeliness": timely.value if handled else Timeliness.NONE.value,
        "channel": dossier.channel.value,
        "paid": int(dossier.paid),
        "rating": dossier.rating,
    }


@allow(CITIZEN, OFFICIAL, service("payment", "notify", "gateway"))
async def get_dossier(ports: Ports, caller: Caller, id: str) -> View:
    """One dossier."""
    return await open_dossier(ports, caller, id)


@allow(CITIZEN, OFFICIAL, service("payment", "notify", "gateway"))
async def batch_get_dossiers(
    ports: Ports, caller: Caller, ids: Sequence[str], *, forms: bool = False
) -> list[View]:
    """Those that exist and that the caller may see; without their forms unless asked for them."""
    if len(ids) > 100:
        raise InvalidInput("TOO_MANY", "at most 100 at once")
    without = () if forms else UNLISTED
    return await look(ports, caller, await ports.dossiers.batch(list(ids), without=without))


@allow(CITIZEN)
async def list_dossiers(
    ports: Ports, caller: Caller, *, applicant: str, states: Sequence[State], size: int, token: str
) -> Listed:
    """An applicant's dossiers, newest first, without their forms."""
    applicant = applicant or caller.subject
    files = await speaks_for(ports, caller, applicant, "FILE")
    if not files and not await speaks_for(ports, caller, applicant, "READ"):
        raise Forbidden("NOT_DELEGATED", "you do not act for this account")
    wanted: dict[str, Any] = {"applicant": applicant}
    if states:
        wanted["status"] = {"$in": sorted({state.value for state in states})}
    page = await ports.dossiers.page(wanted, size=min(size or 20, 100), token=token, without=UNLISTED)
    return Listed(
        [
            (View(d, actor(caller, d, speaks=files)), after)
            for d, after in zip(page.items, page.tokens, strict=True)
            if not hidden(caller, d)
        ],
        page.next_token,
    )


@allow(OFFICIAL)
async def list_worklist(
    ports: Ports,
    caller: Caller,
    *,
    agency: str,
    states: Sequence[State],
    due: Due,
    mine: bool,
    size: int,
    token: str,
) -> Listed:
    """What an agency has to act on, the most urgent first, without forms."""
    own = agencies_of(caller)
    if agency and agency not in own:
        raise Forbidden("NOT_YOUR_AGENCY", "you have no role in this agency", agency=agency)
    if not own:
        return Listed([], "")
    among = {state for state in states if state is not State.DRAFT} or WORK
    if due is not Due.ANY:
        among &= TICKING  # where the clock stands still nothing is due
    wanted: dict[str, Any] = {
        "agency": {"$in": [agency] if agency else own},
        "status": {"$in": sorted(state.value for state in among)},
    }
    if due is not Due.ANY:
        now = ports.clock()
        soon = to_text(await ports.catalog.due(now, Limit(_SOON, TimeUnit.WORKING_DAY)))
        wanted["due"] = {
            Due.OVERDUE: {"$lt": to_text(now)},
            Due.SOON: {"$gte": to_text(now), "$lte": soon},
            Due.LATER: {"$gt": soon},
        }[due]
    if mine:
        wanted["assignee"] = caller.subject
    page = await ports.dossiers.page(
        wanted, size=min(size or 20, 100), token=token, order="+due", without=UNLISTED
    )
    return Listed(
        [
            (View(d, actor(caller, d, speaks=False)), after)
            for d, after in zip(page.items, page.tokens, strict=True)
        ],
        page.next_token,
    )


@allow(ANYONE)
async def track_dossier(ports: Ports, caller: Caller, *, code: str, address: str) -> Dossier:
    """The dossier of a code, of which only state and steps are shown. Codes can be guessed, so attempts are
    counted by client address."""
    ports.tracking.check(address or "unknown")
    id = await ports.codes.holder(normal_code(code))
    dossier = await ports.dossiers.find(id) if id else None
    if dossier is None or dossier.code != normal_code(code):
        raise NotFound("UNKNOWN_CODE", "no dossier has this code")
    return dossier


@allow(OFFICIAL)
async def get_statistics(ports: Ports, caller: Caller, *, first: str, last: str, agency: str) -> Statistics:
    """Counts of the days from `first` to `last` (ISO dates, Vietnam, both included) for dossiers received by
    the agency, or by all that the caller may see. What is paused is so now: the past does not keep it."""
    start, end = _day("from", first), _day("to", last)
    if end < start:
        raise InvalidInput(
            violations=[FieldViolation("to", "BEFORE_FROM", "the period ends before it starts")]
        )
    total = Statistics()
    for scope in _scopes(caller, agency):
        part = await _count(ports, scope, start.isoformat(), end.isoformat())
        for item in fields(Statistics):
            setattr(total, item.name, getattr(total, item.name) + getattr(part, item.name))
    return total


async def _count(ports: Ports, scope: Mapping[str, Any], first: str, last: str) -> Statistics:
    count = ports.dossiers.count
    cutoff = min(vietnam_midnight(date.fromisoformat(last) + timedelta(days=1)), ports.clock())
    came = {**scope, "received_on": {"$gte": first, "$lte": last}}
    done = {**scope, "finished_on": {"$gte": first, "$lte": last}}
    still = {**scope, "received_on": {"$lte": last}, "finished_on": {"$gt": last}}
    paused = {"$in": sorted(state.value for state in PAUSED)}
    working = {"$in": sorted(state.value for state in State if state not in PAUSED)}
    ratings = [await count({**done, "rating": stars}) for stars in range(1, 6)]
    return Statistics(
        carried_over=await count({**scope, "received_on": {"$lt": first}, "finished_on": {"$gte": first}}),
        newly_received=await count(came),
        handled_early=await count({**done, "timeliness": Timeliness.EARLY.value}),
        handled_on_time=await count({**done, "timeliness": Timeliness.ON_TIME.value}),
        handled_overdue=await count({**done, "timeliness": Timeliness.OVERDUE.value}),
        in_process_in_time=await count({**still, "status": working, "due": {"$gte": to_text(cutoff)}}),
        in_process_overdue=await count({**still, "status": working, "due": {"$lt": to_text(cutoff)}}),
        paused=await count({**still, "status": paused}),
        online=await count({**came, "channel": Channel.ONLINE.value}),
        paid_online=await count({**came, "paid": 1}),
        rated=sum(ratings),
        rating_total=sum(stars * n for stars, n in enumerate(ratings, start=1)),
    )


def _scopes(caller: Caller, agency: str) -> list[dict[str, Any]]:
    """Filters by receiving agency that do not overlap. A leader or admin sees the agencies below as well,
    whose codes begin with their own."""
    own = {role.agency for role in caller.roles}
    above = {role.agency for role in caller.roles if role.name in _OVERSEERS}
    if agency:
        if agency not in own and not _below(agency, above):
            raise Forbidden("NOT_YOUR_AGENCY", "you have no role in this agency", agency=agency)
        own, above = {agency}, {agency} & above
    top = {known for known in above if not _below(known, above)}
    exact = sorted(known for known in own | above if not _below(known, top))
    found: list[dict[str, Any]] = [{"receiving": {"$in": exact}}] if exact else []
    return found + [{"receiving": {"$gt": f"{known}.", "$lt": f"{known}/"}} for known in sorted(top)]


def _below(agency: str, above: Iterable[str]) -> bool:
    return any(agency.startswith(f"{known}.") for known in above)


def _day(field: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(violations=[FieldViolation(field, "BAD_DATE", "a date is YYYY-MM-DD")]) from None
