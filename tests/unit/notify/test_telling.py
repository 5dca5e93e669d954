"""Who is told what by which event, in whose language, over which channels."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from kit.consumer import Event
from kit.errors import Unavailable
from motcua.dossier.v1 import dossier_pb2, vault_pb2
from motcua.dossier.v1 import events_pb2 as dossier
from motcua.identity.v1 import events_pb2 as identity
from motcua.identity.v1 import identity_pb2
from motcua.payment.v1 import events_pb2 as payment
from notify import events_in, handlers
from notify.domain.deadline import warn_at
from notify.domain.kinds import KINDS, Channel, Group
from notify.domain.people import Choice, Preferences
from notify.handlers import Ports

DUE = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)
TABLES: dict[type[Message], Any] = {**events_in.DOSSIER, **events_in.PAYMENT, **events_in.IDENTITY}


def stamp(at: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(at)
    return made


def ref(**more: Any) -> dossier.DossierRef:
    known = {
        "dossier_id": "d1",
        "code": "H32.15-261123-0001",
        "procedure_name": "Đăng ký khai sinh",
        "applicant_id": "an",
        "receiving_agency": "H32.15",
        "current_agency": "H32.15",
        "state": dossier_pb2.DOSSIER_STATE_IN_PROCESS,
        "due_time": stamp(DUE),
        "actor_id": "ha",
        "actor_agency": "H32.15",
    }
    return dossier.DossierRef(**{**known, **more})


def charge() -> payment.ChargeRef:
    return payment.ChargeRef(
        charge_id="c1",
        dossier_id="d1",
        dossier_code="H32.15-261123-0001",
        procedure_name="Đăng ký khai sinh",
        payer_id="an",
        agency="H32.15",
        amount=8000,
        currency="VND",
    )


async def happen(ports: Ports, message: Message, id: str = "e1", at: datetime | None = None) -> list[Any]:
    """The notices that an event has added, oldest first."""
    before = set(ports.notices.kept)  # type: ignore[attr-defined]
    event = Event(id, message.DESCRIPTOR.full_name, "", at or ports.now(), message)
    await TABLES[type(message)](ports, event)
    kept: dict[str, Any] = ports.notices.kept  # type: ignore[attr-defined]
    return [notice for id, notice in kept.items() if id not in before]


async def seat(ports: Ports, account: str, role: str, agency: str = "H32.15", **dates: str) -> None:
    roles = [identity_pb2.Role(agency=agency, name=role, **dates)]
    await happen(ports, identity.RolesChanged(account_id=account, roles=roles))


def test_every_event_of_others_tells_someone_or_says_why_not() -> None:
    announced = {
        getattr(module, name)
        for module in (dossier, payment, identity)
        for name in module.DESCRIPTOR.message_types_by_name
        if not name.endswith("Ref")
    }
    assert announced == TABLES.keys() | events_in.SILENT.keys()
    assert not TABLES.keys() & events_in.SILENT.keys()


async def test_every_kind_of_notice_comes_from_some_event(ports: Ports, time: Any) -> None:
    for account, role in (("bi", "reception"), ("ce", "examiner")):
        await seat(ports, account, role)
    told: set[str] = set()
    for number, message in enumerate(EVERYTHING):
        told |= {notice.kind for notice in await happen(ports, message, f"e{number}")}
        time.pass_(seconds=1)
    for deadline in (  # due soon, then overdue
        lambda due: dossier.PaymentSettled(dossier=ref(due_time=due)),
        lambda due: dossier.DossierSubmitted(
            dossier=ref(
                code="", state=dossier_pb2.DOSSIER_STATE_NEWLY_FILED, due_time=None, deadline_time=due
            )
        ),
    ):
        await happen(ports, deadline(stamp(time() + timedelta(hours=20))), f"d{time()}")
        for hours in (19, 2):
            time.pass_(hours=hours)
            await handlers.remind(ports)
    told |= {notice.kind for notice in ports.notices.kept.values()}  # type: ignore[attr-defined]
    assert told == KINDS.keys()


EVERYTHING: list[Message] = [
    dossier.DossierSubmitted(dossier=ref(actor_id="an", actor_agency="")),
    dossier.DossierReceived(dossier=ref(), receipt=dossier_pb2.Receipt(due_time=stamp(DUE))),
    dossier.DossierRejected(dossier=ref(), reason="Không thuộc thẩm quyền"),
    dossier.SupplementRequested(
        dossier=ref(), supplement=dossier_pb2.SupplementRequest(defects=["thiếu A", "thiếu B"])
    ),
    dossier.DossierSupplemented(dossier=ref(actor_id="an", actor_agency="")),
    dossier.PaymentRequested(dossier=ref(), charge_id="c1", total=8000, currency="VND"),
    dossier.PaymentSettled(dossier=ref(actor_id="payment", actor_agency="")),
    dossier.FeeGivenBack(
        dossier=ref(actor_id="payment", actor_agency=""), charge_id="c1", amount=8000, needed=True
    ),
    dossier.StepCompleted(
        dossier=ref(),
        hand_over=dossier_pb2.HandOver(from_agency="H32.15", to_agency="H32.15", step_name="Thẩm định"),
    ),
    dossier.DossierHandedOff(
        dossier=ref(current_agency="H32.05"),
        hand_over=dossier_pb2.HandOver(from_agency="H32.15", to_agency="H32.05"),
    ),
    dossier.DossierHandedOff(
        dossier=ref(),
        hand_over=dossier_pb2.HandOver(from_agency="H32.05", to_agency="H32.15", to_role="examiner"),
    ),
    dossier.DeadlineExtended(dossier=ref(), apology=dossier_pb2.Apology(reason="Thiếu người")),
    dossier.WithdrawalRequested(dossier=ref(actor_id="an", actor_agency=""), reason="Đổi ý"),
    dossier.WithdrawalDeclined(dossier=ref(), reason="Đã ký"),
    dossier.DossierWithdrawn(dossier=ref()),
    dossier.DossierStopped(dossier=ref(), reason="Hết hạn bổ sung"),
    dossier.ResultSigned(dossier=ref(), document_id="doc1"),
    dossier.ResultHandedOver(dossier=ref()),
    dossier.DocumentAdded(document_id="doc1", owner_id="an", title="Giấy khai sinh", dossier_id="d1"),
    dossier.DocumentVerified(document_id="doc1", owner_id="an", title="Giấy khai sinh", agency="H32.15"),
    dossier.DocumentChecked(
        document_id="doc1", owner_id="an", title="Giấy khai sinh", check=vault_pb2.FILE_CHECK_REFUSED
    ),
    payment.ChargePaid(charge=charge()),
    payment.ChargeCancelled(charge=charge(), reason="Hồ sơ đã rút"),
    payment.PaymentFailed(charge=charge()),
    payment.ReceiptIssued(charge=charge(), series="26TAB", number="00000001"),
    payment.RefundRequested(charge=charge(), amount=8000),
    payment.PaymentRefunded(charge=charge(), amount=8000),
    identity.AccountOpened(account_id="binh", at_counter=True, agency="H32.15", locale="en"),
    identity.AccountClaimed(account_id="binh", email="binh@example.vn", locale="en"),
    identity.ProfileChanged(account_id="binh", name="Bình", email="binh@example.vn", locale="en"),
    identity.AgencyChanged(agency=identity_pb2.Agency(code="H32.15", name="UBND phường Nha Trang")),
    identity.AccountProven(account_id="binh", name="Bình", agency="H32.15"),
    identity.AccountDetached(account_id="binh", agency="H32.15"),
    identity.DelegationRequested(
        delegation=identity_pb2.Delegation(id="g1", principal_id="an", delegate_id="binh")
    ),
    identity.DelegationDeclined(
        delegation=identity_pb2.Delegation(id="g1", principal_id="an", delegate_id="binh")
    ),
    identity.DelegationGranted(
        delegation=identity_pb2.Delegation(id="g1", principal_id="an", delegate_id="binh")
    ),
    identity.DelegationRevoked(
        delegation=identity_pb2.Delegation(id="g1", principal_id="an", delegate_id="binh")
    ),
    identity.SessionRevoked(account_id="an", reason="REUSED", revoke_time=stamp(DUE)),
    identity.SessionsEnded(account_id="an", reason="PASSWORD_CHANGED", end_time=stamp(DUE)),
    identity.ContactUsed(account_id="an", use_time=stamp(DUE)),
    *(
        identity.SecondFactorChanged(account_id="an", change=change, change_time=stamp(DUE))
        for change in identity.SecondFactorChange.values()
    ),
    *(
        identity.OneTimeSecretRequested(account_id="an", purpose=purpose, request_time=stamp(DUE))
        for purpose in (
            identity_pb2.ONE_TIME_PURPOSE_RESET_PASSWORD,
            identity_pb2.ONE_TIME_PURPOSE_VERIFY_EMAIL,
            identity_pb2.ONE_TIME_PURPOSE_VERIFY_PHONE,
        )
    ),
    identity.ContactChanged(account_id="an", old_email="cu@example.vn", change_time=stamp(DUE)),
]


def test_the_sample_has_every_event_that_tells() -> None:
    assert {type(message) for message in EVERYTHING} | {identity.RolesChanged} == TABLES.keys()


@pytest.mark.parametrize(
    "message",
    [
        dossier.DocumentAdded(document_id="doc1", owner_id="an", title="Giấy khai sinh"),
        identity.SessionRevoked(account_id="an", reason="SIGNED_OUT"),
        identity.SessionsEnded(account_id="an", reason="SIGNED_OUT"),
        identity.AccountOpened(account_id="an", locale="vi"),
        identity.OneTimeSecretRequested(account_id="an", purpose=99),  # type: ignore[arg-type]
    ],
)
async def test_what_a_person_did_is_no_news_to_them(ports: Ports, message: Message) -> None:
    assert await happen(ports, message) == []


async def test_a_refused_file_is_told_to_its_owner_and_its_bringer_and_a_clean_one_to_nobody(
    ports: Ports,
) -> None:
    def checked(check: vault_pb2.FileCheck.ValueType, **more: Any) -> Message:
        return dossier.DocumentChecked(document_id="doc1", owner_id="an", title="Quét", check=check, **more)

    assert await happen(ports, checked(vault_pb2.FILE_CHECK_CLEAN), id="e1") == []
    told = await happen(ports, checked(vault_pb2.FILE_CHECK_REFUSED, added_by_id="binh"), id="e2")
    assert {notice.recipient for notice in told} == {"an", "binh"}
    [one] = await happen(ports, checked(vault_pb2.FILE_CHECK_REFUSED, added_by_id="an"), id="e3")
    assert one.kind == "file_refused"
    of_a_result = checked(vault_pb2.FILE_CHECK_REFUSED, added_by_id="binh", dossier_id="d1")
    assert [notice.recipient for notice in await happen(ports, of_a_result, id="e4")] == ["binh"]


async def test_a_notice_names_officer_and_agency_in_the_language_of_the_account(ports: Ports) -> None:
    [vi] = await happen(ports, dossier.DossierReceived(dossier=ref()))
    [en] = await happen(ports, dossier.DossierReceived(dossier=ref(applicant_id="binh")))
    assert vi.params["by"] == "Lê Thu Hà, UBND phường Nha Trang"
    assert en.params["by"] == "Lê Thu Hà, Nha Trang Ward"
    assert (vi.locale, en.locale) == ("vi", "en")
    assert vi.params | {"by": ""} == en.params | {"by": ""}, "parameters are kept as they were announced"


async def test_an_officer_or_agency_that_nobody_knows_is_not_made_up(ports: Ports) -> None:
    [notice] = await happen(
        ports,
        dossier.DossierReceived(dossier=ref(actor_id="nobody", actor_agency="H99", current_agency="H99")),
    )
    assert notice.params["by"] == "H99"


async def test_an_event_told_twice_makes_one_notice(ports: Ports) -> None:
    message = dossier.DossierReceived(dossier=ref())
    assert len(await happen(ports, message)) == 1
    assert await happen(ports, message) == []
    assert len(await happen(ports, message, id="e2")) == 1


async def test_identity_is_asked_once_and_waited_for(ports: Ports, directory: Any) -> None:
    directory.away = True
    with pytest.raises(Unavailable):
        await happen(ports, dossier.DossierReceived(dossier=ref()))
    assert ports.notices.kept == {}  # type: ignore[attr-defined]
    directory.away = False
    assert len(await happen(ports, dossier.DossierReceived(dossier=ref()))) == 1
    asked = directory.asked
    await happen(ports, dossier.DossierReceived(dossier=ref()), id="e2")
    assert directory.asked == asked


async def test_a_wish_is_respected_and_an_unconfigured_channel_promises_nothing(ports: Ports) -> None:
    [on] = await happen(ports, dossier.DossierReceived(dossier=ref()), id="1")
    assert list(on.deliveries) == [Channel.EMAIL]
    wishes = [Choice(Group.DOSSIER, Channel.EMAIL, False), Choice(Group.DOSSIER, Channel.SMS, True)]
    await ports.preferences.create(Preferences, id="an")
    await ports.preferences.change("an", lambda preferences: preferences.choose(wishes))
    [off] = await happen(ports, dossier.DossierReceived(dossier=ref()), id="2")
    assert list(off.deliveries) == []


async def test_a_passed_step_is_shown_in_the_app_alone(ports: Ports) -> None:
    message = dossier.StepCompleted(dossier=ref(), hand_over=dossier_pb2.HandOver(step_name="Thẩm định"))
    [notice] = await happen(ports, message)
    assert (notice.kind, notice.deliveries) == ("step_completed", {})


async def test_a_dossier_that_goes_to_another_agency_is_told_to_the_citizen_and_to_its_desk(
    ports: Ports,
) -> None:
    await seat(ports, "bi", "examiner", "H32.05")
    await seat(ports, "ce", "examiner", "H32.15")
    hand_over = dossier_pb2.HandOver(from_agency="H32.15", to_agency="H32.05", to_role="examiner")
    told = await happen(
        ports, dossier.StepCompleted(dossier=ref(current_agency="H32.05"), hand_over=hand_over)
    )
    assert {(notice.recipient, notice.kind) for notice in told} == {
        ("an", "dossier_handed_off"),
        ("bi", "desk_arrived"),
    }


async def test_a_dossier_handed_to_one_official_is_told_to_that_one_and_so_is_the_supplement(
    ports: Ports,
) -> None:
    await seat(ports, "ce", "examiner")
    hand_over = dossier_pb2.HandOver(from_agency="H32.15", to_agency="H32.15", to_official_id="de")
    told = await happen(ports, dossier.DossierHandedOff(dossier=ref(), hand_over=hand_over))
    assert [(notice.recipient, notice.kind) for notice in told] == [("de", "desk_arrived")]
    supplemented = dossier.DossierSupplemented(dossier=ref(actor_id="an", actor_agency=""))
    told = await happen(ports, supplemented, id="e2")
    assert [notice.recipient for notice in told] == ["an", "de"]


async def test_an_official_is_not_told_of_what_they_did_themselves(ports: Ports) -> None:
    await seat(ports, "ha", "leader")
    await seat(ports, "ce", "leader")
    message = dossier.StepCompleted(
        dossier=ref(), hand_over=dossier_pb2.HandOver(to_agency="H32.15", to_role="leader")
    )
    assert {notice.recipient for notice in await happen(ports, message)} == {"an", "ce"}


async def test_who_has_left_a_desk_or_is_not_there_yet_is_not_told(ports: Ports) -> None:
    await seat(ports, "left", "reception")
    await seat(ports, "left", "clerk")
    await seat(ports, "gone", "reception", valid_to="2026-11-22")
    await seat(ports, "soon", "reception", valid_from="2026-11-24")
    await seat(ports, "here", "reception", valid_from="2026-11-23", valid_to="2026-11-23")
    told = await happen(ports, dossier.DossierSubmitted(dossier=ref(actor_id="an", actor_agency="")))
    assert [notice.recipient for notice in told if notice.kind == "desk_submitted"] == ["here"]


async def test_an_older_event_that_arrives_late_takes_nothing_back(ports: Ports, time: Any) -> None:
    early, late = time(), time() + timedelta(seconds=1)
    new = identity.ProfileChanged(account_id="an", name="An", email="new@example.vn", locale="en")
    old = identity.AccountOpened(account_id="an", name="An", email="old@example.vn", locale="vi")
    await happen(ports, new, at=late)
    await happen(ports, old, at=early)
    await happen(ports, identity.RolesChanged(account_id="an", roles=[]), at=late)
    roles = [identity_pb2.Role(agency="H32.15", name="leader")]
    await happen(ports, identity.RolesChanged(account_id="an", roles=roles), at=early)
    contact = await ports.contacts.find("an")
    assert contact is not None
    assert (contact.email, contact.locale, contact.posts) == ("new@example.vn", "en", ())
    assert await ports.desks.find("H32.15|leader") is None


async def test_claiming_an_account_keeps_its_name(ports: Ports, time: Any) -> None:
    await happen(ports, identity.AccountOpened(account_id="x", name="Xuân", locale="vi"))
    await happen(ports, identity.AccountClaimed(account_id="x", email="x@example.vn", locale="en"))
    contact = await ports.contacts.find("x")
    assert contact is not None
    assert (contact.name, contact.email, contact.locale) == ("Xuân", "x@example.vn", "en")


async def test_officials_are_reminded_a_day_before_and_when_it_is_overdue_once_each(
    ports: Ports, time: Any
) -> None:
    await seat(ports, "ce", "examiner")
    await happen(ports, dossier.PaymentSettled(dossier=ref(actor_id="payment", actor_agency="")))
    sent = ports.notices.kept  # type: ignore[attr-defined]
    sent.clear()
    time.at = DUE - timedelta(days=1, seconds=1)
    assert await handlers.remind(ports) == 0
    time.at = DUE - timedelta(days=1)
    for _ in range(3):
        await handlers.remind(ports)
    time.at = DUE
    for _ in range(3):
        await handlers.remind(ports)
    assert [(n.recipient, n.kind) for n in sent.values()] == [
        ("ce", "desk_due_soon"),
        ("ce", "desk_overdue"),
    ]


async def test_a_crash_between_reminding_and_noting_it_reminds_once(ports: Ports, time: Any) -> None:
    await seat(ports, "ce", "examiner")
    await happen(ports, dossier.PaymentSettled(dossier=ref()))
    time.at = DUE
    deadlines: Any = ports.deadlines
    deadlines.fail = Unavailable("DATABASE_UNAVAILABLE")
    with pytest.raises(Unavailable):
        await handlers.remind(ports)
    deadlines.fail = None
    await handlers.remind(ports)
    kinds = [notice.kind for notice in ports.notices.kept.values()]  # type: ignore[attr-defined]
    assert kinds.count("desk_overdue") == 1


async def test_a_due_time_that_changes_while_officials_are_reminded_is_reminded_of_as_well(
    ports: Ports, time: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seat(ports, "ce", "examiner")
    await happen(ports, dossier.PaymentSettled(dossier=ref()))
    sent = ports.notices.kept  # type: ignore[attr-defined]
    sent.clear()
    time.at = DUE
    create = ports.notices.create

    async def overtaken(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(ports.notices, "create", create)
        await ports.deadlines.change(ref().dossier_id, later)
        return await create(*args, **kwargs)

    def later(deadline: Any) -> None:
        deadline.due, deadline.reminded = DUE + timedelta(hours=1), ()

    monkeypatch.setattr(ports.notices, "create", overtaken)
    while await handlers.remind(ports):
        pass
    assert [notice.kind for notice in sent.values()] == ["desk_overdue", "desk_due_soon"]


@pytest.mark.parametrize(
    "state",
    [dossier_pb2.DOSSIER_STATE_SUPPLEMENT_REQUESTED, dossier_pb2.DOSSIER_STATE_STOPPED],
)
async def test_while_the_clock_stands_nobody_is_reminded(ports: Ports, time: Any, state: Any) -> None:
    await seat(ports, "ce", "examiner")
    await happen(ports, dossier.PaymentSettled(dossier=ref()))
    await happen(ports, dossier.DossierStopped(dossier=ref(state=state)), id="e2")
    time.at = DUE + timedelta(days=30)
    assert await handlers.remind(ports) == 0


def test_a_short_deadline_is_not_warned_of_at_once() -> None:
    filed = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)
    due = filed + timedelta(days=1)
    assert warn_at(due, filed) == due - timedelta(hours=2)
    assert warn_at(due, filed - timedelta(hours=1)) == due - timedelta(days=1)


def test_a_warning_does_not_fall_on_a_weekend() -> None:
    monday = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
    assert warn_at(monday) == datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
    assert warn_at(monday + timedelta(days=1)) == monday
    just_tuesday_in_vietnam = datetime(2026, 11, 23, 17, 30, tzinfo=UTC)
    assert warn_at(just_tuesday_in_vietnam) == datetime(2026, 11, 22, 17, 30, tzinfo=UTC)


def test_subscriptions_cover_the_tables(ports: Ports) -> None:
    found = events_in.subscriptions(ports)
    assert [subscription.durable for subscription in found] == [
        "notify-dossier",
        "notify-payment",
        "notify-identity",
    ]
    assert {kind for subscription in found for kind in subscription.types} == TABLES.keys()
