"""Officials who must sign in with a second factor get no session for a password alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from identity.bootstrap import IdentitySettings, build
from kit.ids import uuid7
from motcua.identity.v1 import identity_pb2 as pb
from motcua.identity.v1 import identity_pb2_grpc as grpc_pb

SEED = Path(__file__).parents[2] / "services/identity/seed.json"
PASSWORD = "Motcua@2026"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def identity(mongo_url: str, nats_url: str) -> AsyncIterator[grpc_pb.IdentityServiceAsyncStub]:
    rules: dict[str, Any] = {
        "second_factor_keys": ["0123456789" * 4],
        "second_factor_required": {"leader": "2026-01-01T00:00:00Z", "examiner": "2999-01-01T00:00:00Z"},
    }
    settings = IdentitySettings(
        environment="test",
        mongodb_url=mongo_url,
        mongodb_database=f"identity_{uuid7()[-12:]}",
        nats_url=nats_url,
        grace=0.5,
        identity_seed=str(SEED),
        argon2_memory_kib=64,
        argon2_passes=1,
        **rules,
    )
    service = build(settings)
    await service.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        yield grpc_pb.IdentityServiceStub(channel)
    await service.stop()


@pytest.mark.proof("9.7")
async def test_a_password_alone_signs_no_leader_in_who_must_have_a_second_factor(
    identity: grpc_pb.IdentityServiceAsyncStub,
) -> None:
    request = pb.SignInRequest(identifier="nt.lanhdao", password=PASSWORD)
    answer = await identity.SignIn(request, timeout=20)
    assert not answer.HasField("tokens"), "a password alone opened a session"


async def test_a_rule_of_another_role_or_of_later_asks_for_nothing(
    identity: grpc_pb.IdentityServiceAsyncStub,
) -> None:
    for who in ("nt.thuly", "079090000101"):
        answer = await identity.SignIn(pb.SignInRequest(identifier=who, password=PASSWORD), timeout=20)
        assert answer.HasField("tokens"), who
