"""The worker: claims, sends, records; and what is sent again after a crash is recognisably the same mail."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from kit.errors import Unavailable
from notify.domain.delivery import ACCEPTED, Outcome, Retry, State, Step
from notify.domain.kinds import KINDS, About, Channel, Secret
from notify.domain.notice import Notice, write_notice
from notify.handlers import Ports, reach
from notify.worker import Deliveries

RETRY = Retry(attempts=3, first=timedelta(seconds=10), lease=timedelta(seconds=60))


class FakeSender:
    def __init__(self, *outcomes: Outcome | Exception) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[tuple[str, str]] = []
        self.secrets: list[Secret] = []

    async def send(self, notice: Notice, address: str, secret: Secret | None = None) -> Outcome:
        self.sent.append((notice.id, address))
        self.secrets += [secret] if secret else []
        await asyncio.sleep(0)
        outcome = self.outcomes.pop(0) if self.outcomes else ACCEPTED
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def a_notice(
    ports: Ports, id: str = "n1", channels: Any = (Channel.EMAIL,), addresses: Any = None
) -> None:
    await reach(ports, "an", at=ports.now(), email="an@example.vn", phone="", locale="vi", name="An")
    await ports.notices.create(
        lambda known: write_notice(
            id=known,
            recipient="an",
            kind="document_deposited",
            about=About(),
            locale="vi",
            params=dict.fromkeys(KINDS["document_deposited"].params, "x"),
            title="x",
            body="x",
            channels=channels,
            at=ports.now(),
            addresses=addresses,
        ),
        id=id,
    )


def worker(ports: Ports, sender: FakeSender | None) -> Deliveries:
    senders: Any = {} if sender is None else {Channel.EMAIL: sender}
    return Deliveries(
        ports.notices, ports.contacts, senders, ports.directory, ports.now, RETRY, jitter=lambda: 0.999
    )


async def delivery(ports: Ports, id: str = "n1", channel: Channel = Channel.EMAIL) -> Any:
    notice = await ports.notices.find(id)
    assert notice is not None
    return notice.deliveries[channel]


async def test_what_is_due_is_sent_to_the_address_of_now(ports: Ports, time: Any) -> None:
    await a_notice(ports)
    await reach(ports, "an", at=time(), email="new@example.vn", phone="", locale="vi")
    sender = FakeSender()
    assert await worker(ports, sender).send_due() == 1
    assert sender.sent == [("n1", "new@example.vn")]
    assert (await delivery(ports)).state is State.SENT
    assert await worker(ports, sender).send_due() == 0


async def test_a_notice_of_a_changed_address_goes_to_the_old_one(ports: Ports, time: Any) -> None:
    await a_notice(ports, addresses={Channel.EMAIL: "old@example.vn"})
    await reach(ports, "an", at=time(), email="new@example.vn", phone="", locale="vi")
    sender = FakeSender()
    assert await worker(ports, sender).send_due() == 1
    assert sender.sent == [("n1", "old@example.vn")]


async def test_two_workers_that_see_the_same_delivery_send_it_once(ports: Ports) -> None:
    await a_notice(ports)
    sender = FakeSender()
    first, second = worker(ports, sender), worker(ports, sender)
    await asyncio.gather(first.deliver("n1"), second.deliver("n1"), first.deliver("n1"))
    assert len(sender.sent) == 1


async def test_a_deferred_mail_is_tried_again_when_its_time_has_come(ports: Ports, time: Any) -> None:
    await a_notice(ports)
    sender = FakeSender(Outcome(Step.DEFER, "connection"))
    work = worker(ports, sender)
    await work.send_due()
    assert await work.send_due() == 0
    time.pass_(seconds=10)
    await work.send_due()
    assert len(sender.sent) == 2
    assert (await delivery(ports)).attempts == 2


async def test_a_fault_of_ours_in_one_mail_does_not_keep_the_others_from_going_out(ports: Ports) -> None:
    await a_notice(ports, "n1")
    await a_notice(ports, "n2")
    sender = FakeSender(RuntimeError("fault"))
    await worker(ports, sender).send_due()
    states = [(await delivery(ports, id)).state for id in ("n1", "n2")]
    assert sorted(states) == [State.PENDING, State.SENT]
    assert "fault_RuntimeError" in {(await delivery(ports, id)).error for id in ("n1", "n2")}


async def test_after_a_crash_before_the_record_the_same_notice_is_sent_again_once_the_lease_is_over(
    ports: Ports, time: Any
) -> None:
    await a_notice(ports)
    sender = FakeSender()
    notices: Any = ports.notices

    class Dying(FakeSender):
        async def send(self, notice: Notice, address: str, secret: Secret | None = None) -> Outcome:
            outcome = await sender.send(notice, address)
            notices.fail = Unavailable("DATABASE_UNAVAILABLE")  # it went out, and cannot be recorded
            return outcome

    try:
        await worker(ports, Dying()).send_due()
    except Unavailable:
        notices.fail = None
    work = worker(ports, sender)
    assert await work.send_due() == 0, "the lease still holds it"
    time.pass_(seconds=60)
    await work.send_due()
    assert sender.sent == [("n1", "an@example.vn")] * 2, "under one Message-ID"
    assert (await delivery(ports)).state is State.SENT


async def test_a_channel_that_was_switched_off_or_an_address_that_is_gone_ends_the_delivery(
    ports: Ports, time: Any
) -> None:
    await a_notice(ports, "n1")
    await worker(ports, None).send_due()
    assert ((await delivery(ports)).state, (await delivery(ports)).error) == (State.FAILED, "channel_off")
    await a_notice(ports, "n2")
    await reach(ports, "an", at=time(), email="", phone="", locale="vi")
    await worker(ports, FakeSender()).send_due()
    assert (await delivery(ports, "n2")).error == "no_address"


async def test_a_running_worker_is_woken_and_survives_a_database_that_is_away(
    ports: Ports, eventually: Any
) -> None:
    sender = FakeSender()
    work = worker(ports, sender)
    work.poll = 0.01
    notices: Any = ports.notices
    page, calls = notices.page, 0

    async def flaky(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Unavailable("DATABASE_UNAVAILABLE")
        return await page(*args, **kwargs)

    notices.page = flaky
    running = asyncio.create_task(work.run())
    await a_notice(ports)
    work.wake()
    await eventually(lambda: sender.sent)
    running.cancel()
    assert sender.sent == [("n1", "an@example.vn")]


async def test_a_worker_that_is_stopped_ends_and_records_what_it_has_begun(ports: Ports) -> None:
    await a_notice(ports)
    begun, go = asyncio.Event(), asyncio.Event()

    class Slow(FakeSender):
        async def send(self, notice: Notice, address: str, secret: Secret | None = None) -> Outcome:
            begun.set()
            await go.wait()
            return ACCEPTED

    running = asyncio.create_task(worker(ports, Slow()).run())
    await begun.wait()
    running.cancel()
    go.set()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    assert (await delivery(ports)).state is State.SENT


async def asked(ports: Ports, kind: str, channel: Channel) -> None:
    """A notice with a secret, as asking for one makes it."""
    await ports.notices.create(
        lambda known: write_notice(
            id=known,
            recipient="an",
            kind=kind,
            about=About(),
            locale="vi",
            params={"at": "x"},
            title="x",
            body="x",
            channels=[channel],
            at=ports.now(),
        ),
        id="n1",
    )


async def test_a_secret_is_made_when_it_is_sent_goes_where_identity_says_and_is_kept_nowhere(
    ports: Ports, directory: Any
) -> None:
    await asked(ports, "password_reset", Channel.EMAIL)
    directory.secrets["an", "recover", Channel.EMAIL] = ("verified@example.vn", "s3cret")
    sender = FakeSender()
    assert await worker(ports, sender).send_due() == 1
    assert sender.sent == [("n1", "verified@example.vn")]
    assert [(one.text, one.page) for one in sender.secrets] == [("s3cret", "quen-mat-khau#s3cret")]
    assert "s3cret" not in repr(await ports.notices.find("n1"))


async def test_a_secret_that_is_not_to_be_sent_ends_the_delivery(ports: Ports) -> None:
    await asked(ports, "password_reset", Channel.EMAIL)
    await reach(ports, "an", at=ports.now(), email="an@example.vn", phone="", locale="vi")
    sender = FakeSender()
    await worker(ports, sender).send_due()
    state = await delivery(ports)
    assert (sender.sent, state.state, state.error) == ([], State.FAILED, "not_asked")


async def test_a_secret_waits_for_identity(ports: Ports, directory: Any, time: Any) -> None:
    await asked(ports, "email_verification", Channel.EMAIL)
    directory.secrets["an", "verify_email", Channel.EMAIL] = ("an@example.vn", "s3cret")
    directory.away = True
    sender = FakeSender()
    await worker(ports, sender).send_due()
    state = await delivery(ports)
    assert (sender.sent, state.state, state.error) == ([], State.PENDING, "unavailable")
    directory.away = False
    time.at = state.due
    await worker(ports, sender).send_due()
    assert sender.sent == [("n1", "an@example.vn")]
