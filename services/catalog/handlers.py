"""The use cases of the catalogue. Reading is for anyone; changing is for admins and the importer."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Protocol

from catalog.calendar import Calendar, Due, TimeLimit, Year
from catalog.domain import (
    Channel,
    Content,
    ImportOutcome,
    Level,
    Problem,
    Procedure,
    Quote,
    Source,
    Version,
    check,
    quote,
    split_name,
)
from catalog.importer import Refused, read
from catalog.search import Hits, Index
from kit.auth import ANYONE, Caller, allow, official, service
from kit.clock import Clock, vietnam_day
from kit.errors import Conflict, FieldViolation, InvalidInput, NotFound

IMPORTER = "importer"
MAX_BATCH = 100
MAX_RECORDS = 500
_AT_ONCE = 8  # records of one batch written at a time
_REMEMBERED = 2048  # versions kept in memory


class Procedures(Protocol):
    """The aggregates, by code."""

    async def find(self, code: str) -> Procedure | None:
        """The procedure, or None."""

    async def batch(self, codes: Sequence[str]) -> list[Procedure]:
        """Those that exist."""

    async def add(self, procedure: Procedure) -> bool:
        """Stores a new one; False when its code is taken."""

    async def change(
        self,
        code: str,
        change: Callable[[Procedure], None],
        *,
        request: object | None = None,
        etag: str | None = None,
    ) -> Procedure:
        """Changes one that exists; once for each request. Raises NotFound, Conflict for a stale etag."""


@dataclass
class Versions:
    """The versions read last. A version never changes, so what is here is right."""

    _kept: OrderedDict[tuple[str, int], Version] = field(default_factory=OrderedDict)

    def get(self, code: str, number: int) -> Version | None:
        """The version, when it is remembered."""
        if version := self._kept.get((code, number)):
            self._kept.move_to_end((code, number))
        return version

    def keep(self, code: str, version: Version) -> None:
        """Remembers a version and forgets the one unused for longest."""
        self._kept[code, version.number] = version
        while len(self._kept) > _REMEMBERED:
            self._kept.popitem(last=False)


@dataclass
class Ports:
    """What the use cases need. `form_faults` answers what is wrong with the JSON Schema of a form."""

    procedures: Procedures
    index: Index
    calendar: Calendar
    clock: Clock
    form_faults: Callable[[str], Awaitable[Sequence[str]]]
    versions: Versions = field(default_factory=Versions)

    def today(self) -> date:
        """The date in Vietnam."""
        return vietnam_day(self.clock())


@dataclass(frozen=True)
class Found:
    """A version of a procedure; `etag` is empty when it was not read for a change."""

    code: str
    version: Version
    etag: str = ""


@dataclass(frozen=True)
class Draft:
    """A version that someone wants to put; no `effective_from`: from today."""

    code: str
    content: Content
    curated: bool
    effective_from: date | None = None
    effective_to: date | None = None
    etag: str = ""


@dataclass
class Tally:
    """What an import did: how many of each outcome, and (code, problem) for every text it could not read."""

    outcomes: Counter[ImportOutcome] = field(default_factory=Counter)
    problems: list[tuple[str, Problem]] = field(default_factory=list)


@allow(ANYONE)
async def search(
    ports: Ports,
    caller: Caller,
    query: str,
    *,
    field: str = "",
    level: Level | None = None,
    audience: str = "",
    size: int = 0,
    token: str = "",
) -> Hits:
    """A page of the procedures in force that match, best first; 20 when `size` is 0, at most 100."""
    if len(query) > 500:
        raise InvalidInput(violations=[FieldViolation("query", "TOO_LONG", "at most 500 characters")])
    size = min(size if size > 0 else 20, MAX_BATCH)
    return ports.index.search(query, field=field, level=level, audience=audience, size=size, token=token)


@allow(ANYONE)
async def fields(ports: Ports, caller: Caller) -> list[tuple[str, int]]:
    """Fields with the number of procedures in force of each."""
    return ports.index.fields()


@allow(ANYONE)
async def get(ports: Ports, caller: Caller, code: str, number: int = 0) -> Found:
    """A version of a procedure, the one in force when `number` is 0. Raises NotFound."""
    procedure = await ports.procedures.find(code)
    if procedure is None:
        raise _not_found(code)
    version = procedure.version(number) if number else procedure.in_force(ports.today())
    if version is None:
        raise NotFound("PROCEDURE_NOT_IN_FORCE", "no version is in force today", procedure=code)
    return Found(code, version, str(procedure.revision))


@allow(ANYONE)
async def batch(ports: Ports, caller: Caller, names: Sequence[str]) -> list[Found]:
    """The versions of `code@version` or, for the one in force, `code`; missing ones are omitted."""
    if len(names) > MAX_BATCH:
        raise InvalidInput(violations=[FieldViolation("names", "TOO_MANY", f"at most {MAX_BATCH}")])
    asked = [split_name(name) for name in dict.fromkeys(names)]
    numbers = {pair: pair[1] or getattr(ports.index.get(pair[0]), "version", 0) for pair in asked}
    absent = {pair[0] for pair in asked if not ports.versions.get(pair[0], numbers[pair])}
    loaded = {procedure.id: procedure for procedure in await ports.procedures.batch(sorted(absent))}
    found = []
    for code, number in asked:
        version = ports.versions.get(code, numbers[code, number])
        if version is None and (procedure := loaded.get(code)) is not None:
            version = _pick(procedure, number, ports.today())
        if version is not None:
            ports.versions.keep(code, version)
            found.append(Found(code, version))
    return found


def _pick(procedure: Procedure, number: int, on: date) -> Version | None:
    if number:
        return procedure.versions[number - 1] if number <= len(procedure.versions) else None
    return procedure.in_force(on)


@allow(official("admin"), service(IMPORTER, "catalog"))
async def put(ports: Ports, caller: Caller, draft: Draft, *, request: object | None = None) -> Found:
    """Puts a version, unless the latest one says the same; answers the one that says it now.

    Officials put nothing into the past. What a service loads from its files never undoes what officials put;
    then the latest version is answered.
    """
    faults = await ports.form_faults(draft.content.form) if draft.content.form else ()
    check(draft.code, draft.content, curated=draft.curated, form_faults=faults)
    by_service = caller.kind == "service"
    begin = draft.effective_from or ports.today()
    if begin < ports.today() and not by_service:
        raise InvalidInput(
            violations=[FieldViolation("procedure.effective_from", "IN_THE_PAST", "today or later")]
        )
    source = Source.CURATED if draft.curated else Source.EDITED
    fingerprint = draft.content.fingerprint

    def change(procedure: Procedure) -> None:
        procedure.put(
            draft.content,
            source=source,
            effective_from=begin,
            effective_to=draft.effective_to,
            at=ports.clock(),
            shipped=by_service,
        )

    procedure = await ports.procedures.find(draft.code)
    if procedure is None and draft.etag:
        raise Conflict("STALE", "there is no such procedure any more", procedure=draft.code)
    trial = replace(procedure, versions=list(procedure.versions)) if procedure else Procedure(draft.code)
    if _adds(trial, change) or procedure is None:
        if procedure is None:
            await ports.procedures.add(Procedure(draft.code))  # empty, so that a request counts once
        procedure = await ports.procedures.change(
            draft.code, change, request=request, etag=draft.etag or None
        )
        ports.index.put(procedure, ports.today())
    said = [version for version in procedure.versions if version.fingerprint == fingerprint]
    return Found(draft.code, (said or procedure.versions)[-1], str(procedure.revision))


def _adds(trial: Procedure, change: Callable[[Procedure], None]) -> bool:
    before = len(trial.versions)
    change(trial)
    return len(trial.versions) > before


@allow(official("admin"), service(IMPORTER, "catalog"))
async def import_records(ports: Ports, caller: Caller, lines: Sequence[str]) -> Tally:
    """Merges crawled records (JSON, one each) into the catalogue; what says the same changes nothing."""
    if len(lines) > MAX_RECORDS:
        raise InvalidInput(violations=[FieldViolation("records", "TOO_MANY", f"at most {MAX_RECORDS}")])
    tally = Tally()
    contents: dict[str, Content] = {}
    for number, line in enumerate(lines):
        if number % 20 == 19:
            await asyncio.sleep(0)  # reading is work of the processor: let others have a turn
        record = read(line)
        if isinstance(record, Refused):
            tally.outcomes[ImportOutcome.REFUSED] += 1
            tally.problems.append((record.code, record.problem))
            continue
        try:
            check(record.code, record.content, curated=False)
        except InvalidInput as error:
            tally.outcomes[ImportOutcome.REFUSED] += 1
            tally.problems += [
                (record.code, Problem(v.field.removeprefix("procedure."), "", v.reason))
                for v in error.violations
            ]
            continue
        if record.code in contents:
            tally.outcomes[ImportOutcome.REFUSED] += 1
            tally.problems.append((record.code, Problem("code", record.code, "CODE_REPEATED")))
            continue
        contents[record.code] = record.content
        tally.problems += [(record.code, problem) for problem in record.content.problems]
    known = {procedure.id: procedure for procedure in await ports.procedures.batch(list(contents))}
    turn = asyncio.Semaphore(_AT_ONCE)

    async def take(code: str, content: Content) -> ImportOutcome:
        async with turn:
            return await _take(ports, known.get(code), code, content)

    tally.outcomes.update(await asyncio.gather(*(take(code, content) for code, content in contents.items())))
    return tally


async def _take(ports: Ports, known: Procedure | None, code: str, content: Content) -> ImportOutcome:
    on, at = ports.today(), ports.clock()
    new = known is None
    trial = Procedure(code) if known is None else replace(known, versions=list(known.versions), events=[])
    outcome = trial.take_import(content, on=on, at=at)
    if outcome in (ImportOutcome.UNCHANGED, ImportOutcome.KEPT_CURATED):
        return outcome
    if new and await ports.procedures.add(trial):
        ports.index.put(trial, on)
        return outcome

    def change(procedure: Procedure) -> None:
        nonlocal outcome
        outcome = procedure.take_import(content, on=on, at=at)

    ports.index.put(await ports.procedures.change(code, change), on)
    return outcome


@dataclass(frozen=True)
class PricedFiling:
    """A quote and whether it is given back when the dossier is rejected."""

    quote: Quote
    refundable: bool


@allow(ANYONE)
async def quote_fee(
    ports: Ports,
    caller: Caller,
    code: str,
    number: int,
    channel: Channel,
    quantities: Mapping[str, int],
    on: date | None = None,
) -> PricedFiling:
    """What a filing costs by a version (0: in force), today unless `on` says another date."""
    if channel is Channel.ANY:
        raise InvalidInput(violations=[FieldViolation("channel", "REQUIRED")])
    name = f"{code}@{number}" if number else code
    found = await batch(ports, caller, [name])
    if not found:
        raise _not_found(name)
    content = found[0].version.content
    return PricedFiling(
        quote(content.fees, channel, quantities, on or ports.today()), content.refundable_on_rejection
    )


@allow(ANYONE)
async def compute_due(ports: Ports, caller: Caller, start: datetime, limit: TimeLimit) -> Due:
    """When a limit that starts with a receipt at `start` is over."""
    return ports.calendar.due(start, limit)


@allow(ANYONE)
async def count_working_days(ports: Ports, caller: Caller, start: datetime, end: datetime) -> int:
    """The working days counted from a receipt at `start` until `end`."""
    return ports.calendar.working_days(start, end)


@allow(ANYONE)
async def calendar_of(ports: Ports, caller: Caller, year: int) -> Year:
    """The table of a year. Raises FailedPrecondition when there is none."""
    return ports.calendar.year(year)


def _not_found(name: str) -> NotFound:
    return NotFound("PROCEDURE_NOT_FOUND", "no such procedure", procedure=name)
