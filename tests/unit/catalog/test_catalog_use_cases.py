"""The use cases with a store in memory: who may, what an edit and an import change, what is remembered."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

import pytest

from catalog import handlers
from catalog.bootstrap import shipped_calendar
from catalog.calendar import TimeLimit, TimeUnit
from catalog.domain import Channel, Content, ImportOutcome, Level, Mode, Procedure, Step
from catalog.handlers import Draft, Ports
from catalog.search import Index
from kit import schemas
from kit.auth import ANONYMOUS, Caller, Role
from kit.errors import Conflict, DomainError, Forbidden, InvalidInput, NotFound, Unauthenticated

NOW = datetime(2026, 11, 23, 3, tzinfo=UTC)
ADMIN = Caller("quantri", "official", (Role("H32", "admin"),))
IMPORTER = Caller("importer", "service")
CALLERS = {
    "anyone": ANONYMOUS,
    "citizen": Caller("an", "citizen"),
    "examiner": Caller("tl", "official", (Role("H32.15", "examiner"),)),
    "admin": ADMIN,
    "importer": IMPORTER,
    "payment": Caller("payment", "service"),
}
CONTENT = Content(
    name="Đăng ký khai sinh",
    field="Hộ tịch",
    levels=(Level.COMMUNE,),
    modes=(Mode(Channel.ONLINE, TimeLimit(1, TimeUnit.WORKING_DAY)),),
    steps=(Step("sign", "Ký", "Sign", "leader"),),
    form='{"type": "object"}',
)
DRAFT = Draft("1.001193", CONTENT, curated=True)


@dataclass
class InMemory:
    """Procedures in a dict, with the store's rules for revisions, etags and requests."""

    kept: dict[str, Procedure] = field(default_factory=dict)
    requests: set[object] = field(default_factory=set)
    reads: int = 0

    async def find(self, code: str) -> Procedure | None:
        return copy.deepcopy(self.kept.get(code))

    async def batch(self, codes: Sequence[str]) -> list[Procedure]:
        self.reads += bool(codes)
        return [copy.deepcopy(self.kept[code]) for code in codes if code in self.kept]

    async def add(self, procedure: Procedure) -> bool:
        if procedure.id in self.kept:
            return False
        procedure.revision = 1
        self.kept[procedure.id] = copy.deepcopy(procedure)
        return True

    async def change(
        self,
        code: str,
        change: Callable[[Procedure], None],
        *,
        request: object | None = None,
        etag: str | None = None,
    ) -> Procedure:
        procedure = copy.deepcopy(self.kept[code])
        if request is not None and request in self.requests:
            return procedure
        if etag and etag != str(procedure.revision):
            raise Conflict("STALE")
        change(procedure)
        procedure.revision += 1
        self.requests.add(request)
        self.kept[code] = copy.deepcopy(procedure)
        return procedure


@pytest.fixture
def store() -> InMemory:
    return InMemory()


@pytest.fixture
def ports(store: InMemory) -> Ports:
    return Ports(store, Index(), shipped_calendar(), lambda: NOW, form_faults)


async def form_faults(schema: str) -> Sequence[str]:
    return schemas.faults(schema)


def crawled(code: str = "1.000005", **changes: object) -> str:
    return json.dumps(
        {"code": code, "name": "Thủ tục hải quan", "field": "Hải quan", "levels": ["Cấp bộ"], **changes}
    )


CALLS = {
    "search": ("khai sinh",),
    "fields": (),
    "get": ("1.001193",),
    "batch": (["1.001193"],),
    "put": (DRAFT,),
    "import_records": ([crawled()],),
    "quote_fee": ("1.001193", 0, Channel.ONLINE, {}),
    "compute_due": (NOW, TimeLimit(1, TimeUnit.DAY)),
    "count_working_days": (NOW, NOW),
    "calendar_of": (2026,),
}
WRITES = {"put", "import_records"}


def test_every_use_case_says_who_may_call_it() -> None:
    guarded = {name for name, f in inspect.getmembers(handlers) if hasattr(f, "allowed")}
    assert guarded == CALLS.keys()


@pytest.mark.parametrize("who", CALLERS)
@pytest.mark.parametrize("call", CALLS)
async def test_reading_is_for_anyone_and_changing_for_admins_and_the_importer(
    ports: Ports, who: str, call: str
) -> None:
    try:
        await getattr(handlers, call)(ports, CALLERS[who], *CALLS[call])
        refused: type[DomainError] | None = None
    except (Forbidden, Unauthenticated) as error:
        refused = type(error)
    except NotFound:
        refused = None
    if call in WRITES and who not in ("admin", "importer"):
        assert refused is (Unauthenticated if who == "anyone" else Forbidden)
    else:
        assert refused is None


async def test_an_edit_makes_a_version_that_is_found_at_once(ports: Ports) -> None:
    first = await handlers.put(ports, ADMIN, DRAFT)
    edited = replace(DRAFT, content=replace(CONTENT, name="Đăng ký khai sinh mới"), etag=first.etag)
    second = await handlers.put(ports, ADMIN, edited)
    assert (first.version.number, second.version.number) == (1, 2)
    assert (await handlers.search(ports, ANONYMOUS, "khai sinh moi")).total == 1
    assert (await handlers.get(ports, ANONYMOUS, "1.001193", 1)).version.content.name == "Đăng ký khai sinh"


