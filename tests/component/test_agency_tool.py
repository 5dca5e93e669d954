"""Adding an agency and its officials as docs/operations.md says, before the real identity."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from identity.bootstrap import IdentitySettings, build
from kit.grpc_client import connect
from kit.ids import uuid7
from motcua.identity.v1 import identity_pb2 as pb
from motcua.identity.v1.identity_pb2_grpc import IdentityServiceStub

ROOT = Path(__file__).parents[2]
ADMIN = "Motcua@2026"


@pytest.fixture
async def target(mongo_url: str, nats_url: str) -> AsyncIterator[str]:
    """Where an identity with the demo's admin answers."""
    service = build(
        IdentitySettings(
            environment="test",
            mongodb_url=mongo_url,
            mongodb_database=f"identity_{uuid7()[-12:]}",
            nats_url=nats_url,
            identity_seed=str(ROOT / "services/identity/seed.json"),
            argon2_memory_kib=64,
            argon2_passes=1,
            grace=0.5,
        )
    )
    await service.start()
    yield f"127.0.0.1:{service.port}"
    await service.stop()


async def run(target: str, arguments: list[str], *passwords: str) -> tuple[int, str]:
    """The tool's exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ops.agency",
        *arguments,
        env={**os.environ, "IDENTITY_TARGET": target, "ADMIN_USERNAME": "quantri"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate("".join(f"{it}\n" for it in passwords).encode())
    return int(process.returncode or 0), said.decode()


def of_the_runbook() -> list[list[str]]:
    """The tool's command lines in docs/operations.md, without the kubectl around them."""
    text = (ROOT / "docs/operations.md").read_text().replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in re.findall(r"-m (ops\.agency (?:agency|official) .*)", text)]


async def test_the_commands_of_the_runbook_add_an_agency_and_an_official_who_can_sign_in(target: str) -> None:
    agency, official = of_the_runbook()
    for _ in range(2):  # repeating changes nothing
        code, said = await run(target, agency, ADMIN)
        assert code == 0, said
        code, said = await run(target, official, ADMIN, "một mật khẩu dài")
        assert code == 0, said
    async with connect(target) as channel:
        stub = IdentityServiceStub(channel)
        username = official[official.index("official") + 1]
        tokens = await stub.SignIn(pb.SignInRequest(identifier=username, password="một mật khẩu dài"))
        assert {role.agency for role in tokens.account.roles} == {agency[agency.index("agency") + 1]}


async def test_what_is_not_given_stays(target: str) -> None:
    code, said = await run(target, ["agency", "H32.15", "--phone", "02583000000"], ADMIN)
    assert code == 0, said
    assert "UBND phường Nha Trang" in said


async def test_refusals_are_one_line(target: str) -> None:
    assert (await run(target, ["agency", "H32.99"], "a guess"))[0] == 2
    code, said = await run(target, ["agency", "H99", "--name", "x", "--level", "commune"], ADMIN)
    assert (code, said.count("\n")) == (2, 1)
