"""What each service may say and hear on NATS, with the configuration that the cluster runs."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue
from nats.aio.client import Client

from dev.options import free_port
from dossier.events_in import subscriptions as of_dossier
from kit import clock, consumer, dead
from kit.consumer import DEAD, Consumer, Event, Subscription, measure_dead
from kit.errors import FailedPrecondition
from kit.events import subject
from kit.ids import uuid7
from kit.sessions import Ended, EndedSessions
from motcua.identity.v1.events_pb2 import SessionRevoked
from notify.events_in import subscriptions as of_notify
from ops.prepare import event_steps, run
from payment.events_in import subscriptions as of_payment
from tests.conftest import run_part

Eventually = Callable[..., Awaitable[Any]]
CONF = Path(__file__).parents[2] / "deploy/k8s/base/nats"
NOBODY: Any = None  # no handler runs that would need ports
HEARS: Mapping[str, list[Subscription]] = {
    "identity": [],
    "catalog": [],
    "dossier": of_dossier(NOBODY),
    "payment": of_payment(NOBODY),
    "notify": of_notify(NOBODY),
}
SERVICES = sorted(HEARS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a server with the cluster's users; it is alone, so without the block of the cluster."""
    home, port = tmp_path_factory.mktemp("nats-users"), free_port()
    for file in CONF.glob("*.conf"):
        text = re.sub(r"^cluster \{.*?^\}$", "", file.read_text(), flags=re.DOTALL | re.MULTILINE)
        text = re.sub(r"^(http_port|pid_file|port):.*$", "", text, flags=re.MULTILINE)
        (home / file.name).write_text(text)
    settings = {
        "POD_NAME": "nats-0",
        "JETSTREAM_DIR": f"{home}/store",
        "JETSTREAM_FILES": "1GB",
        "JETSTREAM_MEMORY": "64MB",
        **{
            f"{name.upper()}_PASSWORD": f"'{name}-1e5'"
            for name in (*SERVICES, "gateway", "admin", "cluster", "prepare", "operator")
        },
    }
    command = [str(Path(sys.executable).parent / "nats-server"), "-c", f"{home}/nats.conf"]
    command = ["env", *(f"{key}={value}" for key, value in settings.items()), *command]
    for _ in run_part([*command, "-a", "127.0.0.1", "-p", str(port)], port, home / "log"):
        yield f"127.0.0.1:{port}"


class Connection:
    """A client signed in as a user, and what the server refused it."""

    def __init__(self) -> None:
        self.client = Client()
        self.refused: list[str] = []
        self._said = asyncio.Event()

    async def failed(self, error: Exception) -> None:
        self.refused.append(str(error))
        self._said.set()

    async def refuses(self, action: str, name: str) -> bool:
        """Whether the server refuses to `publish` or `subscribe`; TimeoutError when it says nothing."""
        self.refused.clear()
        self._said.clear()
        await (self.client.publish(name, b"") if action == "publish" else self.client.subscribe(name))
        await asyncio.wait_for(self._said.wait(), 10)
        return any("permissions violation" in said.lower() for said in self.refused)


@asynccontextmanager
async def signed_in(server: str, user: str) -> AsyncIterator[Connection]:
    connection = Connection()
    await connection.client.connect(
        f"nats://{user}:{user}-1e5@{server}", error_cb=connection.failed, inbox_prefix=f"_INBOX.{user}"
    )
    yield connection
    await connection.client.close()


