"""A service whose password is stolen has NATS deliver its own events in the name of another service."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import nats
import pytest
from google.protobuf.message import Message
from nats.aio.client import Client

from dev.options import free_port
from gateway.live import Live
from kit import clock
from kit.consumer import DEAD, Consumer, Event, Subscription
from kit.events import subject
from kit.ids import uuid7
from kit.streams import provision_consumer, provision_stream
from motcua.dossier.v1.events_pb2 import DossierSubmitted
from motcua.notify.v1.events_pb2 import NoticeCreated
from motcua.payment.v1.events_pb2 import ChargePaid
from tests.conftest import run_part

Eventually = Callable[..., Awaitable[Any]]
CONF = Path(__file__).parents[2] / "deploy/k8s/base/nats"
USERS = (
    *("identity", "catalog", "dossier", "payment", "notify"),
    *("gateway", "admin", "cluster", "prepare", "operator"),
)
TAKEN = {"Nats-Expected-Stream": "payment"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home, port = tmp_path_factory.mktemp("nats-forged"), free_port()
    for file in CONF.glob("*.conf"):
        text = re.sub(r"^cluster \{.*?^\}$", "", file.read_text(), flags=re.DOTALL | re.MULTILINE)
        text = re.sub(r"^(http_port|pid_file|port):.*$", "", text, flags=re.MULTILINE)
        (home / file.name).write_text(text)
    told = {"POD_NAME": "nats-0", "JETSTREAM_DIR": f"{home}/store", "JETSTREAM_FILES": "1GB"}
    told |= {"JETSTREAM_MEMORY": "64MB", **{f"{name.upper()}_PASSWORD": f"'{name}-1e5'" for name in USERS}}
    command = [str(Path(sys.executable).parent / "nats-server"), "-c", f"{home}/nats.conf"]
    command = ["env", *(f"{key}={value}" for key, value in told.items()), *command]
    for _ in run_part([*command, "-a", "127.0.0.1", "-p", str(port)], port, home / "log"):
        yield f"127.0.0.1:{port}"


@asynccontextmanager
async def signed_in(server: str, user: str) -> AsyncIterator[Client]:
    async def quiet(error: Exception) -> None: ...

    url = f"nats://{user}:{user}-1e5@{server}"
    client = await nats.connect(url, error_cb=quiet, inbox_prefix=f"_INBOX.{user}")
    yield client
    await client.close()


class Scene:
    """Streams of dossier and payment; notify listens to payment's, and dossier's password is stolen."""

    def __init__(self, admin: Client, thief: Client, victim: Client) -> None:
        self.admin, self.thief, self.victim = admin, thief, victim
        self.handled: list[str] = []
        self.jetstream = admin.jetstream()

    def subscription(self, durable: str, stream: str, kind: type[Message]) -> Subscription:
        async def handle(event: Event) -> None:
            self.handled.append(event.message.payment_id)

        return Subscription(durable, stream, {kind: handle})

    async def publish(self, name: str, block: bytes, data: bytes) -> None:
        """As the thief, with a block of headers that no client library would send."""
        await self.thief.flush()
        sizes = f"{len(block)} {len(block) + len(data)}"
        await self.thief._send_command(f"HPUB {name} {sizes}\r\n".encode() + block + data + b"\r\n")
        await self.thief.flush()

    async def divert(self, target: str) -> None:
        """Has what is in the thief's own stream delivered to the subject of another."""
        for number in range(4):
            durable = "dossier-vault" + (f"-{number}" if number else "")
            name = f"$JS.API.CONSUMER.INFO.dossier.{durable}"
            info = json.loads((await self.admin.request(name, b"", timeout=5)).data)
            if "config" not in info:
                continue
            groups = info["config"].get("priority_groups")
            asked = {"batch": 1, "no_wait": True, **({"group": groups[0]} if groups else {})}
            name = f"$JS.API.CONSUMER.MSG.NEXT.dossier.{durable}"
            await self.thief.publish(name, json.dumps(asked).encode(), reply=target)
        await self.thief.flush()


@pytest.fixture
async def scene(server: str) -> AsyncIterator[Scene]:
    async with (
        signed_in(server, "admin") as admin,
        signed_in(server, "dossier") as thief,
        signed_in(server, "notify") as victim,
    ):
        made = Scene(admin, thief, victim)
        for name in ("dossier", "payment", "identity", DEAD):
            await provision_stream(made.jetstream, name)
        heard = made.subscription("notify-payment", "payment", ChargePaid)
        await provision_consumer(made.jetstream, heard)
        own = made.subscription("dossier-vault", "dossier", DossierSubmitted)
        await provision_consumer(made.jetstream, own)
        running = Consumer(victim, heard)
        task = asyncio.create_task(running.run())
        yield made
        await running.stop(grace=0.1)
        await asyncio.gather(task, return_exceptions=True)
        for name in ("dossier", "payment", "identity", DEAD):
            await made.jetstream.delete_stream(name)


