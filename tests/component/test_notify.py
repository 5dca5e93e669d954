"""notify as it runs: events over NATS in, notices in the store, mail over SMTP out, its API over gRPC."""

from __future__ import annotations

import asyncio
import email
import email.policy
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import grpc
import nats
import pytest
from aiosmtpd.smtp import SMTP, Envelope
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr

from identity.bootstrap import IdentitySettings
from identity.bootstrap import build as build_identity
from kit import clock, mongo
from kit.auth import Caller, TokenVerifier
from kit.errors import DomainError, InvalidInput, NotFound, Unauthenticated, Unavailable
from kit.events import entry_of
from kit.grpc_client import connect
from kit.ids import uuid7
from kit.service import Service
from kit.status import from_rpc
from kit.streams import provision_stream
from motcua.dossier.v1 import dossier_pb2
from motcua.dossier.v1 import events_pb2 as dossier
from motcua.identity.v1 import events_pb2 as identity
from motcua.identity.v1 import identity_pb2
from motcua.identity.v1.identity_pb2_grpc import IdentityServiceStub
from motcua.notify.v1 import events_pb2 as notify_events
from motcua.notify.v1 import notify_pb2 as pb
from motcua.notify.v1.notify_pb2_grpc import NotifyServiceStub
from motcua.payment.v1 import events_pb2 as payment
from notify import store
from notify.bootstrap import NotifySettings, build
from notify.domain.kinds import About, Channel
from notify.domain.notice import write_notice
from notify.domain.people import Agency, Contact
from notify.peers import Identity
from notify.senders import Smtp
from notify.worker import Deliveries

Eventually = Callable[..., Awaitable[Any]]


