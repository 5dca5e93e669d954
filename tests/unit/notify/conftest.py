"""notify's ports as fakes in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kit import clock
from kit.errors import Conflict, Unavailable
from notify.domain.deadline import Deadline
from notify.domain.kinds import Channel
from notify.domain.notice import Notice
from notify.domain.people import Agency, Contact
from notify.handlers import Ports


class Memory:
    """A repository: keeps copies, raises the revision, filters by the scalars that it is given."""

    def __init__(self, scalars: Callable[[Any], Mapping[str, Any]] = lambda aggregate: {}) -> None:
        self.kept: dict[str, Any] = {}
        self.announced: list[Any] = []
        self.fail: Exception | None = None
        self._scalars = scalars

    def _keep(self, aggregate: Any) -> Any:
        if self.fail is not None:
            raise self.fail
        aggregate.revision += 1
        self.announced += aggregate.events
        aggregate.events = []
        self.kept[aggregate.id] = copy.deepcopy(aggregate)
        return aggregate

    async def find(self, id: str) -> Any:
        return copy.deepcopy(self.kept.get(id))

    async def batch(self, ids: Sequence[str]) -> list[Any]:
        return [copy.deepcopy(self.kept[id]) for id in ids if id in self.kept]

    async def create(self, make: Callable[[str], Any], request: Any = None, id: str | None = None) -> Any:
        assert id is not None
        return await self.find(id) or self._keep(make(id))

    async def change(
        self, id: str, fn: Callable[[Any], None], *, request: Any = None, etag: str | None = None
    ) -> Any:
        aggregate = copy.deepcopy(self.kept[id])
        if etag and etag != str(aggregate.revision):
            raise Conflict("STALE")
        fn(aggregate)
        return self._keep(aggregate)

    async def count(self, filter: Mapping[str, Any]) -> int:
        return sum(self._matches(one, filter) for one in self.kept.values())

    async def page(
        self, filter: Mapping[str, Any], *, size: int, token: str = "", order: str = "created"
    ) -> Any:
        every = list(self.kept.values())
        if order.startswith("+"):
            every.sort(key=lambda one: self._scalars(one)[order[1:]])
        else:
            every.reverse()
        rest = every[int(token or 0) :]  # a token is a place in the whole, so what was changed moves nothing
        found = [
            (place, one) for place, one in enumerate(rest, int(token or 0)) if self._matches(one, filter)
        ]
        shown = found[:size]
        return SimpleNamespace(
            items=[copy.deepcopy(one) for _, one in shown],
            next_token=str(shown[-1][0] + 1) if len(found) > size else "",
        )

    def _matches(self, aggregate: Any, filter: Mapping[str, Any]) -> bool:
        scalars = self._scalars(aggregate)
        return all(
            scalars[name] <= wanted["$lte"] if isinstance(wanted, Mapping) else scalars[name] == wanted
            for name, wanted in filter.items()
        )


@dataclass
class FakeDirectory:
    people: dict[str, Contact] = field(default_factory=dict)
    named: dict[str, Agency] = field(default_factory=dict)
    secrets: dict[tuple[str, str, Channel], tuple[str, str]] = field(default_factory=dict)
    away: bool = False
    asked: int = 0

    async def accounts(self, ids: Collection[str]) -> list[Contact]:
        return self._answer(self.people, ids)

    async def agencies(self, codes: Collection[str]) -> list[Agency]:
        return self._answer(self.named, codes)

    async def secret(self, account: str, purpose: str, channel: Channel) -> tuple[str, str] | None:
        self.asked += 1
        if self.away:
            raise Unavailable("UNAVAILABLE")
        return self.secrets.get((account, purpose, channel))

    def _answer(self, all: Mapping[str, Any], ids: Collection[str]) -> list[Any]:
        self.asked += 1
        if self.away:
            raise Unavailable("UNAVAILABLE")
        return [all[id] for id in ids if id in all]


class Time:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def pass_(self, **span: float) -> None:
        self.at += timedelta(**span)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def directory() -> FakeDirectory:
    return FakeDirectory(
        people={
            "an": Contact("an", "Nguyễn Thị An", "an@example.vn", "0901000101", "vi"),
            "binh": Contact("binh", "Trần Văn Bình", "binh@example.vn", "0901000202", "en"),
            "ha": Contact("ha", "Lê Thu Hà", "ha@example.vn", "", "vi"),
        },
        named={"H32.15": Agency("H32.15", "UBND phường Nha Trang", "Nha Trang Ward")},
    )


@pytest.fixture
def ports(time: Time, directory: FakeDirectory) -> Ports:
    def of_notice(notice: Notice) -> dict[str, Any]:
        due = clock.to_text(notice.due)
        return {"recipient": notice.recipient, "unread": int(notice.read is None), "due": due}

    def of_deadline(deadline: Deadline) -> dict[str, Any]:
        return {"look": clock.to_text(deadline.look())}

    return Ports(
        notices=Memory(of_notice),
        preferences=Memory(),
        contacts=Memory(),
        desks=Memory(),
        agencies=Memory(),
        deadlines=Memory(of_deadline),
        directory=directory,
        working=frozenset({Channel.EMAIL}),
        now=time,
    )
