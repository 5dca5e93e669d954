"""The first admin and the root agency, on real MongoDB wire, and what they can do in a real identity."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from pymongo import MongoClient

from identity.bootstrap import FirstAdminSettings, IdentitySettings, build
from identity.domain.accounts import RoleGrant
from identity.first_admin import make_first_admin
from identity.store import account_store, agency_store
from kit import mongo
from kit.errors import AlreadyExists, InvalidInput
from kit.ids import uuid7
from kit.settings import CannotStart
from motcua.identity.v1 import identity_pb2 as pb
from motcua.identity.v1 import identity_pb2_grpc as grpc_pb

PASSWORD = "bắt đầu từ đây"


@pytest.fixture
def settings(mongo_url: str, nats_url: str) -> IdentitySettings:
    return IdentitySettings(
        environment="test",
        mongodb_url=mongo_url,
        mongodb_database=f"first_admin_{uuid7()[-12:]}",
        nats_url=nats_url,
        grace=0.5,
        argon2_memory_kib=64,
        argon2_passes=1,
    )


def wanted(**more: Any) -> FirstAdminSettings:
    given = {
        "username": "quantri",
        "name": "Ngô Quản Trị",
        "agency": "H32",
        "agency_name": "UBND tỉnh Khánh Hòa",
        "agency_since": "2025-07-01",
        **more,
    }
    return FirstAdminSettings(**{f"first_admin_{name}": value for name, value in given.items()})


def password() -> str:
    return PASSWORD


def unasked() -> str:
    raise AssertionError("nobody should be asked for a password")


def stored(settings: IdentitySettings, collection: str) -> list[dict[str, Any]]:
    client: MongoClient[dict[str, Any]] = MongoClient(settings.mongodb_url)
    with client:
        return list(client[settings.mongodb_database][collection].find({}))


async def test_the_first_admin_signs_in_and_makes_the_agencies_below_and_their_officials(
    settings: IdentitySettings,
) -> None:
    assert await make_first_admin(settings, wanted(), password) == "quantri is admin of H32, and can sign in"
    service = build(settings)
    await service.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        stub: grpc_pb.IdentityServiceAsyncStub = grpc_pb.IdentityServiceStub(channel)
        sign_in = await stub.SignIn(pb.SignInRequest(identifier="quantri", password=PASSWORD))
        bearer = (("authorization", f"Bearer {sign_in.tokens.access_token}"),)
        ward = pb.Agency(
            code="H32.15",
            name="UBND phường Nha Trang",
            level=pb.AGENCY_LEVEL_COMMUNE,
            parent="H32",
            valid_from="2025-07-01",
        )
        await stub.PutAgency(pb.PutAgencyRequest(agency=ward), metadata=bearer)
        official = pb.CreateOfficialRequest(name="Lê Thị Tiếp", username="tiep", password="một mật khẩu dài")
        official.roles.add(agency="H32.15", name="reception")
        assert (await stub.CreateOfficial(official, metadata=bearer)).account.id
    await service.stop()


async def test_once_there_is_an_admin_the_same_command_changes_nothing_and_another_is_refused(
    settings: IdentitySettings,
) -> None:
    await make_first_admin(settings, wanted(), password)
    before = stored(settings, "accounts"), stored(settings, "agencies")
    again = await make_first_admin(settings, wanted(agency_name="Tên khác"), unasked)
    assert again == "quantri is admin of H32, as before"
    for other in (wanted(username="kela"), wanted(agency="H33"), wanted(username="kela", agency="H33")):
        with pytest.raises(CannotStart, match="there is an admin already"):
            await make_first_admin(settings, other, unasked)
    assert (stored(settings, "accounts"), stored(settings, "agencies")) == before


async def test_it_leaves_an_installation_alone_that_has_an_admin_by_other_means(
    settings: IdentitySettings, tmp_path: Any
) -> None:
    seeded = settings.model_copy(update={"identity_seed": "services/identity/seed.json"})
    service = build(seeded)
    await service.start()
    await service.stop()
    with pytest.raises(CannotStart, match="there is an admin already"):
        await make_first_admin(settings, wanted(username="kela"), unasked)


async def test_of_many_at_once_one_becomes_admin_and_makes_its_agency_only(
    settings: IdentitySettings,
) -> None:
    rivals = [wanted(username=f"admin{n}", agency=f"H3{n}") for n in range(5)]
    answers = await asyncio.gather(
        *(make_first_admin(settings, rival, password) for rival in rivals), return_exceptions=True
    )
    assert sorted(isinstance(answer, CannotStart) for answer in answers) == [False, True, True, True, True]
    (account,), (agency,) = stored(settings, "accounts"), stored(settings, "agencies")
    assert account["state"]["roles"][0]["agency"] == agency["_id"]
    usernames = [it for it in stored(settings, "names") if it["value"].startswith(account["_id"])]
    assert len(usernames) == 2, "the reservation of the first admin, and the one name that is theirs"


async def test_the_same_command_many_times_at_once_makes_one(settings: IdentitySettings) -> None:
    answers = await asyncio.gather(*(make_first_admin(settings, wanted(), password) for _ in range(5)))
    assert {answer.partition(",")[0] for answer in answers} == {"quantri is admin of H32"}
    assert (len(stored(settings, "accounts")), len(stored(settings, "agencies"))) == (1, 1)


@pytest.mark.parametrize("dies_at", ["names", "accounts", "agencies"])
async def test_after_a_crash_it_goes_on_where_it_was(
    settings: IdentitySettings, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    create = mongo.Store.create

    async def dies(self: Any, *args: Any, **keywords: Any) -> Any:
        if getattr(self, "name", "names") == dies_at:
            raise RuntimeError("the process dies here")
        return await create(self, *args, **keywords)

    with monkeypatch.context() as fault:
        fault.setattr("identity.store.Names.take" if dies_at == "names" else "kit.mongo.Store.create", dies)
        with pytest.raises(RuntimeError):
            await make_first_admin(settings, wanted(), password)
    ask: Callable[[], str] = unasked if dies_at == "agencies" else password
    assert (await make_first_admin(settings, wanted(), ask)).startswith("quantri is admin of H32")
    assert (len(stored(settings, "accounts")), len(stored(settings, "agencies"))) == (1, 1)
    with pytest.raises(CannotStart, match="there is an admin already"):
        await make_first_admin(settings, wanted(username="kela"), unasked)


async def test_when_the_last_admin_is_none_any_more_it_works_again(settings: IdentitySettings) -> None:
    await make_first_admin(settings, wanted(), password)
    database = mongo.connect(settings.mongodb_url, settings.mongodb_database)
    (account,) = stored(settings, "accounts")
    demoted = (RoleGrant("H32", "clerk"),)
    await account_store(database).change(account["_id"], lambda it: it.set_roles(demoted))
    with pytest.raises(AlreadyExists, match="USERNAME_TAKEN"):
        await make_first_admin(settings, wanted(), password)
    assert await make_first_admin(settings, wanted(username="quantri2"), password)
    assert (await agency_store(database).get("H32")).details.name == "UBND tỉnh Khánh Hòa"
    database.client.close()


async def test_what_is_missing_or_wrong_is_said_and_nothing_is_made(settings: IdentitySettings) -> None:
    with pytest.raises(CannotStart, match="set FIRST_ADMIN_USERNAME, FIRST_ADMIN_AGENCY_NAME"):
        await make_first_admin(settings, wanted(username="", agency_name=""), unasked)
    for wrong in (wanted(agency="tỉnh"), wanted(agency_since="1/7/2025")):
        with pytest.raises(InvalidInput):
            await make_first_admin(settings, wrong, unasked)
    with pytest.raises(InvalidInput, match="PASSWORD_COMMON"):
        await make_first_admin(settings, wanted(), lambda: "matkhau123")
    with pytest.raises(InvalidInput, match="USERNAME_SHAPE"):
        await make_first_admin(settings, wanted(username="7"), password)
    assert (stored(settings, "accounts"), stored(settings, "agencies")) == ([], [])


async def test_production_takes_no_stand_in(settings: IdentitySettings) -> None:
    database = mongo.connect(settings.mongodb_url, settings.mongodb_database)
    kind = await mongo.kind_of(database)
    database.client.close()
    if kind == "replica set":
        pytest.skip("this is a real one")
    production = settings.model_copy(update={"environment": "production"})
    with pytest.raises(CannotStart, match="production needs a MongoDB replica set"):
        await make_first_admin(production, wanted(), unasked)


def test_the_command_reads_the_password_from_standard_input_and_says_what_is_wrong_in_one_line(
    settings: IdentitySettings,
) -> None:
    def run(given: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "ENVIRONMENT": "test",
            "MONGODB_URL": settings.mongodb_url,
            "MONGODB_DATABASE": settings.mongodb_database,
            "FIRST_ADMIN_USERNAME": "quantri",
            "FIRST_ADMIN_NAME": "Ngô Quản Trị",
            "FIRST_ADMIN_AGENCY": "H32",
            "FIRST_ADMIN_AGENCY_NAME": "UBND tỉnh Khánh Hòa",
            **more,
        }
        command = [sys.executable, "-m", "identity.first_admin"]
        return subprocess.run(
            command, input=given, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    short = run("ngắn\n")
    assert (short.returncode, short.stdout) == (2, "")
    assert short.stderr == "identity.first_admin: password: a password has 10 to 128 characters\n"
    level = run(f"{PASSWORD}\n", FIRST_ADMIN_AGENCY_LEVEL="village")
    assert (level.returncode, level.stderr.count("\n")) == (2, 1)
    assert "FIRST_ADMIN_AGENCY_LEVEL" in level.stderr
    made = run(f"{PASSWORD}\n")
    assert (made.returncode, made.stdout, made.stderr) == (
        0,
        "quantri is admin of H32, and can sign in\n",
        "",
    )
    other = run("", FIRST_ADMIN_USERNAME="kela")
    assert (other.returncode, other.stdout) == (2, "")
    assert "there is an admin already" in other.stderr
