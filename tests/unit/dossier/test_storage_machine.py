"""Uploads into one vault begin, end and race in any order while the service dies at any step: never is more
let in than there is room for, and what is counted in the end is what is there."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dossier.domain.document import Details, Purpose, Upload, UploadState
from dossier.domain.storage import Allowance, Storage, counted
from dossier.handlers import uploads
from kit.auth import Caller
from kit.clock import to_text
from kit.errors import Conflict, DomainError, FailedPrecondition, InvalidInput, NotFound
from kit.ids import uuid7

AN = Caller("an", "citizen", verified=True)
ROOM = Allowance(100, 4)
NEVER = datetime(2999, 1, 1, tzinfo=UTC)  # nothing is counted again here: that would hide what went wrong


class Killed(BaseException):
    """The process is gone."""


class Steps:
    """Everything that goes out to a store; the process can be killed at one of them."""

    def __init__(self) -> None:
        self.left = 0  # steps until it is killed; 0: it lives

    async def step(self) -> None:
        await asyncio.sleep(0)
        if self.left:
            self.left -= 1
            if not self.left:
                self.left = 1  # whatever else it does fails as well
                raise Killed


class Stored:
    """A collection: an entry is loaded, changed, and written back if nobody was faster."""

    def __init__(self, steps: Steps, scalars: Callable[[Any], dict[str, Any]] = lambda _: {}) -> None:
        self.items: dict[str, Any] = {}
        self._steps, self._scalars = steps, scalars
        self._ids: dict[Any, str] = {}
        self._handled: set[tuple[str, str]] = set()

    async def find(self, id: str) -> Any:
        await self._steps.step()
        return copy.deepcopy(self.items.get(id))

    async def get(self, id: str) -> Any:
        if (found := await self.find(id)) is None:
            raise NotFound("NOT_FOUND")
        return found

    async def batch(self, ids: Sequence[str]) -> list[Any]:
        await self._steps.step()
        return [copy.deepcopy(self.items[id]) for id in ids if id in self.items]

    async def id_for(self, request: Any = None, id: str | None = None) -> str:
        await self._steps.step()
        return self._ids.setdefault(request, uuid7()) if request else id or uuid7()

    async def create(self, make: Callable[[str], Any], request: Any = None, id: str | None = None) -> Any:
        made = make(known := await self.id_for(request, id))
        await self._steps.step()
        self._keep(self.items.get(known, made))
        await self._steps.step()
        return copy.deepcopy(self.items[known])

    async def change(
        self, id: str, fn: Callable[[Any], None], *, etag: str | None = None, handled: str = ""
    ) -> Any:
        while True:
            loaded = await self.get(id)
            if handled and (id, handled) in self._handled:
                return loaded
            if etag and etag != str(loaded.revision):
                raise Conflict("STALE")
            fn(loaded)
            await self._steps.step()
            if self.items[id].revision == loaded.revision:
                break
        loaded.revision += 1
        self._keep(loaded)
        self._handled.add((id, handled))
        await self._steps.step()
        return loaded

    async def count(self, filter: dict[str, Any]) -> int:
        return len((await self.page(filter, size=200)).items)

    async def page(self, filter: dict[str, Any], *, size: int, token: str = "", order: str = "") -> Any:
        await self._steps.step()

        def fits(value: Any, wanted: Any) -> bool:
            return bool(value <= wanted["$lte"] if isinstance(wanted, dict) else value == wanted)

        scalars = [(item, self._scalars(item)) for item in self.items.values()]
        found = [item for item, s in scalars if all(fits(s[name], wanted) for name, wanted in filter.items())]
        return SimpleNamespace(items=copy.deepcopy(found), next_token="")

    def _keep(self, item: Any) -> None:
        item.events.clear()
        self.items[item.id] = copy.deepcopy(item)


class Objects:
    """Object storage."""

    def __init__(self, steps: Steps, clock: Callable[[], datetime]) -> None:
        self.kept: dict[str, tuple[bytes, datetime]] = {}
        self._steps, self._clock = steps, clock

    async def put(self, key: str, data: bytes) -> None:
        await self._steps.step()
        self.kept[key] = bytes(data), self._clock()

    async def assemble(self, parts: Sequence[str], key: str) -> Any:
        await self._steps.step()
        if missing := [part for part in parts if part not in self.kept]:
            raise FileNotFoundError(missing)
        data = b"".join(self.kept[part][0] for part in parts)
        await self.put(key, data)
        return SimpleNamespace(key=key, sha256=sha256(data).hexdigest(), size=len(data), head=data)

    async def move(self, source: str, target: str) -> None:
        await self._steps.step()
        self.kept[target] = self.kept.pop(source)

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self._steps.step()
            self.kept.pop(key, None)

    async def list(self, prefix: str) -> AsyncIterator[Any]:
        await self._steps.step()
        for key in [key for key in self.kept if key.startswith(prefix)]:
            if key in self.kept:
                yield SimpleNamespace(key=key, modified=self.kept[key][1])

    async def modified(self, key: str) -> datetime | None:
        await self._steps.step()
        return self.kept[key][1] if key in self.kept else None


async def inspect(_key: str, head: bytes, _owner: str) -> Any:
    if head.startswith(b"x"):
        raise InvalidInput("UNSUPPORTED_TYPE")
    return SimpleNamespace(content_type="application/pdf", signed=False, attachments=False), b""


class World:
    """The vault of An."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 29, tzinfo=UTC)
        self.steps = Steps()
        self.uploads = Stored(
            self.steps, lambda u: {"owner": u.owner, "open": int(u.state is UploadState.OPEN)}
        )
        self.documents = Stored(self.steps, lambda d: {"owner": d.owner})
        self.storages = Stored(
            self.steps, lambda s: {"reserving": int(bool(s.reserved)), "recount": to_text(s.recount)}
        )
        self.storages.items["an"] = Storage("an", 0, 0, recount=NEVER, organisation=False)
        self.objects = Objects(self.steps, lambda: self.now)
        self.ports: Any = SimpleNamespace(
            clock=lambda: self.now,
            uploads=self.uploads,
            documents=self.documents,
            storages=self.storages,
            blobs=Stored(self.steps),
            objects=self.objects,
            inspect=inspect,
            claimed=lambda _: "",
            antivirus=None,
            to_check=lambda: None,
            limits=SimpleNamespace(
                upload_bytes=1000,
                upload_hours=24,
                open_uploads=50,
                part_bytes=8,
                person_storage=ROOM,
                organisation_storage=ROOM,
            ),
        )

    async def begin(self, size: int, request: str, document: str = "") -> Upload:
        return await uploads.begin_upload(
            self.ports,
            AN,
            purpose=Purpose.VERSION if document else Purpose.DOCUMENT,
            size=size,
            filename="a.pdf",
            content_type="",
            sha256="",
            details=Details(),
            document=document,
            dossier="",
            request=request,
        )

    async def send(self, id: str, byte: bytes, *, whole: bool = True) -> None:
        upload = await uploads.get_upload(self.ports, AN, id)
        left = upload.size - upload.offset if whole else 1
        appending = await uploads.append_upload(self.ports, AN, id, offset=upload.offset)
        try:
            await appending.write(byte * left)
        finally:
            await appending.close()
        await appending.finish()

    @property
    def there(self) -> tuple[int, int]:
        """Bytes and documents that are really there."""
        counts = [counted(document) for document in self.documents.items.values()]
        return sum(size for size, _ in counts), sum(number for _, number in counts)