def forged(**more: str) -> dict[str, str]:
    id = uuid7()
    told = {"Nats-Msg-Id": id, "ce-id": id, "ce-type": ChargePaid.DESCRIPTOR.full_name}
    return {**told, "ce-time": clock.to_text(clock.now()), **more}


def block(*lines: str) -> bytes:
    told = [f"{key}: {value}" for key, value in forged().items()]
    return "\r\n".join(["NATS/1.0", *lines, *told, "", ""]).encode()


TARGET = subject("payment", "ChargePaid", "x")
OWN = subject("dossier", "DossierSubmitted", "k1")
FORGED = ChargePaid(payment_id="forged").SerializeToString()


async def let_true_one_through(scene: Scene, eventually: Eventually) -> None:
    """A true event after the forged one, of the same aggregate: once it is handled, all before it is done."""
    true = ChargePaid(payment_id="true").SerializeToString()
    headers = forged(**TAKEN)
    await scene.jetstream.publish(TARGET, true, headers=headers)
    await eventually(lambda: "true" in scene.handled, within=20)


async def test_no_service_has_its_own_event_count_as_one_of_another(
    scene: Scene, eventually: Eventually
) -> None:
    await scene.thief.jetstream().publish(OWN, FORGED, headers=forged())
    await scene.divert(TARGET)
    await let_true_one_through(scene, eventually)
    assert scene.handled == ["true"]


@pytest.mark.proof("9.11")
async def test_no_service_has_what_it_set_aside_replayed_as_an_event_of_another(
    scene: Scene, eventually: Eventually
) -> None:
    from kit import dead

    headers = forged(**{"dead-subject": TARGET, "dead-consumer": "notify-payment", "dead-reason": "AWAY"})
    await scene.thief.jetstream().publish("dead.dossier-payments", FORGED, headers=headers)
    for message in await dead.messages(scene.jetstream):
        with suppress(*([dead.NotReplayed] if hasattr(dead, "NotReplayed") else [])):
            await dead.replay(scene.jetstream, message.seq or 0)
    await let_true_one_through(scene, eventually)
    assert scene.handled == ["true"]


@pytest.mark.proof("9.11")
async def test_no_service_has_the_gateway_tell_people_what_it_made_up(scene: Scene, server: str) -> None:
    live = Live()
    await live.start(f"nats://gateway:gateway-1e5@{server}")
    try:
        async with live.watch_notices("an") as arriving:
            await scene.admin.flush()
            assert live._client is not None
            await live._client.flush()
            made_up = NoticeCreated(recipient_id="an", notice_id="forged").SerializeToString()
            name = subject("notify", "NoticeCreated", "an")
            await scene.thief.jetstream().publish(OWN, made_up, headers=forged())
            await scene.divert(name)
            true = NoticeCreated(recipient_id="an", notice_id="true").SerializeToString()
            await scene.admin.publish(name, true, headers={"Nats-Expected-Stream": "notify"})
            assert await asyncio.wait_for(anext(arriving), 20) == "true"
    finally:
        await live.stop()


async def test_an_answer_as_an_event_is_set_aside_and_counted(
    scene: Scene, server: str, eventually: Eventually
) -> None:
    from kit import dead, origin
    from kit.telemetry import EVENTS_FOREIGN

    before = EVENTS_FOREIGN._value.get()
    async with signed_in(server, "identity") as thief:  # it has no NATS account of its own, as dossier has
        await thief.publish("$JS.API.STREAM.INFO.identity", b"", reply=TARGET)
        await thief.flush()
    await eventually(lambda: EVENTS_FOREIGN._value.get() == before + 1, within=20)
    [message] = await dead.messages(scene.jetstream)
    assert (message.headers or {})["dead-reason"] == origin.FOREIGN
    with pytest.raises(dead.NotReplayed, match="it is not an event of payment"):
        await dead.replay(scene.jetstream, message.seq or 0)
    assert len(await dead.messages(scene.jetstream)) == 1


