"""Subscriptions over WebSocket and SSE, fed by real NATS."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import nats
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from kit.errors import Forbidden
from kit.ids import uuid7
from motcua.identity.v1.events_pb2 import SessionsEnded
from motcua.notify.v1.events_pb2 import NoticeCreated

CHANGED = "subscription ($id: ID!) { dossierChanged(id: $id) { id code state } }"
NOTICES = "subscription { notices { id title } }"
ID = b64encode(b"Dossier:dossier-1").decode()
PROTOCOL = Subprotocol("graphql-transport-ws")


@pytest.fixture(scope="module")
async def live(serving: Any, settings_for: Any, nats_url: str) -> AsyncIterator[Any]:
    """A gateway that hears events."""
    async with serving(settings_for(nats_url=nats_url, allowed_origins="https://app.example.vn")) as gateway:
        async with asyncio.timeout(10):
            while (await gateway.http.get("/status")).status_code != 200:  # noqa: ASYNC110 - it says so only when asked
                await asyncio.sleep(0.05)
        yield gateway


@pytest.fixture(scope="module")
async def publish(nats_url: str) -> AsyncIterator[Callable[..., Any]]:
    client = await nats.connect(nats_url)

    async def send(subject: str, payload: bytes = b"") -> None:
        await client.publish(subject, payload, headers={"Nats-Expected-Stream": subject.split(".")[1]})
        await client.flush()

    yield send
    await client.close()


@asynccontextmanager
async def socket(gateway: Any, bearer: str | None, **kwargs: Any) -> AsyncIterator[ClientConnection]:
    """An acknowledged socket."""
    url = gateway.url.replace("http", "ws") + "/graphql"
    async with connect(url, subprotocols=[PROTOCOL], **kwargs) as opened:
        payload = {"authorization": f"Bearer {bearer}"} if bearer else {}
        await opened.send(json.dumps({"type": "connection_init", "payload": payload}))
        assert await receive(opened) == {"type": "connection_ack"}
        yield opened


async def receive(opened: ClientConnection) -> Any:
    async with asyncio.timeout(5):
        return json.loads(await opened.recv())


async def subscribe(opened: ClientConnection, number: str, query: str, **variables: Any) -> None:
    payload = {"query": query, "variables": variables}
    await opened.send(json.dumps({"id": number, "type": "subscribe", "payload": payload}))


async def closed(opened: ClientConnection) -> int:
    async with asyncio.timeout(5):
        await opened.wait_closed()
    return opened.close_code or 0


async def test_a_dossier_is_sent_at_once_and_after_each_change(
    live: Any, fakes: Any, issue: Any, publish: Any
) -> None:
    async with socket(live, issue()) as opened:
        await subscribe(opened, "1", CHANGED, id=ID)
        first = await receive(opened)
        assert first["payload"]["data"]["dossierChanged"] == {
            "id": ID,
            "code": "H32.15-261121-0001",
            "state": "IN_PROCESS",
        }
        await publish("motcua.dossier.v1.dossier_received.dossier-1")
        assert (await receive(opened))["type"] == "next"
        await publish("motcua.dossier.v1.dossier_received.dossier-2")
        await publish("motcua.dossier.v1.step_completed.dossier-1")
        assert (await receive(opened))["id"] == "1"
        assert fakes.calls["GetDossier"] == 3


async def test_the_right_to_see_it_is_checked_at_the_start(live: Any, fakes: Any, issue: Any) -> None:
    async with socket(live, issue("account-binh")) as opened:
        await subscribe(opened, "1", CHANGED, id=ID)
        answer = await receive(opened)
        assert answer["type"] == "error"
        assert answer["payload"][0]["extensions"] == {"code": "FORBIDDEN", "reason": "NOT_YOUR_DOSSIER"}


async def test_the_right_to_see_it_is_checked_at_every_event(
    live: Any, fakes: Any, issue: Any, publish: Any
) -> None:
    async with socket(live, issue()) as opened:
        await subscribe(opened, "1", CHANGED, id=ID)
        await receive(opened)
        fakes.fail["GetDossier"] = Forbidden("NOT_YOUR_DOSSIER")
        await publish("motcua.dossier.v1.dossier_handed_off.dossier-1")
        answer = await receive(opened)
        assert (answer["type"], answer["payload"][0]["extensions"]["code"]) == ("error", "FORBIDDEN")


async def test_notices_go_to_whom_they_are_for(live: Any, fakes: Any, issue: Any, publish: Any) -> None:
    async with socket(live, issue()) as an, socket(live, issue("account-binh")) as binh:
        await subscribe(an, "1", NOTICES)
        await subscribe(binh, "1", NOTICES)
        for ping in (an, binh):  # a pong says that what was sent before is under way
            await ping.send(json.dumps({"type": "ping"}))
            assert await receive(ping) == {"type": "pong"}
        event = NoticeCreated(notice_id="notice-9", recipient_id="account-an").SerializeToString()
        await publish("motcua.notify.v1.notice_created.notice-9", event)
        answer = await receive(an)
        assert answer["payload"]["data"]["notices"]["title"] == "Đã tiếp nhận"
        event = NoticeCreated(notice_id="notice-10", recipient_id="account-binh").SerializeToString()
        await publish("motcua.notify.v1.notice_created.notice-10", event)
        answer = await receive(binh)
        assert answer["payload"]["data"]["notices"]["id"] == b64encode(b"Notice:notice-10").decode()


async def test_an_expired_token_ends_the_stream(live: Any, fakes: Any, issue: Any) -> None:
    async with socket(live, issue(seconds=1)) as opened:
        await subscribe(opened, "1", NOTICES)
        answer = await receive(opened)
        assert answer["type"] == "error"
        assert answer["payload"][0]["extensions"]["reason"] == "TOKEN_EXPIRED"
        assert await closed(opened) == 4401


async def test_an_ended_session_ends_sockets_and_streams(
    live: Any, fakes: Any, issue: Any, publish: Any
) -> None:
    account = f"account-{uuid7()}"
    bearer = issue(account)
    headers = {"accept": "text/event-stream", "authorization": f"Bearer {bearer}"}
    streaming = live.http.stream("POST", "/graphql", json={"query": NOTICES}, headers=headers)
    async with socket(live, bearer) as opened, socket(live, issue()) as other, streaming as stream:
        await subscribe(opened, "1", NOTICES)
        await opened.send(json.dumps({"type": "ping"}))
        assert await receive(opened) == {"type": "pong"}
        lines = stream.aiter_lines()
        assert await anext(lines) == ":"
        event = SessionsEnded(account_id=account, epoch=1)
        event.end_time.GetCurrentTime()
        await publish(f"motcua.identity.v1.sessions_ended.{account}", event.SerializeToString())
        answer = await receive(opened)
        assert answer["payload"][0]["extensions"]["reason"] == "SESSION_ENDED"
        assert await closed(opened) == 4401
        async with asyncio.timeout(5):
            rest = "\n".join([line async for line in lines])
        assert "SESSION_ENDED" in rest
        assert "event: complete" in rest
        await other.send(json.dumps({"type": "ping"}))  # others go on
        assert await receive(other) == {"type": "pong"}


async def test_a_stranger_gets_no_notices(live: Any, fakes: Any) -> None:
    async with socket(live, None) as opened:
        await subscribe(opened, "1", NOTICES)
        answer = await receive(opened)
        assert answer["payload"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def test_queries_run_over_the_socket_too(live: Any, fakes: Any, issue: Any) -> None:
    async with socket(live, issue()) as opened:
        await subscribe(opened, "q", "{ viewer { name } }")
        assert await receive(opened) == {
            "id": "q",
            "type": "next",
            "payload": {"data": {"viewer": {"name": "Nguyễn Thị An"}}},
        }
        assert await receive(opened) == {"id": "q", "type": "complete"}
        await subscribe(opened, "bad", "{ nothing }")
        assert (await receive(opened))["type"] == "error"


async def test_completing_a_subscription_ends_its_watching(
    live: Any, fakes: Any, issue: Any, publish: Any
) -> None:
    async with socket(live, issue()) as opened:
        await subscribe(opened, "1", CHANGED, id=ID)
        await receive(opened)
        await opened.send(json.dumps({"id": "1", "type": "complete"}))
        await subscribe(opened, "1", CHANGED, id=ID)  # the id is free again
        assert (await receive(opened))["type"] == "next"
        await publish("motcua.dossier.v1.dossier_received.dossier-1")
        await receive(opened)
        assert fakes.calls["GetDossier"] == 3


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (["not json"], 4400),
        (['{"type": "what"}'], 4400),
        (["[]"], 4400),
        (['{"id": "1", "type": "subscribe", "payload": {"query": "{ __typename }"}}'], 4401),
        (['{"type": "connection_init"}', '{"type": "connection_init"}'], 4429),
        (['{"type": "connection_init", "payload": {"authorization": "Bearer nonsense"}}'], 4403),
        (['{"type": "connection_init"}', '{"id": "1", "type": "subscribe"}'], 4400),
    ],
)
async def test_what_breaks_the_protocol_closes_the_socket(live: Any, messages: list[str], code: int) -> None:
    url = live.url.replace("http", "ws") + "/graphql"
    async with connect(url, subprotocols=[PROTOCOL]) as opened:
        for message in messages:
            await opened.send(message)
        assert await closed(opened) == code


async def test_pings_do_not_put_off_the_initialisation(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.websocket._INIT", 0.3)
    async with connect(live.url.replace("http", "ws") + "/graphql", subprotocols=[PROTOCOL]) as opened:
        with suppress(ConnectionClosed):
            for _ in range(30):
                await opened.send('{"type": "ping"}')
                await asyncio.sleep(0.1)
        assert opened.close_code == 4408


async def test_an_id_in_use_closes_the_socket(live: Any, fakes: Any, issue: Any) -> None:
    async with socket(live, issue()) as opened:
        await subscribe(opened, "1", NOTICES)
        await subscribe(opened, "1", NOTICES)
        assert await closed(opened) == 4409


async def test_a_socket_from_another_site_is_refused(live: Any) -> None:
    url = live.url.replace("http", "ws") + "/graphql"
    with pytest.raises(InvalidStatus):
        async with connect(url, subprotocols=[PROTOCOL], origin="https://evil.example"):  # type: ignore[arg-type]
            pass
    async with connect(url, subprotocols=[PROTOCOL], origin="https://app.example.vn"):  # type: ignore[arg-type]
        pass


# SSE


@asynccontextmanager
async def events(
    gateway: Any, bearer: str, query: str, **variables: Any
) -> AsyncIterator[AsyncIterator[Any]]:
    """(event, data) pairs of a stream."""
    async with gateway.http.stream(
        "POST",
        "/graphql",
        json={"query": query, "variables": variables},
        headers={"accept": "text/event-stream", "authorization": f"Bearer {bearer}"},
        timeout=5,
    ) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")

        async def pairs() -> AsyncIterator[Any]:
            kind = ""
            async for line in response.aiter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data:"):
                    data = line.removeprefix("data:").strip()
                    yield kind, json.loads(data) if data else None

        yield pairs()


async def test_sse_sends_changes_as_they_come(live: Any, fakes: Any, issue: Any, publish: Any) -> None:
    async with events(live, issue(), CHANGED, id=ID) as stream:
        kind, first = await anext(stream)
        assert (kind, first["data"]["dossierChanged"]["id"]) == ("next", ID)
        await publish("motcua.dossier.v1.dossier_received.dossier-1")
        assert (await anext(stream))[0] == "next"


async def test_sse_ends_with_the_token(live: Any, fakes: Any, issue: Any) -> None:
    async with events(live, issue(seconds=1), NOTICES) as stream:
        kind, answer = await anext(stream)
        assert (kind, answer["errors"][0]["extensions"]["reason"]) == ("next", "TOKEN_EXPIRED")
        assert await anext(stream) == ("complete", None)


async def test_sse_answers_a_query_and_completes(live: Any, fakes: Any, issue: Any) -> None:
    async with events(live, issue(), "{ viewer { name } }") as stream:
        assert (await anext(stream))[1] == {"data": {"viewer": {"name": "Nguyễn Thị An"}}}
        assert await anext(stream) == ("complete", None)


async def test_a_subscription_needs_a_stream(live: Any, issue: Any) -> None:
    response = await live.ask(NOTICES)
    assert response.status_code == 400
    assert "event-stream" in response.json()["errors"][0]["message"]


async def test_a_client_that_goes_away_is_forgotten(live: Any, fakes: Any, issue: Any, publish: Any) -> None:
    async with events(live, issue(), CHANGED, id=ID) as stream:
        await anext(stream)
    async with socket(live, issue()) as opened:
        await subscribe(opened, "1", CHANGED, id=ID)
        await receive(opened)
    calls = fakes.calls["GetDossier"]
    await publish("motcua.dossier.v1.dossier_received.dossier-1")
    async with socket(live, issue()) as opened:
        await subscribe(opened, "1", CHANGED, id=ID)
        await receive(opened)
    assert fakes.calls["GetDossier"] == calls + 1