async def later(turns: int, work: Awaitable[Any]) -> None:
    """Lets others go first for some turns of the loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
    await work


class Machine(RuleBasedStateMachine):
    """What clients, time and the sweeper do, each of it cut off at any step."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.loop = asyncio.new_event_loop()
        self.requests: dict[str, tuple[int, str]] = {}

    def teardown(self) -> None:
        try:
            for pause in (timedelta(0), timedelta(hours=25), timedelta(days=8)):
                self.world.now += pause
                self.run(uploads.sweep(self.world.ports))
            storage = self.world.storages.items["an"]
            assert storage.reserved == {}
            assert (storage.size, storage.documents) == self.world.there
        finally:
            self.loop.close()

    def run(self, *works: Awaitable[Any], die_at: int = 0) -> None:
        """Runs them at once, or dies at a step of theirs. What they refuse is refused."""

        async def together() -> None:
            for result in await asyncio.gather(*works, return_exceptions=True):
                if isinstance(result, BaseException) and not isinstance(result, DomainError | Killed):
                    raise result

        self.world.steps.left = die_at
        try:
            with suppress(Killed):
                self.loop.run_until_complete(together())
        finally:
            self.world.steps.left = 0

    def some_upload(self, data: st.DataObject) -> str:
        return str(data.draw(st.sampled_from(sorted(self.world.uploads.items))))

    @rule(size=st.integers(1, 60), again=st.booleans(), die_at=st.integers(0, 12))
    def begins(self, size: int, again: bool, die_at: int) -> None:
        request = uuid7()
        self.requests[request] = size, ""
        self.run(self.world.begin(size, request), die_at=die_at)
        if again:
            self.run(self.world.begin(size, request))

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def asks_again_later(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.requests)))
        size, document = self.requests[request]
        self.run(self.world.begin(size, request, document))

    @rule(sizes=st.lists(st.integers(1, 60), min_size=2, max_size=4), die_at=st.integers(0, 20))
    def several_begin_at_once(self, sizes: list[int], die_at: int) -> None:
        self.run(*(self.world.begin(size, uuid7()) for size in sizes), die_at=die_at)

    @precondition(lambda self: self.world.documents.items)
    @rule(data=st.data(), size=st.integers(1, 60), die_at=st.integers(0, 12))
    def a_version_begins(self, data: st.DataObject, size: int, die_at: int) -> None:
        document = data.draw(st.sampled_from(sorted(self.world.documents.items)))
        request = uuid7()
        self.requests[request] = size, document
        self.run(self.world.begin(size, request, document), die_at=die_at)

    @precondition(lambda self: self.world.uploads.items)
    @rule(data=st.data(), byte=st.sampled_from([b"a", b"a", b"b", b"x"]), die_at=st.integers(0, 40))
    def the_bytes_come(self, data: st.DataObject, byte: bytes, die_at: int) -> None:
        self.run(self.world.send(self.some_upload(data), byte), die_at=die_at)

    @precondition(lambda self: self.world.uploads.items)
    @rule(data=st.data())
    def some_bytes_come(self, data: st.DataObject) -> None:
        self.run(self.world.send(self.some_upload(data), b"a", whole=False))

    @precondition(lambda self: self.world.uploads.items)
    @rule(data=st.data(), die_at=st.integers(0, 12))
    def is_cancelled(self, data: st.DataObject, die_at: int) -> None:
        self.run(uploads.cancel_upload(self.world.ports, AN, self.some_upload(data)), die_at=die_at)

    @precondition(lambda self: self.world.uploads.items)
    @rule(
        data=st.data(),
        byte=st.sampled_from([b"a", b"x"]),
        cancelled=st.integers(0, 40),
        swept=st.integers(0, 40),
        die_at=st.integers(0, 100),
    )
    def everything_at_once(
        self, data: st.DataObject, byte: bytes, cancelled: int, swept: int, die_at: int
    ) -> None:
        id = self.some_upload(data)
        self.run(
            self.world.send(id, byte),
            later(cancelled, uploads.cancel_upload(self.world.ports, AN, id)),
            later(swept, uploads.sweep(self.world.ports)),
            self.world.begin(30, uuid7()),
            die_at=die_at,
        )

    @rule(hours=st.sampled_from([1, 12, 25, 24 * 9]))
    def time_passes(self, hours: int) -> None:
        self.world.now += timedelta(hours=hours)

    @rule(die_at=st.integers(0, 60))
    def the_sweeper_runs_twice_at_once(self, die_at: int) -> None:
        self.run(uploads.sweep(self.world.ports), uploads.sweep(self.world.ports), die_at=die_at)

    @invariant()
    def no_more_is_there_than_was_promised_and_no_more_is_promised_than_there_is_room(self) -> None:
        size, documents = self.world.storages.items["an"].taken
        there = self.world.there
        assert there[0] <= size <= ROOM.size
        assert there[1] <= documents <= ROOM.documents


def test_whatever_happens_no_more_is_let_in_and_the_count_is_right_in_the_end() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_what_is_left_is_said_and_never_less_than_nothing() -> None:
    """Also where an installation has lowered its limits."""
    storage = Storage("an", 500, 9, recount=NEVER)
    now = datetime(2026, 11, 29, tzinfo=UTC)
    upload = Upload("u", "an", "an", Purpose.DOCUMENT, 1, "a.pdf", "", now, now, Details())
    with pytest.raises(FailedPrecondition) as caught:
        storage.reserve(upload, ROOM)
    assert caught.value.metadata == {"left_bytes": "0", "left_megabytes": "0", "left_documents": "0"}
