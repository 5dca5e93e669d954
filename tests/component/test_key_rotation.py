"""The signing keys change while people work: two replicas of identity, switched one after the other."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from pydantic import SecretStr

from dev.options import free_port
from identity import keys
from identity.bootstrap import IdentitySettings
from identity.bootstrap import build as build_identity
from kit import auth
from kit.errors import Unauthenticated
from kit.grpc_client import Channel, connect
from kit.ids import uuid7
from kit.service import Service
from motcua.identity.v1 import identity_pb2 as pb
from motcua.identity.v1.identity_pb2_grpc import IdentityServiceStub
from motcua.notify.v1 import notify_pb2
from motcua.notify.v1.notify_pb2_grpc import NotifyServiceStub
from notify.bootstrap import NotifySettings
from notify.bootstrap import build as build_notify

SEED = Path(__file__).parents[2] / "services/identity/seed.json"
CITIZEN, PASSWORD = "079090000101", "Motcua@2026"
WORKERS = 4


class Replicas:
    """Two replicas of identity on addresses that stay, with the same database and each its own file of keys,
    as a Secret that reaches one pod before the other."""

    def __init__(self, home: Path, mongo_url: str, nats_url: str) -> None:
        self.ports = [free_port(), free_port()]
        self.target = f"ipv4:127.0.0.1:{self.ports[0]},127.0.0.1:{self.ports[1]}"
        self._files = [home / "keys-0.json", home / "keys-1.json"]
        self._secrets: dict[str, Any] = {"notify": "first secret"}
        self._running: list[Service | None] = [None, None]
        self._common: dict[str, Any] = {
            "environment": "test",
            "mongodb_url": mongo_url,
            "mongodb_database": f"identity_{uuid7()[-12:]}",
            "nats_url": nats_url,
            "identity_seed": str(SEED),
            "sign_in_tries": 1_000_000,
            "sign_in_tries_address": 1_000_000,
            "argon2_memory_kib": 64,
            "argon2_passes": 1,
            "grace": 5,
            "drain": 0.5,
        }

    async def start(self, number: int) -> None:
        """Starts one, or starts it again with what its file and the secrets now say."""
        if (running := self._running[number]) is not None:
            await running.stop()
        settings = IdentitySettings(
            **self._common,
            grpc_listen=f"127.0.0.1:{self.ports[number]}",
            identity_signing_keys=str(self._files[number]),
            service_secrets=self._secrets,
        )
        service = self._running[number] = build_identity(settings)
        await service.start()

    async def stop(self) -> None:
        """Stops both."""
        for running in filter(None, self._running):
            await running.stop()

    async def roll(self, jwks: list[keys.Jwk], **secrets: Any) -> None:
        """A rolling restart with another key set: in the middle of it the replicas differ."""
        self._secrets |= secrets
        for number, file in enumerate(self._files):
            file.write_text(json.dumps({"keys": jwks}))
            await self.start(number)


@dataclass
class Work:
    """What callers have seen so far: kids of the tokens that were taken, and failures."""

    done: int = 0
    by_kid: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


@asynccontextmanager
async def people_at_work(identity: Channel, notify: Channel) -> AsyncIterator[Work]:
    """Signs in at identity, reads at notify with that token and with older ones, over and over."""
    seen = Work()

    async def work() -> None:
        older = ""
        while True:
            try:
                sign_in = pb.SignInRequest(identifier=CITIZEN, password=PASSWORD)
                answer = await IdentityServiceStub(identity).SignIn(sign_in)
                fresh = answer.tokens.access_token
                for token in filter(None, (older, fresh)):
                    await NotifyServiceStub(notify).GetPreferences(
                        notify_pb2.GetPreferencesRequest(), metadata=[("authorization", f"Bearer {token}")]
                    )
                    seen.by_kid[jwt.get_unverified_header(token)["kid"]] += 1
                    seen.done += 1
                older = fresh
            except Exception as error:
                seen.failures.append(repr(error))
                return

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(work()) for _ in range(WORKERS)]
        try:
            yield seen
        finally:
            for task in running:
                task.cancel()


@pytest.fixture
async def replicas(
    tmp_path: Path, mongo_url: str, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Replicas]:
    """Both running with one key. What takes minutes in production takes a second here."""
    monkeypatch.setattr(auth, "_STALE", 1.0)
    monkeypatch.setattr(auth, "_REFETCH", 0.2)
    made = Replicas(tmp_path, mongo_url, nats_url)
    yield made
    await made.stop()


@asynccontextmanager
async def notify_of(replicas: Replicas, mongo_url: str, nats_url: str) -> AsyncIterator[Service]:
    """The service that checks tokens, and has its own from identity."""
    settings = NotifySettings(
        environment="test",
        mongodb_url=mongo_url,
        mongodb_database=f"notify_{uuid7()[-12:]}",
        nats_url=nats_url,
        identity_target=replicas.target,
        service_secret=SecretStr("first secret"),
        grace=0.5,
    )
    service = build_notify(settings)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


async def test_no_request_fails_while_the_signing_key_is_changed_in_three_rolling_restarts(
    replicas: Replicas, mongo_url: str, nats_url: str, eventually: Any
) -> None:
    first = keys.add([])
    await replicas.roll(first)
    old = first[0]["kid"]
    async with (
        notify_of(replicas, mongo_url, nats_url) as notify,
        connect(replicas.target) as identity,
        connect(f"127.0.0.1:{notify.port}") as channel,
        people_at_work(identity, channel) as seen,
    ):

        async def goes_on(more: int = 40) -> None:
            until = seen.done + more
            await eventually(lambda: seen.done >= until or seen.failures, within=60)
            assert seen.failures == []

        await goes_on()
        both = keys.add(first)
        new = both[1]["kid"]
        await replicas.roll(both)
        await goes_on()
        assert set(seen.by_kid) == {old}
        promoted = keys.promote(both)
        await replicas.roll(promoted)
        await eventually(lambda: seen.by_kid[new] or seen.failures, within=60)
        await goes_on()
        used = seen.by_kid[old]
        await goes_on()
        assert seen.by_kid[old] == used, "a token of the old key is still given out"
        await replicas.roll(keys.retire(promoted))
        await goes_on()
        assert seen.by_kid[old] == used


async def test_a_retired_key_takes_its_tokens_with_it(
    replicas: Replicas, mongo_url: str, nats_url: str, eventually: Any
) -> None:
    first = keys.add([])
    await replicas.roll(first)
    async with connect(replicas.target) as channel:
        verifier = auth.TokenVerifier(lambda: jwks(channel))

        async def fresh() -> str:
            sign_in = pb.SignInRequest(identifier=CITIZEN, password=PASSWORD)
            return str((await IdentityServiceStub(channel).SignIn(sign_in)).tokens.access_token)

        token = await fresh()
        assert (await verifier.verify(token)).kind == "citizen"
        await replicas.roll(keys.retire(keys.promote(keys.add(first))))

        async def is_refused() -> bool:
            with suppress(Unauthenticated):  # until the new key is known; others' tokens make it known
                await verifier.verify(await fresh())
            try:
                await verifier.verify(token)
            except Unauthenticated:
                return True
            return False

        await eventually(is_refused, within=20)


async def jwks(channel: Channel) -> Any:
    """Identity's public keys."""
    answer = await IdentityServiceStub(channel).GetJwks(pb.GetJwksRequest())
    return json.loads(answer.jwks)


async def test_a_services_secret_is_changed_while_both_are_right(
    replicas: Replicas, mongo_url: str, nats_url: str
) -> None:
    one = keys.add([])
    await replicas.roll(one)

    async def is_right(secret: str) -> bool:
        async with connect(replicas.target) as channel:
            request = pb.IssueServiceTokenRequest(service="notify", secret=secret)
            try:
                await IdentityServiceStub(channel).IssueServiceToken(request)
            except grpc.aio.AioRpcError as error:
                return error.code() is not grpc.StatusCode.UNAUTHENTICATED
            return True

    assert [await is_right("first secret"), await is_right("second secret")] == [True, False]
    await replicas.roll(one, notify=["first secret", "second secret"])
    assert [await is_right("first secret"), await is_right("second secret")] == [True, True]
    await replicas.roll(one, notify=["second secret"])
    assert [await is_right("first secret"), await is_right("second secret")] == [False, True]