@pytest.fixture
async def streams(server: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """All streams and consumers, as `ops.prepare` makes them; none of them afterwards."""
    monkeypatch.setattr(consumer, "_LOOK", 0.1)
    async with signed_in(server, "admin") as admin:
        jetstream = admin.client.jetstream()
        await run(event_steps(jetstream, 1), 5, lambda line: None)
        yield
        for context in (*SERVICES, DEAD):
            await jetstream.delete_stream(context)


def noting(subscription: Subscription, handled: list[str], *, fail: bool = False) -> Subscription:
    async def handle(event: Event) -> None:
        if fail:
            raise FailedPrecondition("WRONG_STATE")
        handled.append(event.type)

    return replace(subscription, types=dict.fromkeys(subscription.types, handle))


def an_event(kind: type[Message]) -> dict[str, str]:
    id = uuid7()
    return {
        "Nats-Msg-Id": id,
        "ce-id": id,
        "ce-type": kind.DESCRIPTOR.full_name,
        "ce-time": clock.to_text(clock.now()),
    }


async def test_prepare_makes_all_that_services_need_and_corrects_what_differs(server: str) -> None:
    """With the user of its own, whose rights are enough; a second run changes nothing."""
    async with signed_in(server, "prepare") as own, signed_in(server, "admin") as admin:
        told: list[str] = []
        steps = event_steps(own.client.jetstream(), 1)
        await run(steps, 5, told.append)
        assert told[-1] == f"prepared: {len(steps)} steps, {len(steps)} with changes"
        config = (await admin.client.jetstream().stream_info("payment")).config
        await admin.client.jetstream().update_stream(replace(config, duplicate_window=1.0, max_age=60.0))
        told.clear()
        await asyncio.gather(*(run(steps, 5, told.append) for _ in range(3)))
        await run(steps, 5, told.append)
        assert told[-1] == f"prepared: {len(steps)} steps, 0 with changes"
        config = (await admin.client.jetstream().stream_info("payment")).config
        assert (config.duplicate_window, config.max_age) == (120.0, 0.0)
        assert own.refused == []
        for name in (
            "$JS.API.STREAM.DELETE.DEAD",
            "$JS.API.STREAM.PURGE.DEAD",
            "motcua.payment.v1.x.k",
            "dead.x",
        ):
            assert await own.refuses("publish", name), name
        for context in (*SERVICES, DEAD):
            await admin.client.jetstream().delete_stream(context)


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_announces_what_is_its_own_and_nothing_else(server: str, service: str) -> None:
    async with signed_in(server, service) as own:
        await own.client.jetstream().publish(subject(service, "Something", "k1"), b"x")
        assert own.refused == []
        for other in (name for name in SERVICES if name != service):
            assert await own.refuses("publish", subject(other, "Something", "k1"))
            assert await own.refuses("publish", f"dead.{other}-dossier")
        assert await own.refuses("publish", "anything")


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize(
    "heard", [pair for pairs in HEARS.values() for pair in pairs], ids=lambda s: s.durable
)
@pytest.mark.parametrize("fail", [False, True], ids=["handled", "set aside"])
async def test_a_service_handles_and_sets_aside_what_it_hears(
    server: str, heard: Subscription, fail: bool, eventually: Eventually
) -> None:
    service = heard.durable.partition("-")[0]
    handled: list[str] = []
    kinds = list(heard.types)
    async with signed_in(server, service) as own, signed_in(server, heard.stream) as other:
        running = Consumer(own.client, noting(heard, handled, fail=fail))
        tasks = [
            asyncio.create_task(running.run()),
            asyncio.create_task(measure_dead(own.client.jetstream())),
        ]
        for number in range(12):
            kind = kinds[number % len(kinds)]
            name = subject(heard.stream, kind.DESCRIPTOR.name, f"k{number}")
            headers = {**an_event(kind), "Nats-Expected-Stream": heard.stream}
            await other.client.jetstream().publish(name, b"", headers=headers)

        async def done() -> bool:
            dead = (await own.client.jetstream().stream_info(DEAD)).state.messages
            return dead == 12 if fail else len(handled) == 12

        await eventually(done)
        await running.stop()
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert own.refused == []
        assert other.refused == []


APIS = (  # what makes, changes, destroys or reads past a consumer
    *("STREAM.CREATE.{stream}", "STREAM.UPDATE.{stream}", "STREAM.DELETE.{stream}", "STREAM.PURGE.{stream}"),
    *(
        "STREAM.MSG.GET.{stream}",
        "STREAM.MSG.DELETE.{stream}",
        "STREAM.SNAPSHOT.{stream}",
        "STREAM.RESTORE.{stream}",
    ),
    *("DIRECT.GET.{stream}", "DIRECT.GET.{stream}.motcua.>", "STREAM.PEER.REMOVE.{stream}"),
    *("STREAM.LEADER.STEPDOWN.{stream}", "CONSUMER.CREATE.{stream}", "CONSUMER.CREATE.{stream}.mine"),
    *("CONSUMER.CREATE.{stream}.{durable}", "CONSUMER.DURABLE.CREATE.{stream}.{durable}"),
    *("CONSUMER.DELETE.{stream}.{durable}", "CONSUMER.PAUSE.{stream}.{durable}", "CONSUMER.LIST.{stream}"),
    *("CONSUMER.RESET.{stream}.{durable}", "CONSUMER.UNPIN.{stream}.{durable}"),
    *("CONSUMER.LEADER.STEPDOWN.{stream}.{durable}", "STREAM.NAMES", "STREAM.LIST", "ACCOUNT.PURGE.x"),
    *("STREAM.CREATE.mine", "META.LEADER.STEPDOWN", "SERVER.REMOVE"),
)


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_makes_changes_destroys_and_reads_nothing_past_its_consumers(
    server: str, service: str
) -> None:
    """Neither of others nor of its own: that a right is called its own kept nobody from turning it."""
    durables = [(pair.durable, pair.stream) for pairs in HEARS.values() for pair in pairs]
    async with signed_in(server, service) as own:
        for durable, stream in (*durables, ("x", service), ("x", DEAD)):
            for api in APIS:
                name = "$JS.API." + api.format(stream=stream, durable=durable)
                assert await own.refuses("publish", name), name
        for durable, stream in durables:
            for name in (
                f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}",
                f"$JS.API.CONSUMER.INFO.{stream}.{durable}",
                f"$JS.ACK.{stream}.{durable}.1.1.1.1.1",
                f"$JS.ACK._.x.{stream}.{durable}.1.1.1.1.1.x",
                f"dead.{durable}",
            ):
                if durable.partition("-")[0] != service:
                    assert await own.refuses("publish", name), name
        for name in (
            *(">", "motcua.>", "$JS.>", "$JS.API.>", "$JS.EVENT.>", "$SYS.>", "_INBOX.>", "dead.>"),
            *(f"_INBOX.{other}.>" for other in (*SERVICES, "prepare", "operator") if other != service),
            *(f"motcua.{other}.>" for other in SERVICES),
        ):
            assert await own.refuses("subscribe", name), name


