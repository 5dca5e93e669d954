"""Citizens who file on a whole installation, and what must hold of what they leave behind.

The chaos tests play it on a stack of local processes, the cluster tests on Kubernetes: `Addresses` says where
the parts are, and nothing here asks how they run.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import nats
from nats.js import JetStreamContext
from pymongo import AsyncMongoClient

from dev.journey import DOSSIER, PASSWORD, PROCEDURE, RECEIVING, filled, look, new_citizen, pdf, until
from dev.parts import Addresses
from dev.person import Person, Tally
from kit.ids import derived
from notify.domain.kinds import KINDS

PATIENCE = 90.0  # seconds that a person asks again, and that an effect of an event may take
OFFICIALS = ("nt.tiepnhan", "nt.thuly", "nt.lanhdao", "stp.thuly")
SERVICES = ("identity", "catalog", "dossier", "payment", "notify")
ALL_MAILS = "1000000"
JSON = dict[str, Any]
T = TypeVar("T")


@dataclass
class Town:
    """An installation with officials at their desks, what its people go through, and a way to look behind."""

    where: Addresses
    officials: dict[str, Person]
    mongo: AsyncMongoClient[JSON]
    tally: Tally

    def collection(self, service: str, name: str) -> Any:
        return self.mongo[f"motcua_{service}"][name]


@asynccontextmanager
async def town_at(where: Addresses) -> AsyncIterator[Town]:
    """The officials signed in, patient, and the stores open."""
    tally = Tally()
    async with AsyncExitStack() as open_things:
        officials = {
            name: await open_things.enter_async_context(
                Person(name, where.gateway, patience=PATIENCE, tally=tally)
            )
            for name in OFFICIALS
        }
        for name, official in officials.items():
            await official.sign_in(name, PASSWORD)
        mongo = await open_things.enter_async_context(AsyncMongoClient[JSON](where.mongodb))
        yield Town(where, officials, mongo, tally)


@dataclass(frozen=True)
class Filed:
    """What a citizen knows in the end."""

    applicant: str
    dossier: str
    code: str


def own_id(shown: str) -> str:
    """The id that the stores know, of one that the public API shows."""
    return base64.b64decode(shown).decode().partition(":")[2]


async def act(who: Person, mutation: str, dossier: str, **input: Any) -> JSON:
    """An act on the dossier with the etag that the person sees now."""
    etag = (await look(who, dossier))["etag"]
    return await who.do(mutation, "Dossier", DOSSIER, dossierId=dossier, etag=etag, **input)


async def settle(who: Person, town: Town, reference: str) -> None:
    """Pays at the bank, which tells us three times; somebody who asks again may find it paid already."""
    url = f"{town.where.sandbox}/control/transactions/{reference}"
    answer = await who.post(url, {"outcome": "pay", "repeat": 2})
    assert answer.status_code == 200 or answer.json() == {"problem": "settled already"}, answer.text


async def file_and_follow(town: Town) -> Filed:
    """One citizen's whole journey, from the account to the result in the vault."""
    desk, examiner, leader, deciding = (town.officials[name] for name in OFFICIALS)
    number, phone = new_citizen()
    async with Person(
        f"Công dân {number}", town.where.gateway, patience=PATIENCE, tally=town.tally
    ) as citizen:
        about = {"name": "Nguyễn Thị An", "citizenNumber": number, "phone": phone}
        account = await citizen.do(
            "signUp",
            "Account",
            "id",
            kind="PERSON",
            email=f"{number}@example.vn",
            password=PASSWORD + "!",
            **about,
        )
        await citizen.sign_in(number, PASSWORD + "!")
        await citizen.prove(desk, name="Nguyễn Thị An", number=number)
        content = pdf(f"Giay khai sinh {number}")
        document = await citizen.upload(
            content,
            filename="giay-khai-sinh.pdf",
            contentType="application/pdf",
            type="birth_certificate",
            title="Giấy khai sinh",
        )
        procedure = (
            await citizen.ask(
                "query($code: String!) { procedure(code: $code) { form cases { id components { id } } } }",
                code=PROCEDURE,
            )
        )["procedure"]
        case = procedure["cases"][0]
        draft = await citizen.do(
            "createDossier",
            "Dossier",
            DOSSIER,
            procedureCode=PROCEDURE,
            caseId=case["id"],
            form=filled(procedure["form"], citizen.name),
            attachments=[{"componentId": case["components"][-1]["id"], "documentId": document["id"]}],
            receivingAgency=RECEIVING,
        )
        dossier = draft["id"]
        await act(citizen, "submitDossier", dossier)
        code = (await act(desk, "receiveDossier", dossier))["code"]
        await act(desk, "requestPayment", dossier, quantities=[])

        async def charged() -> str | None:
            charges = (await look(citizen, dossier))["charges"]
            return charges[0]["id"] if charges else None

        charge = await shows(town, charged, "the charge")
        started = await citizen.do(
            "payCharge", "PaymentStart", "redirectUrl payment { reference }", chargeId=charge, method="VNPAY"
        )
        reference = started["payment"]["reference"]
        assert (await citizen.get(started["redirectUrl"])).status_code == 200
        await settle(citizen, town, reference)

        async def paid() -> bool | None:
            return (await look(citizen, dossier))["state"] == "IN_PROCESS" or None

        await shows(town, paid, "the dossier going on after it was paid")
        for who in (examiner, deciding):
            step = (await look(who, dossier))["currentStepId"]
            await act(who, "completeStep", dossier, stepId=step, note="Đã kiểm tra")
        result = await leader.upload(
            pdf(f"Trich luc {code}"),
            filename="trich-luc.pdf",
            contentType="application/pdf",
            purpose="RESULT",
            dossierId=dossier,
            type="civil_status_extract",
            title="Bản sao trích lục hộ tịch",
        )
        await act(leader, "signResult", dossier, documentId=result["id"])
        handed = await act(desk, "handOverResult", dossier)
        assert handed["state"] == "HANDED_OVER", handed
        assert await citizen.download(document["id"]) == content
        return Filed(own_id(account["id"]), own_id(dossier), code)