@pytest.mark.parametrize(
    ("lines", "stored"),
    [
        (("Nats-Expected-Stream: identity",), False),
        (("Nats-Expected-Stream:identity",), False),
        (("Nats-Expected-Stream: identity", "Nats-Expected-Stream: dossier"), False),
        (("Nats-Expected-Stream: dossier", "Nats-Expected-Stream: identity"), True),
        (("Nats-Expected-Stream : identity",), True),
        ((" Nats-Expected-Stream: identity",), True),
        (("nats-expected-stream: identity",), True),
        (("X: Nats-Expected-Stream: x", "Nats-Expected-Stream: identity"), None),
        (("X: y\nNats-Expected-Stream: identity",), True),
        (("X: y\rNats-Expected-Stream: identity",), True),
        (("Nats-Expected-Stream:\tidentity",), None),
        (("Nats-Expected-Stream: identity\t",), None),
    ],
)
async def test_no_spelling_of_the_header_ends_a_session(
    scene: Scene, lines: tuple[str, ...], stored: bool | None, eventually: Eventually
) -> None:
    """`stored`: whether JetStream takes it into the thief's stream; None where that may be as it likes."""
    from kit.sessions import EndedSessions
    from motcua.identity.v1.events_pb2 import SessionsEnded

    def ending(account: str) -> bytes:
        message = SessionsEnded(account_id=account, epoch=9)
        message.end_time.GetCurrentTime()
        return message.SerializeToString()

    async def nothing() -> list[Any]:
        return []

    ended = EndedSessions(nothing)
    await ended.listen(scene.victim)
    await scene.victim.flush()
    await scene.publish(OWN, block(*lines), ending("forged"))
    await scene.thief.jetstream().publish(OWN + "2", b"", headers=forged())  # it is stored in any case
    state = (await scene.jetstream.stream_info("dossier")).state
    assert stored is None or state.messages == 1 + stored
    name = subject("identity", "SessionsEnded", "x")
    for _ in range(3):
        await scene.divert(name)
    headers = {"Nats-Expected-Stream": "identity"}
    await scene.jetstream.publish(name, ending("true"), headers=headers)
    await eventually(lambda: ended.over("s", "true", 1))
    assert not ended.over("s", "forged", 1)


async def test_a_true_event_does_not_count_on_another_subject(scene: Scene, eventually: Eventually) -> None:
    from kit import origin

    other = subject("payment", "ChargePaid", "y")
    data = ChargePaid(payment_id="diverted").SerializeToString()
    await scene.jetstream.publish(TARGET, data, headers=forged(**TAKEN, **{origin.SUBJECT: other}))
    await let_true_one_through(scene, eventually)
    assert scene.handled == ["true"]


async def test_the_header_stays_in_the_stored_message(scene: Scene) -> None:
    done = await scene.jetstream.publish(TARGET, b"", headers=forged(**TAKEN))
    stored = await scene.jetstream.get_msg("payment", done.seq)
    assert (stored.headers or {})["Nats-Expected-Stream"] == "payment"


@pytest.mark.parametrize(
    "more",
    [
        {"Nats-Rollup": "all"},
        {"Nats-Rollup": "sub"},
        {"Nats-TTL": "1s"},
        {"Nats-Expected-Last-Sequence": "0"},
        {"Nats-Expected-Last-Msg-Id": ""},
        {"Nats-Pin-Id": "x"},
        {"Nats-Trace-Dest": TARGET},
        {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": TARGET},
        {"Status": "409"},
    ],
    ids=str,
)
async def test_instructions_to_jetstream_in_an_event_harm_nobody_else(
    scene: Scene, more: dict[str, str], eventually: Eventually
) -> None:
    lines = [f"{key}: {value}" for key, value in more.items()]
    await scene.publish(OWN, block(*lines), FORGED)
    await scene.divert(TARGET)
    await let_true_one_through(scene, eventually)
    assert scene.handled == ["true"]
    kept = (await scene.jetstream.stream_info("payment")).state
    assert kept.first_seq == 1  # nothing was taken away


async def test_an_event_with_a_status_of_its_own_stops_no_consumer(
    scene: Scene, eventually: Eventually
) -> None:
    """By the service itself, in its own stream."""
    told = block("Nats-Expected-Stream: dossier").replace(b"NATS/1.0", b"NATS/1.0 409 Consumer Deleted", 1)
    told = told.replace(
        ChargePaid.DESCRIPTOR.full_name.encode(), DossierSubmitted.DESCRIPTOR.full_name.encode()
    )
    await scene.publish(OWN, told, b"")
    heard = scene.subscription("notify-dossier", "dossier", DossierSubmitted)
    await provision_consumer(scene.jetstream, heard)
    running = Consumer(scene.victim, heard)
    task = asyncio.create_task(running.run())

    async def settled() -> bool:
        found = [await scene.jetstream.consumer_info("dossier", name) for name in heard.durables]
        return sum((one.num_pending or 0) + (one.num_ack_pending or 0) for one in found) == 0

    await eventually(settled, within=20)
    await running.stop(grace=0.1)
    await asyncio.gather(task, return_exceptions=True)


async def test_nobody_hides_an_event_of_another_from_dead_by_its_id(
    scene: Scene, eventually: Eventually
) -> None:
    from kit import dead

    for number in range(1, 4):
        told = {"Nats-Msg-Id": f"notify-payment:payment:{number}"}
        await scene.thief.jetstream().publish("dead.dossier-payments", b"", headers=told)
    headers = forged(**TAKEN, **{"ce-time": "not a time"})
    await scene.jetstream.publish(TARGET, FORGED, headers=headers)

    async def kept() -> bool:
        found = await dead.messages(scene.jetstream)
        return any((one.headers or {}).get("ce-id") == headers["ce-id"] for one in found)

    await eventually(kept, within=20)