@pytest.mark.usefixtures("streams")
async def test_the_operator_looks_into_dead_and_announces_again(server: str) -> None:
    async with signed_in(server, "dossier") as dossier, signed_in(server, "operator") as own:
        jetstream = own.client.jetstream()
        named = {"Nats-Expected-Stream": "dossier"}
        about = {**an_event(StringValue), "Nats-Msg-Id": "first"}
        name = subject("dossier", "DossierSubmitted", "k1")
        done = await dossier.client.jetstream().publish(name, b"x", headers=about | named)
        headers = {**about, "dead-original": f"dossier:{done.seq}", "dead-consumer": "dossier-vault"}
        await dossier.client.jetstream().publish("dead.dossier-vault", b"x", headers=headers)
        [waiting] = await dead.messages(jetstream)
        assert waiting.seq is not None
        await dead.replay(jetstream, waiting.seq)
        assert await dead.messages(jetstream) == []
        assert (await jetstream.stream_info("dossier")).state.messages == 2
        again = await jetstream.get_msg("dossier", done.seq + 1)
        assert (again.data, (again.headers or {})["ce-id"]) == (b"x", about["ce-id"])
        assert own.refused == []
        for name in ("$JS.API.STREAM.PURGE.DEAD", "$JS.API.STREAM.MSG.DELETE.dossier", "dead.x"):
            assert await own.refuses("publish", name), name


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize("service", [*SERVICES, "gateway"])
async def test_everybody_hears_which_sessions_have_ended(
    server: str, service: str, eventually: Eventually
) -> None:
    async def nothing() -> list[Ended]:
        return []

    ended = EndedSessions(nothing)
    session = uuid7()
    message = SessionRevoked(session_id=session)
    message.revoke_time.GetCurrentTime()
    async with signed_in(server, service) as own, signed_in(server, "identity") as identity:
        await ended.listen(own.client)
        await own.client.flush()
        name = subject("identity", "SessionRevoked", session)
        headers = {"Nats-Expected-Stream": "identity"}
        await identity.client.jetstream().publish(name, message.SerializeToString(), headers=headers)
        await eventually(lambda: ended.over(session, "", 0))
        assert own.refused == []


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize("service", SERVICES)
async def test_no_answer_that_a_service_wants_does_what_it_may_not(server: str, service: str) -> None:
    """NATS asks nobody whether they may publish on the subject where they want an answer, and takes what it
    sends there for its own: an answer that says nothing deletes a stream, an event ends sessions."""
    fetch = json.dumps({"batch": 9, "expires": 500_000_000, "group": "one"}).encode()
    own_pairs = HEARS[service]
    asked = [(subject(service, "Something", "k1"), b"x"), (f"$JS.API.STREAM.INFO.{service}", b"")]
    for pair in own_pairs:
        for name in pair.durables:
            asked.append((f"$JS.API.CONSUMER.MSG.NEXT.{pair.stream}.{name}", fetch))
            asked.append((f"$JS.ACK.{pair.stream}.{name}.1.1.1.1.1", b"+ACK"))
    wanted = [f"$JS.API.STREAM.{verb}.{name}" for verb in ("PURGE", "DELETE") for name in (*SERVICES, DEAD)]
    wanted += ["$JS.API.CONSUMER.DELETE.dossier.payment-charges", "$JS.API.STREAM.CREATE.mine"]
    elsewhere = next(name for name in SERVICES if name != service)
    if own_pairs:  # the answers to others are JSON, which no service takes for an announcement
        wanted += [subject(elsewhere, "SessionsEnded", "victim"), "dead.mine"]
    heard: list[str] = []

    async def hear(message: Any) -> None:
        heard.append(message.subject)

    async with signed_in(server, "admin") as admin, signed_in(server, service) as own:
        jetstream = admin.client.jetstream()
        for stream in SERVICES:
            await jetstream.publish(subject(stream, "Something", "k1"), b"x")
        for pair in own_pairs:
            for kind in pair.types:
                await jetstream.publish(subject(pair.stream, kind.DESCRIPTOR.name, "k1"), b"x")
        before = {name: (await jetstream.stream_info(name)).state.messages for name in (*SERVICES, DEAD)}
        for address in wanted:
            await admin.client.subscribe(address, cb=hear)
        await admin.client.flush()
        for address in wanted:
            for name, body in asked:
                await own.client.publish(name, body, address)
            await own.client.flush()
        await asyncio.sleep(1)  # what must not happen has no end to wait for
        after = {name: (await jetstream.stream_info(name)).state.messages for name in (*SERVICES, DEAD)}
        before[service] += len(wanted)
        assert after == before
        await jetstream.consumer_info("dossier", "payment-charges")
        assert own_pairs == [] or heard == []