async def shows(town: Town, look: Callable[[], Awaitable[T | None]], what: str) -> T:
    """What `look` answers as soon as it is not None, which is when an event has had its effect."""
    began = time.monotonic()
    found = await until(look, what, PATIENCE)
    town.tally.longest_effect = max(town.tally.longest_effect, time.monotonic() - began)
    return found


async def left_behind(town: Town, filed: Filed) -> JSON:
    """All that the stores hold of one filing, without what differs from one to the next."""
    find = town.collection
    dossiers = await find("dossier", "dossiers").find({"applicant": filed.applicant}).to_list()
    documents = await find("dossier", "documents").find({"owner": filed.applicant}).to_list()
    ids = [document["_id"] for document in documents]
    accesses = await find("dossier", "accesses").find({"document": {"$in": ids}}).to_list()
    charges = await find("payment", "charges").find({"dossier": filed.dossier}).to_list()
    receipts = await find("payment", "receipts").find({"payer": filed.applicant}).to_list()
    notices = await find("notify", "notices").find({"created": {"$gt": filed.dossier}}).to_list()
    told = [notice for notice in notices if notice["state"]["about"]["dossier"] == filed.dossier]
    coded = await find("dossier", "dossiers_coded").find({"_id": filed.dossier}).to_list()
    return {
        "dossiers": [
            {
                "moves": [(m["source"], m["target"], m["action"]) for m in d["state"]["transitions"]],
                "hand-overs": [
                    (h["step"], h["from_agency"], h["to_agency"]) for h in d["state"]["hand_overs"]
                ],
                "charges": [(len(c["lines"]), bool(c["paid"])) for c in d["state"]["charges"]],
                "results": len(d["state"]["results"]),
                "code is ours": d["state"]["code"] == filed.code,
            }
            for d in dossiers
        ],
        "codes": [entry["value"] == filed.code for entry in coded],
        "documents": sorted((d["state"]["details"]["type"], len(d["state"]["versions"])) for d in documents),
        "uses": Counter(a["state"]["act"] for a in accesses),
        "charges": [
            {
                "state": c["state"]["state"],
                "payments": [(p["state"], p["received"]) for p in c["state"]["payments"]],
                "books": [(e["debit"], e["credit"], e["amount"]) for e in c["state"]["entries"]],
            }
            for c in charges
        ],
        "receipts": [r["state"]["amount"] for r in receipts],
        "notices": Counter(
            (
                n["state"]["kind"],
                "applicant" if n["recipient"] == filed.applicant else n["recipient"],
                tuple(sorted((way, d["state"]) for way, d in n["state"]["deliveries"].items())),
            )
            for n in told
        ),
    }


