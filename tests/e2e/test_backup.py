"""A backup that is made while people work, and the installation that is made from it elsewhere."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dev.journey import DOSSIER, PASSWORD, PROCEDURE, RECEIVING, filled, look, new_citizen, pdf, until
from dev.options import Options, private
from dev.parts import Addresses
from dev.person import Person
from dev.stack import Stack
from tests.whole_town import (
    OFFICIALS,
    PATIENCE,
    Filed,
    Town,
    act,
    at_rest,
    file_and_follow,
    left_behind,
    own_id,
    settle,
    town_at,
)

STORES = ("nats", "mongodb")


async def tool(where: Addresses, backups: Path, *arguments: str) -> tuple[int, str]:
    """`python -m ops.backup` as its Job runs it: exit code and what it says."""
    environment = {
        **os.environ,
        "MONGODB_URL": where.mongodb,
        "NATS_URL": where.nats,
        "OBJECT_STORE_URL": (Path(where.data) / "objects").as_uri(),
        "BACKUP_URL": backups.as_uri(),
        "LOG_FORMAT": "json",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ops.backup",
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    return int(process.returncode or 0), output


class Unfinished:
    """A citizen whose dossier waits for the fee; the second half can be played on another installation."""

    def __init__(self) -> None:
        self.number, self.phone = new_citizen()
        self.content = pdf(f"Giay khai sinh {self.number}")
        self.account = self.document = self.dossier = self.code = ""

    @asynccontextmanager
    async def at(self, town: Town) -> AsyncIterator[Person]:
        """The citizen, signed in there."""
        async with Person(f"Công dân {self.number}", town.where.gateway, patience=PATIENCE) as citizen:
            if not self.account:
                about = {"name": "Nguyễn Thị An", "citizenNumber": self.number, "phone": self.phone}
                secret = {"email": f"{self.number}@example.vn", "password": PASSWORD + "!"}
                made = await citizen.do("signUp", "Account", "id", kind="PERSON", **about, **secret)
                self.account = made["id"]
            await citizen.sign_in(self.number, PASSWORD + "!")
            if not self.dossier:
                await citizen.prove(town.officials[OFFICIALS[0]], name="Nguyễn Thị An", number=self.number)
            yield citizen

    async def begin(self, town: Town) -> None:
        """Files, and the desk asks for the fee."""
        async with self.at(town) as citizen:
            about = {"filename": "giay-khai-sinh.pdf", "contentType": "application/pdf"}
            kind = {"type": "birth_certificate", "title": "Giấy khai sinh"}
            self.document = (await citizen.upload(self.content, **about, **kind))["id"]
            query = "query($code: String!) { procedure(code: $code) { form cases { id components { id } } } }"
            procedure = (await citizen.ask(query, code=PROCEDURE))["procedure"]
            case = procedure["cases"][0]
            attached = [{"componentId": case["components"][-1]["id"], "documentId": self.document}]
            draft = await citizen.do(
                "createDossier",
                "Dossier",
                DOSSIER,
                procedureCode=PROCEDURE,
                caseId=case["id"],
                form=filled(procedure["form"], citizen.name),
                attachments=attached,
                receivingAgency=RECEIVING,
            )
            self.dossier = draft["id"]
            desk = town.officials[OFFICIALS[0]]
            await act(citizen, "submitDossier", self.dossier)
            self.code = (await act(desk, "receiveDossier", self.dossier))["code"]
            await act(desk, "requestPayment", self.dossier, quantities=[])

    async def finish(self, town: Town) -> Filed:
        """Pays, and gets the result."""
        desk, examiner, leader, deciding = (town.officials[name] for name in OFFICIALS)
        async with self.at(town) as citizen:

            async def charged() -> str | None:
                charges = (await look(citizen, self.dossier))["charges"]
                return charges[0]["id"] if charges else None

            async def paid() -> bool | None:
                return (await look(citizen, self.dossier))["state"] == "IN_PROCESS" or None

            charge = await until(charged, "the charge", PATIENCE)
            fields, chosen = "redirectUrl payment { reference }", {"chargeId": charge, "method": "VNPAY"}
            started = await citizen.do("payCharge", "PaymentStart", fields, **chosen)
            assert (await citizen.get(started["redirectUrl"])).status_code == 200
            await settle(citizen, town, started["payment"]["reference"])
            await until(paid, "the dossier going on after it was paid", PATIENCE)
            for who in (examiner, deciding):
                step = (await look(who, self.dossier))["currentStepId"]
                await act(who, "completeStep", self.dossier, stepId=step, note="Đã kiểm tra")
            result = await leader.upload(
                pdf(f"Trich luc {self.code}"),
                filename="trich-luc.pdf",
                contentType="application/pdf",
                purpose="RESULT",
                dossierId=self.dossier,
                type="civil_status_extract",
                title="Bản sao trích lục hộ tịch",
            )
            await act(leader, "signResult", self.dossier, documentId=result["id"])
            assert (await act(desk, "handOverResult", self.dossier))["state"] == "HANDED_OVER"
            assert await citizen.download(self.document) == self.content
        return Filed(own_id(self.account), own_id(self.dossier), self.code)


@asynccontextmanager
async def people_who_file(town: Town, citizens: int) -> AsyncIterator[list[Filed]]:
    """So many citizens file again and again while the block runs; what they hold at its end is given."""
    done: list[Filed] = []

    async def again_and_again() -> None:
        while True:
            done.append(await file_and_follow(town))

    tasks = [asyncio.create_task(again_and_again()) for _ in range(citizens)]
    try:
        yield done
        for task in tasks:
            if task.done():
                await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def stores_alone(options: Options) -> AsyncIterator[Addresses]:
    """The stores of an installation whose services do not run."""
    async with Stack(options, only=STORES) as stores:
        yield stores.addresses


def keep_the_world(old: Path, new: Path) -> None:
    """What a restore does not touch: the bank, and the secrets, which are kept elsewhere."""
    for name in ("sandbox", "secrets"):
        shutil.copytree(old / name, new / name)


async def test_what_was_backed_up_under_load_goes_on_elsewhere_with_nothing_lost_and_nothing_doubled(
    tmp_path: Path,
) -> None:
    backups, middle = tmp_path / "backups", Unfinished()
    async with Stack(private(tmp_path / "old")) as old, town_at(old.addresses) as town:
        first = await file_and_follow(town)
        await at_rest(town)
        expected = await left_behind(town, first)
        await middle.begin(town)
        async with people_who_file(town, 3) as done:
            await until(lambda: more_than(done, 2), "people filing", PATIENCE)
            before = list(done)
            code, said = await tool(old.addresses, backups, "backup", "--keep", "2")
            assert code == 0, said
            assert "Nguyễn" not in said
            after = len(done)
            await until(lambda: more_than(done, after + 1), "people filing on", PATIENCE)
    run = said.splitlines()[-1].removeprefix("backup ")

    options = private(tmp_path / "new")
    keep_the_world(tmp_path / "old", tmp_path / "new")
    async with stores_alone(options) as where:
        code, said = await tool(where, backups, "verify", "--deep")
        assert (code, said.splitlines()[-1]) == (0, f"backup {run} is whole"), said
        code, said = await tool(where, backups, "restore", run)
        assert code == 0, said
        code, said = await tool(where, backups, "restore", run)
        assert code == 2
        assert "not empty" in said
    async with Stack(options) as new, town_at(new.addresses) as town:
        code, said = await tool(new.addresses, backups, "check", "--deep", "--wait", "90")
        assert (code, said) == (0, "all is well\n")
        for filed in [first, *before]:
            assert await left_behind(town, filed) == expected
        later = [await middle.finish(town), await file_and_follow(town)]
        code, said = await tool(new.addresses, backups, "check", "--wait", "90")
        assert (code, said) == (0, "all is well\n")
        for filed in later:
            await until(partial(_left, town, filed, expected), "all that a filing leaves behind", PATIENCE)


async def _left(town: Town, filed: Filed, expected: Any) -> bool | None:
    return await left_behind(town, filed) == expected or None


async def more_than(done: list[Filed], number: int) -> bool | None:
    """Whether that is so; else None."""
    return len(done) > number or None
