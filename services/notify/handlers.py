"""What people and events can ask of notify."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol, TypeVar

from kit.auth import CITIZEN, OFFICIAL, Caller, allow
from kit.clock import Clock, to_text, vietnam_day
from kit.errors import InvalidInput, NotFound
from kit.ids import derived
from notify import texts
from notify.domain.deadline import Deadline
from notify.domain.kinds import About, Channel
from notify.domain.notice import Notice, write_notice
from notify.domain.people import (
    Agency,
    Choice,
    Contact,
    Desk,
    Post,
    Preferences,
    channels_for,
    desk_id,
)

A = TypeVar("A")
_AT_ONCE = 8  # writes under way for one caller
_UNHEARD = datetime(1970, 1, 1, tzinfo=UTC)  # what was asked for gives way to any event


class Page(Protocol[A]):
    """Some of a list and where it goes on."""

    items: list[A]
    next_token: str


class Repository(Protocol[A]):
    """Where aggregates of one type are kept; see `kit.mongo.Store`."""

    async def find(self, id: str) -> A | None: ...

    async def batch(self, ids: Sequence[str]) -> list[A]: ...

    async def create(
        self,
        make: Callable[[str], A],
        request: Any = None,
        id: str | None = None,
    ) -> A: ...

    async def change(
        self,
        id: str,
        fn: Callable[[A], None],
        *,
        request: Any = None,
        etag: str | None = None,
    ) -> A: ...

    async def page(
        self,
        filter: Mapping[str, Any],
        *,
        size: int,
        token: str = "",
        order: str = "created",
    ) -> Any: ...

    async def count(self, filter: Mapping[str, Any]) -> int: ...


class Directory(Protocol):
    """Identity, asked when its events have not told us yet, and for secrets. Those it does not know are
    omitted."""

    async def accounts(self, ids: Collection[str]) -> list[Contact]: ...

    async def agencies(self, codes: Collection[str]) -> list[Agency]: ...

    async def secret(self, account: str, purpose: str, channel: Channel) -> tuple[str, str] | None:
        """A new secret that serves once, as (address, secret); None when none is to be sent that way."""


@dataclass(frozen=True)
class Ports:
    """What the handlers work with. `working`: the channels that are configured; `wake`: a delivery is due;
    `trace`: the current trace, as a `traceparent`."""

    notices: Repository[Notice]
    preferences: Repository[Preferences]
    contacts: Repository[Contact]
    desks: Repository[Desk]
    agencies: Repository[Agency]
    deadlines: Repository[Deadline]
    directory: Directory
    working: frozenset[Channel]
    now: Clock
    wake: Callable[[], None] = lambda: None
    trace: Callable[[], str] = lambda: ""


# --- for people ------------------------------------------------------------------------------------------


@allow(CITIZEN, OFFICIAL)
async def list_notices(
    ports: Ports, caller: Caller, *, unread_only: bool = False, size: int = 20, token: str = ""
) -> tuple[Any, int]:
    """A page of the caller's own notices, newest first, and how many of all are unread."""
    filter: dict[str, Any] = {"recipient": caller.subject}
    if unread_only:
        filter["unread"] = 1
    return await asyncio.gather(
        ports.notices.page(filter, size=size, token=token), _unread(ports, caller.subject)
    )


@allow(CITIZEN, OFFICIAL)
async def get_notices(ports: Ports, caller: Caller, ids: Sequence[str]) -> list[Notice]:
    """Those of the given notices that are the caller's own. Raises InvalidInput for more than 100."""
    _at_most_100(ids)
    return [notice for notice in await ports.notices.batch(ids) if notice.recipient == caller.subject]


@allow(CITIZEN, OFFICIAL)
async def count_unread(ports: Ports, caller: Caller) -> int:
    """How many of the caller's notices are unread."""
    return await _unread(ports, caller.subject)


@allow(CITIZEN, OFFICIAL)
async def mark_read(ports: Ports, caller: Caller, ids: Sequence[str] = ()) -> int:
    """Marks the given notices as read, or all up to now when none is given; answers how many stay unread.

    Raises NotFound, and marks none, when one does not exist or is someone else's; InvalidInput for more
    than 100.
    """
    _at_most_100(ids)
    at = ports.now()
    if ids:
        found = [notice for notice in await ports.notices.batch(ids) if notice.recipient == caller.subject]
        if missing := set(ids) - {notice.id for notice in found}:
            raise NotFound("NOTICE_NOT_FOUND", "no such notice of yours", notice=min(missing))
        await _mark(ports, found, at)
        return await _unread(ports, caller.subject)
    token, more = "", True
    while more:
        page = await ports.notices.page({"recipient": caller.subject, "unread": 1}, size=100, token=token)
        await _mark(ports, [notice for notice in page.items if notice.created <= at], at)
        token, more = page.next_token, bool(page.next_token)
    return await _unread(ports, caller.subject)