async def undisturbed_filing(town: Town) -> JSON:
    """Files once, waits for rest, and answers what such a filing leaves behind when nothing happens."""
    filed = await file_and_follow(town)
    await at_rest(town)
    expected = await left_behind(town, filed)
    assert [dossier["moves"][-1][1] for dossier in expected["dossiers"]] == [10]  # handed over
    assert [charge["state"] for charge in expected["charges"]] == ["paid"]
    assert len(expected["receipts"]) == len(expected["codes"]) == expected["uses"]["USE"] == 1
    return expected


@asynccontextmanager
async def jetstream_of(town: Town) -> AsyncIterator[JetStreamContext]:
    """JetStream behind the installation."""
    client = await nats.connect(town.where.nats.split(","))
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def undone(town: Town) -> list[str]:
    """What is still on its way somewhere; nothing when the installation has come to rest."""
    waiting: dict[str, int] = {}
    for service in SERVICES:
        database = town.mongo[f"motcua_{service}"]
        for name in await database.list_collection_names():
            pending = await database[name].find({"outbox_pending": 1}, {"_id": 1}).to_list()
            waiting[f"{service}.{name} to announce"] = len(pending)
    unsent = await town.collection("notify", "notices").find({"due": {"$lt": "9999"}}, {"due": 1}).to_list()
    waiting["notices to deliver"] = len(unsent)
    chores = await town.collection("payment", "charges").find({"chore_at": {"$gt": ""}}, {"_id": 1}).to_list()
    waiting["charges with something to do"] = len(chores)
    async with jetstream_of(town) as jetstream:
        for stream in await jetstream.streams_info():
            for consumer in await jetstream.consumers_info(str(stream.config.name)):
                open_events = (consumer.num_pending or 0) + (consumer.num_ack_pending or 0)
                waiting[f"events for {consumer.name}"] = open_events
    return [f"{number} {what}" for what, number in waiting.items() if number]


async def at_rest(town: Town) -> None:
    """Returns when nothing is on its way any more."""
    deadline = time.monotonic() + PATIENCE
    while found := await undone(town):
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.2)


async def dead_events(town: Town) -> list[str]:
    """What was set aside."""
    async with jetstream_of(town) as jetstream:
        state = (await jetstream.stream_info("DEAD")).state
        numbers = range(max(1, state.first_seq), state.last_seq + 1)
        return [str((await jetstream.get_msg("DEAD", number)).headers) for number in numbers]


async def accounts_add_up(town: Town, before: Counter[str], *, mail_twice: bool) -> None:
    """What must hold over all dossiers together. `before` are the mails that were there earlier; with
    `mail_twice`, a mail that was in hand when a part died may have come again, with the same Message-ID."""
    coded = await town.collection("dossier", "dossiers_coded").find({}).to_list()
    codes = [entry["value"] for entry in coded]
    assert len(codes) == len(set(codes))
    dossiers = await town.collection("dossier", "dossiers").find({}).to_list()
    received = [d["state"]["code"] for d in dossiers if d["state"]["code"]]
    assert sorted(received) == sorted(codes)
    receipts = await town.collection("payment", "receipts").find({}).to_list()
    series = defaultdict(list)
    for receipt in receipts:
        state = receipt["state"]
        series[state["agency"], state["form"], state["series"]].append(state["number"])
    for name, numbers in series.items():
        assert sorted(numbers) == list(range(1, len(numbers) + 1)), name
    charges = await town.collection("payment", "charges").find({}).to_list()
    assert len(receipts) == sum(charge["state"]["state"] == "paid" for charge in charges)
    assert await dead_events(town) == []
    notices = await town.collection("notify", "notices").find({}).to_list()
    mailed = [notice for notice in notices if "email" in notice["state"]["deliveries"]]
    wanted = {derived("email", n["_id"]) for n in mailed if not KINDS[n["state"]["kind"]].purpose}
    mails = await caught_mails(town)
    # A link is made when its mail is sent, so each such mail has a Message-ID that no notice tells.
    linked, links = len(mailed) - len(wanted), set(mails) - wanted
    assert wanted <= set(mails)
    assert len(links) == linked or (mail_twice and len(links) > linked)
    twice = {id: copies for id, copies in (mails - before).items() if mails[id] > 1}
    assert not twice or mail_twice, twice


async def caught_mails(town: Town) -> Counter[str]:
    """How often each mail was caught, by the local part of its Message-ID."""
    async with httpx.AsyncClient(timeout=60) as browser:
        listed = (await browser.get(f"{town.where.mail}/mails", params={"newest": ALL_MAILS})).json()
    return Counter(mail["message_id"].strip("<>").partition("@")[0] for mail in listed)