@pytest.mark.usefixtures("streams")
async def test_the_gateway_only_listens(server: str, eventually: Eventually) -> None:
    heard: list[str] = []

    async def hear(message: Any) -> None:
        heard.append(message.subject)

    async with signed_in(server, "gateway") as gateway, signed_in(server, "dossier") as dossier:
        await gateway.client.subscribe("motcua.dossier.v1.>", cb=hear)
        await gateway.client.subscribe("motcua.notify.v1.notice_created.>", cb=hear)
        await gateway.client.flush()
        await dossier.client.jetstream().publish(subject("dossier", "DossierSubmitted", "k1"), b"")
        await eventually(lambda: heard)
        assert gateway.refused == []
        for name in ("motcua.dossier.v1.x.y", "motcua.notify.v1.x.y", "$JS.API.STREAM.INFO.dossier", "x"):
            assert await gateway.refuses("publish", name), name
        for name in (">", "motcua.payment.v1.>", "motcua.identity.>", "_INBOX.>"):
            assert await gateway.refuses("subscribe", name), name


@pytest.mark.parametrize("url", ["nats://{}", "nats://notify:dossier-1e5@{}", "nats://root:root@{}"])
async def test_who_is_not_known_does_not_come_in(server: str, url: str) -> None:
    async def quiet(error: Exception) -> None: ...

    with pytest.raises((nats.errors.Error, OSError)):
        await nats.connect(url.format(server), allow_reconnect=False, error_cb=quiet)