@allow(CITIZEN, OFFICIAL)
async def get_preferences(ports: Ports, caller: Caller) -> Preferences:
    """The caller's switches; as by default when none was ever set."""
    return await ports.preferences.find(caller.subject) or Preferences(caller.subject)


@allow(CITIZEN, OFFICIAL)
async def set_preferences(
    ports: Ports, caller: Caller, choices: Sequence[Choice], *, request: Any = None, etag: str = ""
) -> Preferences:
    """Sets some of the caller's switches; the others stay.

    Raises InvalidInput when one would turn the app off, Conflict (STALE) when `etag` is not the revision.
    """
    Preferences(caller.subject).choose(choices)  # refuses before anything is stored
    stored = await ports.preferences.create(Preferences, id=caller.subject)
    if etag == "0" and stored.revision == 1 and not stored.chosen:
        etag = ""  # seen before there was anything to see
    return await ports.preferences.change(
        caller.subject, lambda preferences: preferences.choose(choices), request=request, etag=etag or None
    )


def _at_most_100(ids: Sequence[str]) -> None:
    if len(ids) > 100:
        raise InvalidInput("TOO_MANY_IDS", "at most 100 ids", limit=100)


async def _unread(ports: Ports, account: str) -> int:
    return await ports.notices.count({"recipient": account, "unread": 1})


async def _mark(ports: Ports, notices: Sequence[Notice], at: datetime) -> None:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def mark(notice: Notice) -> None:
        async with gate:
            await ports.notices.change(notice.id, lambda current: current.mark_read(at))

    await asyncio.gather(*(mark(notice) for notice in notices if notice.read is None))


# --- for events ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Name:
    """An account, an agency or both, to be named in the reader's language: 'officer, agency'."""

    account: str = ""
    agency: str = ""


@dataclass(frozen=True)
class News:
    """What an event has to tell, and to whom: accounts, and whoever holds a role in an agency (`desk`).

    `actor` did it and need not be told. `instead` are the e-mail and the phone that it goes to instead of
    where the account is reached. Instants and amounts among the parameters are as `texts.write` wants
    them.
    """

    kind: str
    about: About
    params: Mapping[str, str | Name]
    to: tuple[str, ...] = ()
    desk: tuple[str, str] | None = None
    actor: str = ""
    instead: tuple[str, str] | None = None


async def tell(ports: Ports, cause: str, news: News) -> list[Notice]:
    """Writes the notices that an event causes, one a recipient, and answers them.

    Told twice of the same `cause` (an event's id) it answers the notices that are there. Raises Unavailable
    when identity is needed and away.
    """
    recipients = {account for account in news.to if account}
    if news.desk is not None:
        recipients |= await _at_desk(ports, *news.desk)
    recipients.discard(news.actor)
    if not recipients:
        return []
    names = [value for value in news.params.values() if isinstance(value, Name)]
    people = await contacts(ports, recipients | {name.account for name in names if name.account})
    agencies = await _agencies(ports, {name.agency for name in names if name.agency})
    preferences = {found.id: found for found in await ports.preferences.batch(sorted(recipients))}

    async def write(account: str) -> Notice:
        contact = people[account]
        addresses: dict[Channel, str] = {}
        if news.instead is not None:
            contact = replace(contact, email=news.instead[0], phone=news.instead[1])
            addresses = {one: found for one in Channel if (found := contact.address(one))}
        params = {
            name: _named(value, people, agencies, contact.locale) if isinstance(value, Name) else value
            for name, value in news.params.items()
        }
        title, body = texts.write(news.kind, contact.locale, params)
        chosen = preferences.get(account, Preferences(account))
        return await ports.notices.create(
            lambda known: write_notice(
                id=known,
                recipient=account,
                kind=news.kind,
                about=news.about,
                locale=contact.locale,
                params=params,
                title=title,
                body=body,
                channels=channels_for(news.kind, contact, chosen, ports.working),
                at=ports.now(),
                trace=ports.trace(),
                addresses=addresses,
            ),
            id=derived("notice", cause, news.kind, account),
        )

    notices = [await write(account) for account in sorted(recipients)]
    ports.wake()
    return notices


def _named(name: Name, people: Mapping[str, Contact], agencies: Mapping[str, Agency], locale: str) -> str:
    person = people[name.account].name if name.account else ""
    agency = agencies[name.agency].label(locale) if name.agency else ""
    return ", ".join(part for part in (person, agency) if part)


async def contacts(ports: Ports, ids: Collection[str]) -> dict[str, Contact]:
    """What we know of accounts, all of those asked for; identity is asked for those it has not told us of."""
    known = {found.id: found for found in await ports.contacts.batch(sorted(ids)) if found.as_of is not None}
    missing = set(ids) - known.keys()
    if missing:
        for asked in await ports.directory.accounts(missing):
            known[asked.id] = await reach(
                ports,
                asked.id,
                at=_UNHEARD,
                email=asked.email,
                phone=asked.phone,
                locale=asked.locale,
                name=asked.name,
            )
    return {account: known.get(account) or Contact(account) for account in ids}