class Mailbox:
    """An SMTP server that keeps what it gets, can be switched off, and can answer otherwise."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.answer = "250 kept"
        self.kept = asyncio.Event()  # a mail is here, and…
        self.answering = asyncio.Event()  # …is answered only when this is set
        self.answering.set()
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SMTP(self, enable_SMTPUTF8=True), "127.0.0.1", self.port
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Envelope, address: str, options: Any
    ) -> str:
        if not self.answer.startswith("250"):
            return self.answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        self.kept.set()
        await self.answering.wait()
        return self.answer

    def to(self, address: str) -> list[EmailMessage]:
        return [mail for mail in self.mails if mail["To"] == address]


@dataclass
class FakeDirectory:
    """Identity as far as notify asks it."""

    known: dict[str, Contact] = field(default_factory=dict)
    named: dict[str, Agency] = field(default_factory=dict)
    away: bool = False
    asked: int = 0

    async def accounts(self, ids: Collection[str]) -> list[Contact]:
        self.asked += 1
        if self.away:
            raise Unavailable("UNAVAILABLE")
        return [self.known[id] for id in ids if id in self.known]

    async def agencies(self, codes: Collection[str]) -> list[Agency]:
        self.asked += 1
        if self.away:
            raise Unavailable("UNAVAILABLE")
        return [self.named[code] for code in codes if code in self.named]

    async def secret(self, account: str, purpose: str, channel: Channel) -> tuple[str, str] | None:
        return None


class Spoken(TokenVerifier):
    """Takes `kind:subject` for a token."""

    def __init__(self) -> None:
        """Has no keys."""
        self.ended = None

    async def verify(self, token: str) -> Caller:
        kind, _, subject = token.partition(":")
        if not subject:
            raise Unauthenticated("TOKEN_INVALID")
        return Caller(subject, kind)


class World:
    """A running notify with everything around it."""

    def __init__(self, service: Service, mailbox: Mailbox, directory: FakeDirectory, client: Any) -> None:
        self.service = service
        self.mailbox = mailbox
        self.directory = directory
        self.nats = client
        self._channel = connect(f"127.0.0.1:{service.port}")
        self.stub: Any = NotifyServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def announce(self, context: str, key: str, message: Message, id: str = "", at: Any = None) -> str:
        """Publishes an event as its service would; answers its id."""
        entry = entry_of(context, key, message, clock.to_text(at or clock.now()))
        id = id or entry.id
        headers = {"Nats-Msg-Id": uuid7(), "ce-id": id, "ce-type": entry.type, "ce-time": entry.time}
        headers |= {"Nats-Expected-Stream": context}
        await self.nats.jetstream().publish(entry.subject, entry.payload(), headers=headers)
        return id

    async def as_(self, account: str, method: str, request: Message, kind: str = "citizen") -> Any:
        metadata = (("authorization", f"Bearer {kind}:{account}"),)
        try:
            return await getattr(self.stub, method)(request, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error

    async def notices(self, account: str, kind: str = "citizen") -> list[pb.Notice]:
        answer = await self.as_(account, "ListNotices", pb.ListNoticesRequest(page_size=100), kind)
        return list(answer.notices)

    async def person(self, locale: str = "vi", email: str | None = None, **more: Any) -> str:
        """A new account that identity has announced; its address is `<id>@example.vn`."""
        account = uuid7()
        address = f"{account}@example.vn" if email is None else email
        # Asked for, when the dossier's event overtakes this one.
        self.directory.known[account] = Contact(
            account, name="Nguyễn Thị An", email=address, phone="0901000101", locale=locale
        )
        opened = identity.AccountOpened(
            account_id=account,
            kind=identity_pb2.ACCOUNT_KIND_PERSON,
            name="Nguyễn Thị An",
            email=address,
            phone="0901000101",
            locale=locale,
            **more,
        )
        await self.announce("identity", account, opened)
        return account


SEED = Path(__file__).parents[2] / "services/identity/seed.json"
OFFICER = "01999999-0000-7000-8000-000000000001"


@pytest.fixture(scope="module")
async def world(mongo_url: str, nats_url: str) -> AsyncIterator[World]:
    mailbox = Mailbox()
    await mailbox.start()
    directory = FakeDirectory(
        known={OFFICER: Contact(OFFICER, name="Lê Thu Hà", email="", phone="", locale="vi")},
        named={"H32.15": Agency("H32.15", "UBND phường Nha Trang", "Nha Trang Ward People's Committee")},
    )
    settings = NotifySettings(
        environment="test",
        mongodb_url=mongo_url,
        mongodb_database=f"notify_{uuid7()}",
        nats_url=nats_url,
        smtp_host="127.0.0.1",
        smtp_port=mailbox.port,
        portal_url="https://motcua.example/",
        delivery_attempts=200,
        delivery_first_pause=0.05,
        delivery_longest_pause=0.1,
        delivery_poll=0.05,
        remind_every=0.1,
        grace=0,
    )
    service = build(settings, directory=directory, verifier=Spoken())
    await service.start()
    client = await nats.connect(nats_url)
    for context in ("identity", "dossier", "payment", "notify"):
        await provision_stream(client.jetstream(), context)
    made = World(service, mailbox, directory, client)
    yield made
    await made.close()
    await client.close()
    await service.stop()
    await mailbox.stop()


def stamp(at: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(at)
    return made


DUE = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)


def ref(applicant: str, **more: Any) -> dossier.DossierRef:
    return dossier.DossierRef(
        **{
            "dossier_id": uuid7(),
            "code": "H32.15-261123-0001",
            "procedure_name": "Đăng ký khai sinh",
            "applicant_id": applicant,
            "receiving_agency": "H32.15",
            "current_agency": "H32.15",
            "state": dossier_pb2.DOSSIER_STATE_RECEIVED,
            "due_time": stamp(DUE),
            "actor_id": OFFICER,
            "actor_agency": "H32.15",
            **more,
        }
    )


def received(applicant: str, **more: Any) -> dossier.DossierReceived:
    return dossier.DossierReceived(dossier=ref(applicant, **more))


async def test_an_event_becomes_a_notice_and_one_mail_in_vietnamese(
    world: World, eventually: Eventually
) -> None:
    account = await world.person("vi")
    event = received(account)
    await world.announce("dossier", event.dossier.dossier_id, event)

    async def sent() -> Any:
        notices = await world.notices(account)
        return notices if notices and notices[0].deliveries[0].state == pb.DELIVERY_STATE_SENT else None

    [notice] = await eventually(sent)
    assert notice.kind == "dossier_received"
    assert notice.group == pb.NOTICE_GROUP_DOSSIER
    assert notice.dossier_id == event.dossier.dossier_id
    assert notice.title == "Hồ sơ H32.15-261123-0001 đã được tiếp nhận"
    assert notice.body == (
        "Lê Thu Hà, UBND phường Nha Trang đã tiếp nhận hồ sơ “Đăng ký khai sinh”.\n"
        "Mã hồ sơ: H32.15-261123-0001\n"
        "Thời gian hẹn trả kết quả: 16:30 ngày 25/11/2026"
    )
    assert [(d.channel, d.attempts) for d in notice.deliveries] == [(pb.NOTICE_CHANNEL_EMAIL, 1)]
    [mail] = world.mailbox.to(f"{account}@example.vn")
    assert mail["Subject"] == notice.title
    assert mail["Content-Language"] == "vi"
    text, html = (mail.get_body((kind,)).get_content() for kind in ("plain", "html"))  # type: ignore[union-attr]
    assert notice.body in text.replace("\r\n", "\n")
    assert f"https://motcua.example/dossiers/{notice.dossier_id}" in text
    assert '<html lang="vi">' in html
    assert "Nguyễn Thị An" not in text + html, "a mail carries no more of the person than it must"


async def test_the_same_event_reads_in_english_for_an_english_account(
    world: World, eventually: Eventually
) -> None:
    account = await world.person("en")
    event = received(account)
    await world.announce("dossier", event.dossier.dossier_id, event)
    [mail] = await eventually(lambda: world.mailbox.to(f"{account}@example.vn"))
    assert mail["Subject"] == "Dossier H32.15-261123-0001 has been received"
    text = mail.get_body(("plain",)).get_content()
    assert (
        "Lê Thu Hà, Nha Trang Ward People's Committee has received the dossier “Đăng ký khai sinh”." in text
    )
    assert "Result due: 16:30 on 25 November 2026" in text


async def test_an_event_that_arrives_twice_makes_one_notice_and_one_mail(
    world: World, eventually: Eventually
) -> None:
    account = await world.person()
    first, last = received(account), received(account)
    id = await world.announce("dossier", first.dossier.dossier_id, first)
    await world.announce("dossier", first.dossier.dossier_id, first, id=id)
    await world.announce("dossier", last.dossier.dossier_id, last)  # events are in order: when this is there…
    await eventually(lambda: len(world.mailbox.to(f"{account}@example.vn")) >= 2)
    notices = await world.notices(account)
    assert sorted(notice.dossier_id for notice in notices) == sorted(
        [first.dossier.dossier_id, last.dossier.dossier_id]
    )
    assert len(world.mailbox.to(f"{account}@example.vn")) == 2


async def test_mail_waits_for_a_server_that_is_down_and_goes_out_when_it_is_back(
    world: World, eventually: Eventually
) -> None:
    await world.mailbox.stop()
    account = await world.person()
    event = received(account)
    await world.announce("dossier", event.dossier.dossier_id, event)

    async def tried() -> Any:
        notices = await world.notices(account)
        return notices and notices[0].deliveries[0].attempts >= 2

    await eventually(tried)
    assert world.mailbox.to(f"{account}@example.vn") == []
    await world.mailbox.start()
    [mail] = await eventually(lambda: world.mailbox.to(f"{account}@example.vn"))
    assert mail["Message-ID"]

    async def sent() -> Any:
        [notice] = await world.notices(account)
        return notice.deliveries[0].state == pb.DELIVERY_STATE_SENT

    await eventually(sent)


async def test_an_address_that_the_server_refuses_for_good_is_not_tried_again(
    world: World, eventually: Eventually
) -> None:
    world.mailbox.answer = "550 no such user"
    account = await world.person()
    event = received(account)
    await world.announce("dossier", event.dossier.dossier_id, event)

    async def failed() -> Any:
        notices = await world.notices(account)
        return notices and notices[0].deliveries[0].state == pb.DELIVERY_STATE_FAILED and notices

    try:
        [notice] = await eventually(failed)
    finally:
        world.mailbox.answer = "250 kept"
    assert notice.deliveries[0].attempts == 1


async def test_mail_that_a_person_switched_off_does_not_go_out_and_the_app_still_shows_it(
    world: World, eventually: Eventually
) -> None:
    account = await world.person()
    off = pb.Preference(group=pb.NOTICE_GROUP_DOSSIER, channel=pb.NOTICE_CHANNEL_EMAIL, enabled=False)
    seen = await world.as_(account, "GetPreferences", pb.GetPreferencesRequest())
    answer = await world.as_(
        account, "SetPreferences", pb.SetPreferencesRequest(preferences=[off], etag=seen.etag)
    )
    assert off in answer.preferences
    event = received(account)
    await world.announce("dossier", event.dossier.dossier_id, event)
    charge = payment.ChargeRef(
        charge_id=uuid7(), dossier_id=event.dossier.dossier_id, dossier_code="H32.15-261123-0001",
        procedure_name="Đăng ký khai sinh", payer_id=account, agency="H32.15", amount=8000, currency="VND",
    )  # fmt: skip
    paid = payment.ReceiptIssued(charge=charge, receipt_id=uuid7(), series="26TAB", number="00000017")
    await eventually(lambda: _count(world, account, 1))
    await world.announce("payment", charge.charge_id, paid)  # another group: still on
    [mail] = await eventually(lambda: world.mailbox.to(f"{account}@example.vn"))
    assert mail["Subject"] == "Biên lai điện tử số 26TAB/00000017"
    assert "8.000 đ" in mail.get_body(("plain",)).get_content()
    receipt, shown = await world.notices(account)
    assert (receipt.charge_id, shown.kind) == (charge.charge_id, "dossier_received")
    assert list(shown.deliveries) == []


async def test_an_account_without_an_address_is_told_in_the_app_alone(
    world: World, eventually: Eventually
) -> None:
    account = await world.person(email="")
    event = received(account)
    await world.announce("dossier", event.dossier.dossier_id, event)
    await eventually(lambda: _count(world, account, 1))
    [notice] = await world.notices(account)
    assert list(notice.deliveries) == []


async def test_a_changed_address_and_language_count_from_then_on(
    world: World, eventually: Eventually
) -> None:
    account = await world.person("vi")
    changed = identity.ProfileChanged(
        account_id=account, name="An", email=f"new-{account}@example.vn", phone="", locale="en"
    )
    await world.announce("identity", account, changed)
    old = identity.ProfileChanged(
        account_id=account, name="An", email=f"old-{account}@example.vn", locale="vi"
    )
    await world.announce("identity", account, old, at=clock.now() - timedelta(days=1))  # late, so ignored
    counter = identity.AccountOpened(account_id=uuid7(), email="", at_counter=True, agency="H32.15")
    await world.announce("identity", counter.account_id, counter)
    await eventually(lambda: _count(world, counter.account_id, 1))  # all of identity's are handled now
    event = received(account)
    await world.announce("dossier", event.dossier.dossier_id, event)
    [mail] = await eventually(lambda: world.mailbox.to(f"new-{account}@example.vn"))
    assert mail["Subject"].startswith("Dossier ")


async def test_an_account_that_no_event_has_told_of_is_asked_for(
    world: World, eventually: Eventually
) -> None:
    account = uuid7()
    world.directory.known[account] = Contact(account, name="Bình", email=f"{account}@example.vn", locale="en")
    event = received(account)
    world.directory.away = True  # and waited for
    await world.announce("dossier", event.dossier.dossier_id, event)
    asked = world.directory.asked
    await eventually(lambda: world.directory.asked > asked)
    world.directory.away = False
    [mail] = await eventually(lambda: world.mailbox.to(f"{account}@example.vn"))
    assert mail["Subject"].startswith("Dossier ")


async def test_reading_notices_lowers_the_counter_and_only_the_owner_can(
    world: World, eventually: Eventually
) -> None:
    account, stranger = await world.person(email=""), await world.person(email="")
    for _ in range(5):
        event = received(account)
        await world.announce("dossier", event.dossier.dossier_id, event)
    await eventually(lambda: _count(world, account, 5))
    newest = await world.notices(account)
    first = await world.as_(account, "ListNotices", pb.ListNoticesRequest(page_size=2))
    assert [notice.id for notice in first.notices] == [notice.id for notice in newest[:2]]
    assert first.unread_count == 5
    rest = await world.as_(
        account, "ListNotices", pb.ListNoticesRequest(page_size=100, page_token=first.next_page_token)
    )
    assert [notice.id for notice in rest.notices] == [notice.id for notice in newest[2:]]
    assert rest.next_page_token == ""

    ids = [notice.id for notice in newest]
    with pytest.raises(NotFound):
        await world.as_(stranger, "MarkNoticesRead", pb.MarkNoticesReadRequest(ids=ids[:1]))
    assert not (await world.as_(stranger, "BatchGetNotices", pb.BatchGetNoticesRequest(ids=ids))).notices
    with pytest.raises(Unauthenticated):
        await world.as_("", "GetUnreadCount", pb.GetUnreadCountRequest(), "")

    marks = [pb.MarkNoticesReadRequest(ids=some) for some in (ids[:2], ids[1:3], ids[:1])]
    await asyncio.gather(*(world.as_(account, "MarkNoticesRead", mark) for mark in marks))
    assert (await world.as_(account, "GetUnreadCount", pb.GetUnreadCountRequest())).unread_count == 2
    unread = await world.as_(account, "ListNotices", pb.ListNoticesRequest(unread_only=True))
    assert [notice.id for notice in unread.notices] == ids[3:]
    everything = await world.as_(account, "MarkNoticesRead", pb.MarkNoticesReadRequest())
    assert everything.unread_count == 0
    assert all(notice.HasField("read_time") for notice in await world.notices(account))


async def test_others_hear_of_new_and_of_read_notices(world: World, eventually: Eventually) -> None:
    account = await world.person(email="")
    heard: list[Message] = []

    async def hear(message: Any) -> None:
        kind = message.headers["ce-type"].rpartition(".")[2]
        made = getattr(notify_events, kind).FromString(message.data)
        if made.recipient_id == account:
            heard.append(made)

    await world.nats.subscribe("motcua.notify.v1.>", cb=hear)
    event = received(account)
    await world.announce("dossier", event.dossier.dossier_id, event)
    await eventually(lambda: heard)
    [notice] = await world.notices(account)
    assert heard == [
        notify_events.NoticeCreated(
            notice_id=notice.id,
            recipient_id=account,
            kind="dossier_received",
            group=pb.NOTICE_GROUP_DOSSIER,
            dossier_id=event.dossier.dossier_id,
        )
    ]
    await world.as_(account, "MarkNoticesRead", pb.MarkNoticesReadRequest(ids=[notice.id]))
    await eventually(lambda: len(heard) == 2)
    assert heard[1] == notify_events.NoticesRead(recipient_id=account, notice_ids=[notice.id])


async def test_preferences_refuse_what_they_cannot_mean(world: World) -> None:
    account = uuid7()
    app_off = pb.Preference(group=pb.NOTICE_GROUP_WORK, channel=pb.NOTICE_CHANNEL_APP, enabled=False)
    with pytest.raises(InvalidInput) as refused:
        await world.as_(account, "SetPreferences", pb.SetPreferencesRequest(preferences=[app_off]))
    assert refused.value.violations[0].reason == "APP_ALWAYS_ON"
    with pytest.raises(InvalidInput):
        await world.as_(account, "SetPreferences", pb.SetPreferencesRequest(preferences=[pb.Preference()]))
    sms = pb.Preference(group=pb.NOTICE_GROUP_PAYMENT, channel=pb.NOTICE_CHANNEL_SMS, enabled=True)
    first = await world.as_(
        account, "SetPreferences", pb.SetPreferencesRequest(request_id="r1", preferences=[sms])
    )
    again = await world.as_(
        account, "SetPreferences", pb.SetPreferencesRequest(request_id="r1", preferences=[sms])
    )
    assert again == first
    with pytest.raises(Exception, match="STALE"):
        await world.as_(account, "SetPreferences", pb.SetPreferencesRequest(preferences=[sms], etag="99"))


async def test_officials_at_the_desk_hear_of_a_new_dossier_and_are_reminded_of_its_deadline(
    world: World, eventually: Eventually
) -> None:
    agency = f"H32.{uuid7()}"
    world.directory.named[agency] = Agency(agency, "UBND xã Diên Khánh")
    receptionist, examiner = await world.person(), await world.person()
    for account, role in ((receptionist, "reception"), (examiner, "examiner")):
        roles = [identity_pb2.Role(agency=agency, name=role)]
        await world.announce("identity", account, identity.RolesChanged(account_id=account, roles=roles))
    counter = identity.AccountOpened(account_id=uuid7(), email="", at_counter=True, agency="H32.15")
    await world.announce("identity", counter.account_id, counter)
    await eventually(lambda: _count(world, counter.account_id, 1))

    applicant = await world.person(email="")
    about = {"dossier_id": uuid7(), "receiving_agency": agency, "current_agency": agency}
    new = {
        "state": dossier_pb2.DOSSIER_STATE_NEWLY_FILED,
        "actor_agency": "",
        "actor_id": applicant,
        "code": "",
    }
    submitted = dossier.DossierSubmitted(dossier=ref(applicant, **about | new))
    await world.announce("dossier", about["dossier_id"], submitted)
    await eventually(lambda: _count(world, receptionist, 1, "official"))

    overdue = stamp(clock.now() - timedelta(hours=1))
    handed = dossier.DossierHandedOff(
        dossier=ref(applicant, **about, due_time=overdue),
        hand_over=dossier_pb2.HandOver(from_agency=agency, to_agency=agency, to_role="examiner"),
    )
    await world.announce("dossier", about["dossier_id"], handed)
    await eventually(lambda: _count(world, examiner, 2, "official"))
    kinds = [notice.kind for notice in await world.notices(examiner, "official")]
    assert kinds == ["desk_overdue", "desk_arrived"]
    assert [n.kind for n in await world.notices(receptionist, "official")] == ["desk_submitted"]


async def test_two_replicas_send_each_mail_once(
    world: World, mongo_url: str, nats_url: str, eventually: Eventually
) -> None:
    other = build(
        world.service.settings.model_copy(update={"nats_url": nats_url, "mongodb_url": mongo_url}),  # type: ignore[arg-type]
        directory=world.directory,
        verifier=Spoken(),
    )
    await other.start()
    accounts = [await world.person() for _ in range(15)]
    try:
        for account in accounts:
            event = received(account)
            await world.announce("dossier", event.dossier.dossier_id, event)

        async def all_sent() -> bool:
            states = [notice.deliveries[0].state for one in accounts for notice in await world.notices(one)]
            return states == [pb.DELIVERY_STATE_SENT] * len(accounts)

        await eventually(all_sent, within=20)
    finally:
        await other.stop()
    assert [len(world.mailbox.to(f"{account}@example.vn")) for account in accounts] == [1] * len(accounts)


async def test_a_mail_whose_sender_died_goes_out_again_as_the_same_mail(mongo_url: str) -> None:
    database = mongo.connect(mongo_url, f"notify_{uuid7()}")
    at = clock.now()
    notices, contacts = store.notices(database, lambda: at), store.contacts(database, lambda: at)
    await contacts.add(Contact("an", email="an@example.vn", as_of=at))
    await notices.add(
        write_notice(
            id=uuid7(), recipient="an", kind="document_deposited", about=About(), locale="vi",
            params={"document": "x"}, title="x", body="x",
            channels=[Channel.EMAIL], at=at,
        )
    )  # fmt: skip
    mailbox = Mailbox()
    await mailbox.start()
    smtp = Smtp("127.0.0.1", mailbox.port, "no-reply@motcua.example", "Một Cửa", "https://motcua.example/")
    worker = Deliveries(notices, contacts, {Channel.EMAIL: smtp}, FakeDirectory(), lambda: at)

    mailbox.answering.clear()
    dying = asyncio.create_task(worker.send_due())
    await mailbox.kept.wait()
    dying.cancel()  # the mail is out; that it is was not recorded
    mailbox.answering.set()
    await asyncio.gather(dying, return_exceptions=True)

    assert await worker.send_due() == 0, "whoever had it may still be at it"
    at += worker.retry.lease
    assert await worker.send_due() == 1
    assert await worker.send_due() == 0
    first, again = mailbox.mails
    assert first["Message-ID"] == again["Message-ID"]
    await mailbox.stop()
    database.client.close()


async def test_the_real_identity_answers_what_notify_asks_it(mongo_url: str, nats_url: str) -> None:
    secret = "notify's own"
    service = build_identity(
        IdentitySettings(
            environment="test",
            mongodb_url=mongo_url,
            mongodb_database=f"identity_{uuid7()}",
            nats_url=nats_url,
            identity_seed=str(SEED),
            service_secrets={"notify": SecretStr(secret)},
            argon2_memory_kib=64,
            argon2_passes=1,
            grace=0,
        )
    )
    await service.start()
    peer = Identity(f"127.0.0.1:{service.port}", secret)
    async with connect(f"127.0.0.1:{service.port}") as channel:
        sign_in = identity_pb2.SignInRequest(identifier="079090000101", password="Motcua@2026")
        answer = await IdentityServiceStub(channel).SignIn(sign_in)
    caller = await peer.verifier().verify(answer.tokens.access_token)
    assert (caller.subject, caller.kind) == (answer.account.id, "citizen")
    unknown = [uuid7() for _ in range(150)]
    [an] = await peer.accounts([caller.subject, *unknown])
    assert (an.id, an.name, an.email) == (caller.subject, "Nguyễn Thị An", "an@example.vn")
    [agency] = await peer.agencies(["H32.15", "H99"])
    assert agency.label("vi") == "UBND phường Nha Trang"
    await peer.close()
    wrong = Identity(f"127.0.0.1:{service.port}", "a guess")
    with pytest.raises(DomainError):
        await wrong.accounts([caller.subject])
    await wrong.close()
    await service.stop()


async def _count(world: World, account: str, wanted: int, kind: str = "citizen") -> bool:
    return len(await world.notices(account, kind)) >= wanted