async def test_an_edit_of_a_lost_race_is_a_conflict(ports: Ports) -> None:
    first = await handlers.put(ports, ADMIN, DRAFT)
    await handlers.put(ports, ADMIN, replace(DRAFT, content=replace(CONTENT, name="A")))
    with pytest.raises(Conflict, match="STALE"):
        await handlers.put(ports, ADMIN, replace(DRAFT, content=replace(CONTENT, name="B"), etag=first.etag))


async def test_a_refused_edit_leaves_nothing_behind(ports: Ports, store: InMemory) -> None:
    for bad in (replace(DRAFT, effective_to=date(2026, 1, 1)), replace(DRAFT, etag="3")):
        with pytest.raises(DomainError):
            await handlers.put(ports, ADMIN, bad)
    assert store.kept == {}


async def test_a_repeated_request_makes_one_version_even_after_others(ports: Ports) -> None:
    await handlers.put(ports, ADMIN, DRAFT, request="r1")
    await handlers.put(ports, ADMIN, replace(DRAFT, content=replace(CONTENT, name="B")), request="r2")
    again = await handlers.put(ports, ADMIN, DRAFT, request="r1")
    assert again.version.number == 1
    assert (await handlers.get(ports, ANONYMOUS, "1.001193")).version.number == 2


async def test_officials_put_nothing_into_the_past(ports: Ports) -> None:
    with pytest.raises(InvalidInput, match="IN_THE_PAST"):
        await handlers.put(ports, ADMIN, replace(DRAFT, effective_from=date(2026, 11, 22)))
    await handlers.put(ports, IMPORTER, replace(DRAFT, effective_from=date(2025, 7, 1)))


async def test_a_version_to_come_is_not_in_force_today(ports: Ports) -> None:
    await handlers.put(ports, ADMIN, replace(DRAFT, effective_from=date(2027, 1, 1)))
    with pytest.raises(NotFound, match="PROCEDURE_NOT_IN_FORCE"):
        await handlers.get(ports, ANONYMOUS, "1.001193")
    assert await handlers.batch(ports, ANONYMOUS, ["1.001193"]) == []
    assert len(await handlers.batch(ports, ANONYMOUS, ["1.001193@1"])) == 1


async def test_reloading_the_shipped_files_keeps_an_officials_edit(ports: Ports) -> None:
    shipped = replace(DRAFT, effective_from=date(2025, 7, 1))
    await handlers.put(ports, IMPORTER, shipped)
    await handlers.put(ports, ADMIN, replace(DRAFT, content=replace(CONTENT, name="Sửa")))
    for again in (shipped, replace(shipped, content=replace(CONTENT, name="Bản mới"))):
        assert (await handlers.put(ports, IMPORTER, again)).version.number in (1, 2)
    current = await handlers.get(ports, ANONYMOUS, "1.001193")
    assert (current.version.number, current.version.content.name) == (2, "Sửa")


async def test_a_batch_omits_what_is_missing_and_reads_a_version_once(ports: Ports, store: InMemory) -> None:
    await handlers.put(ports, ADMIN, DRAFT)
    names = ["1.001193", "1.001193@1", "1.001193@2", "9.999999"]
    found = await handlers.batch(ports, ANONYMOUS, names)
    assert [(f.code, f.version.number) for f in found] == [("1.001193", 1), ("1.001193", 1)]
    reads = store.reads
    await handlers.batch(ports, ANONYMOUS, ["1.001193", "1.001193@1"])
    assert store.reads == reads


async def test_a_batch_is_bounded(ports: Ports) -> None:
    with pytest.raises(InvalidInput, match="TOO_MANY"):
        await handlers.batch(ports, ANONYMOUS, [f"1.{n:06}" for n in range(101)])


async def test_an_import_counts_what_it_did_and_a_second_one_changes_nothing(
    ports: Ports, store: InMemory
) -> None:
    await handlers.put(ports, ADMIN, DRAFT)
    lines = [crawled(), crawled("1.001193"), "rubbish", crawled(), crawled("1.000006", levels=[])]
    first = await handlers.import_records(ports, IMPORTER, lines)
    assert first.outcomes == {
        ImportOutcome.CREATED: 1,
        ImportOutcome.KEPT_CURATED: 1,
        ImportOutcome.REFUSED: 3,
    }
    assert {problem.reason for _, problem in first.problems} == {"NOT_JSON", "CODE_REPEATED", "REQUIRED"}
    before = copy.deepcopy(store.kept)
    second = await handlers.import_records(ports, IMPORTER, lines)
    assert second.outcomes[ImportOutcome.UNCHANGED] == 1
    assert store.kept == before


async def test_an_import_that_lost_a_race_for_a_new_code_merges_into_what_is_there(
    ports: Ports, store: InMemory
) -> None:
    class Late(InMemory):
        async def batch(self, codes: Sequence[str]) -> list[Procedure]:
            return []  # it was not there when the import looked

    late = Late(kept=store.kept)
    await handlers.put(ports, ADMIN, replace(DRAFT, code="1.000005"))
    tally = await handlers.import_records(replace(ports, procedures=late), IMPORTER, [crawled()])
    assert tally.outcomes == {ImportOutcome.KEPT_CURATED: 1}


async def test_a_fee_needs_a_channel_and_a_procedure(ports: Ports) -> None:
    with pytest.raises(InvalidInput, match="channel"):
        await handlers.quote_fee(ports, ANONYMOUS, "1.001193", 0, Channel.ANY, {})
    with pytest.raises(NotFound):
        await handlers.quote_fee(ports, ANONYMOUS, "1.001193", 0, Channel.ONLINE, {})