async def _agencies(ports: Ports, codes: Collection[str]) -> dict[str, Agency]:
    known = {found.id: found for found in await ports.agencies.batch(sorted(codes))}
    missing = set(codes) - known.keys()
    if missing:
        for asked in await ports.directory.agencies(missing):
            known[asked.id] = await name_agency(ports, asked.id, asked.name, asked.name_en, _UNHEARD)
    return {code: known.get(code) or Agency(code) for code in codes}


async def _at_desk(ports: Ports, agency: str, role: str) -> set[str]:
    desk = await ports.desks.find(desk_id(agency, role))
    today = vietnam_day(ports.now()).isoformat()
    return {account for account, post in desk.members.items() if post.held_on(today)} if desk else set()


async def reach(
    ports: Ports,
    account: str,
    *,
    at: datetime,
    email: str,
    phone: str,
    locale: str,
    name: str | None = None,
) -> Contact:
    """Takes over how an account is reached, as of an instant; `name` None: it stays."""
    await ports.contacts.create(Contact, id=account)
    return await ports.contacts.change(
        account,
        lambda contact: contact.reach(at=at, email=email, phone=phone, locale=locale, name=name),
    )


async def post(ports: Ports, account: str, posts: Sequence[Post], at: datetime) -> None:
    """Takes over the roles of an official as of an instant, and seats them at the desks they are for.

    The desks come first: after a crash in between, the same event still knows which ones to leave.
    """
    contact = await ports.contacts.create(Contact, id=account)
    if contact.posts_as_of is not None and at < contact.posts_as_of:
        return
    held = {desk_id(one.agency, one.role): one for one in posts}
    left = {desk_id(one.agency, one.role) for one in contact.posts} - held.keys()
    for desk in sorted(left):
        await ports.desks.change(desk, lambda seats: seats.leave(account))
    for desk, one in held.items():
        await ports.desks.create(Desk, id=desk)
        await ports.desks.change(desk, partial(Desk.seat, account=account, post=one))
    await ports.contacts.change(account, lambda contact: contact.post(posts, at))


async def name_agency(ports: Ports, code: str, name: str, name_en: str, at: datetime) -> Agency:
    """Takes over what an agency is called, as of an instant."""
    await ports.agencies.create(Agency, id=code)
    return await ports.agencies.change(code, lambda agency: agency.rename(name, name_en, at))


@dataclass(frozen=True)
class Standing:
    """Where an event says that a dossier stands. `role` and `holder` None: they stay as they were."""

    dossier: str
    code: str
    procedure: str
    agency: str
    due: datetime | None
    running: bool
    role: str | None = None
    holder: str | None = None


async def follow(ports: Ports, standing: Standing, at: datetime) -> Deadline:
    """Takes over where a dossier stands as of an instant, and answers what is known of its clock."""
    await ports.deadlines.create(Deadline, id=standing.dossier)

    def change(deadline: Deadline) -> None:
        deadline.follow(
            at=at,
            code=standing.code,
            procedure=standing.procedure,
            agency=standing.agency,
            due=standing.due,
            running=standing.running,
            role=standing.role,
            holder=standing.holder,
        )

    return await ports.deadlines.change(standing.dossier, change)


# What a reminder is called while the dossier has not been received.
_UNRECEIVED = {"desk_due_soon": "desk_unreceived_soon", "desk_overdue": "desk_unreceived"}


async def remind(ports: Ports, limit: int = 100) -> int:
    """Sends the reminders of dossiers that are due soon or overdue; answers how many dossiers it looked at.

    The notices come first and their ids are derived, so a crash in between repeats nothing.
    """
    now = ports.now()
    page = await ports.deadlines.page({"look": {"$lte": to_text(now)}}, size=limit, order="+look")
    for deadline in page.items:
        kind = deadline.remind(now)
        if kind is not None and deadline.due is not None:
            due = to_text(deadline.due)
            said: dict[str, str | Name] = {
                "procedure": deadline.procedure,
                "due": due,
                "agency": Name(agency=deadline.agency),
            }
            if deadline.received:
                said["code"] = deadline.code
            else:
                kind = _UNRECEIVED[kind]
            await tell(
                ports,
                derived("reminder", deadline.id, due),
                News(kind, About(dossier=deadline.id), said, **desk_of(deadline)),
            )
        await ports.deadlines.change(deadline.id, partial(_note, due=deadline.due, at=now))
    return len(page.items)


def _note(deadline: Deadline, due: datetime | None, at: datetime) -> None:
    if deadline.due == due:  # else it has got another one meanwhile, of which nobody has been reminded
        deadline.remind(at)


def desk_of(deadline: Deadline) -> dict[str, Any]:
    """Whom to tell about a dossier at an agency: its holder, else everyone with the role; as of `News`."""
    if deadline.holder:
        return {"to": (deadline.holder,)}
    return {"desk": (deadline.agency, deadline.role or "examiner")}
