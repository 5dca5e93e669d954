"""What a person does with their notices, and who may."""

from __future__ import annotations

from typing import Any

import pytest

from kit.auth import ANONYMOUS, Caller, Role
from kit.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated
from notify import handlers
from notify.domain.kinds import About, Channel, Group
from notify.domain.notice import Created, Read
from notify.domain.people import Choice
from notify.handlers import News, Ports

AN = Caller("an", "citizen")
HA = Caller("ha", "official", (Role("H32.15", "examiner"),))
CALLERS = {"citizen": AN, "official": HA, "service": Caller("payment", "service"), "anonymous": ANONYMOUS}
OPEN_TO = {"citizen", "official"}


def guarded() -> list[str]:
    return [name for name, found in vars(handlers).items() if hasattr(found, "allowed")]


@pytest.mark.parametrize("kind", CALLERS)
@pytest.mark.parametrize("name", guarded())
async def test_only_people_have_notices(ports: Ports, name: str, kind: str) -> None:
    arguments: Any = {"get_notices": ([],), "set_preferences": ([],)}.get(name, ())
    call = getattr(handlers, name)(ports, CALLERS[kind], *arguments)
    if kind in OPEN_TO:
        await call
    else:
        with pytest.raises(Unauthenticated if kind == "anonymous" else Forbidden):
            await call


def test_the_matrix_covers_the_api() -> None:
    assert sorted(guarded()) == [
        "count_unread",
        "get_notices",
        "get_preferences",
        "list_notices",
        "mark_read",
        "set_preferences",
    ]


async def tell(ports: Ports, cause: str, to: str = "an") -> str:
    [notice] = await handlers.tell(
        ports, cause, News("document_deposited", About(document="d"), {"document": "x"}, to=(to,))
    )
    return notice.id


async def test_the_counter_follows_what_is_read_and_reading_twice_is_announced_once(ports: Ports) -> None:
    ids = [await tell(ports, str(number)) for number in range(3)]
    assert await handlers.count_unread(ports, AN) == 3
    assert await handlers.mark_read(ports, AN, ids[:1]) == 2
    assert await handlers.mark_read(ports, AN, ids[:1]) == 2
    notices: Any = ports.notices
    assert [type(event) for event in notices.announced] == [Created, Created, Created, Read]


async def test_all_up_to_now_are_read_page_by_page(ports: Ports, time: Any) -> None:
    for number in range(230):
        await tell(ports, str(number))
    await tell(ports, "other", to="binh")
    assert await handlers.mark_read(ports, AN) == 0
    assert await handlers.count_unread(ports, Caller("binh", "citizen")) == 1


async def test_what_came_after_the_click_stays_unread(ports: Ports, time: Any) -> None:
    time.pass_(seconds=10)
    await tell(ports, "later")
    time.pass_(seconds=-5)
    assert await handlers.mark_read(ports, AN) == 1


async def test_one_notice_of_someone_else_and_none_is_marked(ports: Ports) -> None:
    own, other = await tell(ports, "1"), await tell(ports, "2", to="binh")
    for wrong in (other, "nothing"):
        with pytest.raises(NotFound):
            await handlers.mark_read(ports, AN, [own, wrong])
    assert await handlers.count_unread(ports, AN) == 1
    assert [notice.id for notice in await handlers.get_notices(ports, AN, [own, other, "nothing"])] == [own]


async def test_at_most_a_hundred_at_once(ports: Ports) -> None:
    with pytest.raises(InvalidInput):
        await handlers.mark_read(ports, AN, ["x"] * 101)
    with pytest.raises(InvalidInput):
        await handlers.get_notices(ports, AN, ["x"] * 101)


async def test_preferences_are_on_for_mail_and_asked_for_elsewhere_until_chosen(ports: Ports) -> None:
    preferences = await handlers.get_preferences(ports, AN)
    on = {(choice.group, choice.channel) for choice in preferences.all() if choice.on}
    assert on == {(group, channel) for group in Group for channel in (Channel.APP, Channel.EMAIL)}


async def test_a_choice_keeps_the_others_and_needs_the_revision_that_was_seen(ports: Ports) -> None:
    seen = await handlers.get_preferences(ports, AN)
    sms = Choice(Group.PAYMENT, Channel.SMS, True)
    first = await handlers.set_preferences(ports, AN, [sms], etag=str(seen.revision))
    second = await handlers.set_preferences(
        ports, AN, [Choice(Group.WORK, Channel.EMAIL, False)], etag=str(first.revision)
    )
    assert second.wants(Group.PAYMENT, Channel.SMS)
    assert not second.wants(Group.WORK, Channel.EMAIL)
    with pytest.raises(Conflict):
        await handlers.set_preferences(ports, AN, [sms], etag=str(first.revision))


async def test_the_app_cannot_be_switched_off(ports: Ports) -> None:
    choices = [Choice(Group.WORK, Channel.EMAIL, False), Choice(Group.WORK, Channel.APP, False)]
    with pytest.raises(InvalidInput) as refused:
        await handlers.set_preferences(ports, AN, choices)
    assert [violation.field for violation in refused.value.violations] == ["preferences[1]"]
    assert (await handlers.get_preferences(ports, AN)).wants(Group.WORK, Channel.EMAIL)
