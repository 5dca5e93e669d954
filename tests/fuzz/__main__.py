"""`make fuzz`: requests that schemathesis makes up of the GraphQL schema, against a whole stack.

python -m tests.fuzz [--minutes 5] [--seed 1]

A stranger, a citizen and officials ask in turn. Nothing may answer with a 5xx, nothing unexpected may happen
inside, nothing may be told of our inside and no event may end in DEAD; half of the requests must reach a
resolver, and every root field must be reached. What a document may cost and how often somebody may try are
raised for this stack, or the limits would answer most of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nats
from rich.console import Console
from rich.table import Table

from dev.journey import DOSSIER, PASSWORD, PROCEDURE, RECEIVING, filled, look, new_citizen, pdf, until
from dev.options import ROOT, private
from dev.parts import Addresses
from dev.person import Person
from dev.stack import Stack

PYTHON = ROOT / ".venv-fuzz" / "bin" / "python"
OFFICIALS = ("nt.tiepnhan", "nt.thuly", "nt.lanhdao", "stp.thuly", "quantri")
RAISED = {
    "MAX_COST": "100000000",
    "MAX_DEPTH": "100",
    "MAX_ALIASES": "1000",
    "MAX_TOKENS": "20000",
    "SIGN_IN_TRIES": "1000000",
    "SIGN_IN_TRIES_ADDRESS": "1000000",
    "SIGN_UP_TRIES_ADDRESS": "1000000",
    "TRACK_TRIES": "1000000",
    "UPLOAD_OPEN": "10000",
}
_UNEXPECTED = re.compile(r"internal error|unexpected failure|Traceback|never retrieved")
Report = dict[str, Any]


async def prepare(where: Addresses) -> Report:
    """People, and things of theirs in many states; what a request needs to name them."""
    number, phone = new_citizen()
    other, other_phone = new_citizen()
    password = PASSWORD + "!"
    ids: dict[str, list[str]] = {}

    def keep(kind: str, id: str) -> str:
        ids.setdefault(kind, []).append(id)
        return id

    async def signed_up(name: str, number: str, phone: str) -> str:
        person = Person(name, where.gateway)
        async with person:
            made = await person.do(
                "signUp",
                "Account",
                "id",
                kind="PERSON",
                name=name,
                citizenNumber=number,
                phone=phone,
                email=f"{number}@example.vn",
                password=password,
            )
            return str(made["id"])

    keep("Account", await signed_up("Nguyễn Thị An", number, phone))
    keep("Spare", await signed_up("Trần Văn Bình", other, other_phone))
    async with Person("An", where.gateway) as citizen, Person("desk", where.gateway) as desk:
        await citizen.sign_in(number, password)
        await desk.sign_in(OFFICIALS[0], PASSWORD)
        document = await citizen.upload(
            pdf("Giay khai sinh"),
            filename="giay-khai-sinh.pdf",
            contentType="application/pdf",
            type="birth_certificate",
            title="Giấy khai sinh",
        )
        keep("Document", document["id"])
        asked = "query($code: String!) { procedure(code: $code) { form cases { id components { id } } } }"
        procedure = (await citizen.ask(asked, code=PROCEDURE))["procedure"]
        case = procedure["cases"][0]
        form = filled(procedure["form"], "Nguyễn Thị An")
        component = case["components"][-1]["id"]
        for state in ("draft", "draft", "filed", "filed", "received", "received", "asked", "lacking"):
            draft = await citizen.do(
                "createDossier",
                "Dossier",
                DOSSIER,
                procedureCode=PROCEDURE,
                caseId=case["id"],
                form=form,
                attachments=[{"componentId": component, "documentId": document["id"]}],
                receivingAgency=RECEIVING,
            )
            dossier = keep("Dossier", draft["id"])
            if state != "draft":
                await _act(citizen, "submitDossier", dossier)
            if state in ("received", "asked", "lacking"):
                await _act(desk, "receiveDossier", dossier)
            if state == "asked":
                await _act(desk, "requestPayment", dossier, quantities=[])

                async def charged(dossier: str = dossier) -> str | None:
                    charges = (await look(citizen, dossier))["charges"]
                    return charges[0]["id"] if charges else None

                keep("Charge", await until(charged, "the charge"))
    days = ["2026-01-01", "2026-12-31", "2027-06-30"]
    instants = ["2027-06-30T05:00:00Z", "2028-01-01T00:00:00Z", "2199-12-31T23:59:59Z"]
    known: dict[str, list[Any]] = {
        "code": [PROCEDURE, RECEIVING, "H32.15-261121-0001"],
        "procedureCode": [PROCEDURE],
        **{name: [RECEIVING, "H32.05"] for name in ("receivingAgency", "toAgency", "agency")},
        "caseId": [case["id"]],
        "componentId": [component],
        "form": [form],
        "first": [1, 20, 100],
        **dict.fromkeys(("from", "to", "onDate", "issueDate"), days),
        "expiryDate": ["2199-12-31"],
        **dict.fromkeys(("expireTime", "newDueTime"), instants),
        "identifier": [number, f"{number}@example.vn", OFFICIALS[0]],
        "delegateIdentifier": [other, f"{other}@example.vn"],
        "citizenNumber": [new_citizen()[0] for _ in range(40)],
        "phone": [new_citizen()[1] for _ in range(40)],
        "email": ["moi@example.vn", "an@example.vn"],
        "password": [password, "một mật khẩu dài"],
        "newPassword": ["một mật khẩu khác dài"],
        "name": ["Lê Văn Ủy", "Công ty TNHH 36", "Phạm Thị Ánh Nguyệt"],
        "reason": ["thiếu giấy tờ", "dòng 1\ndòng 2", "xem http://evil.example"],
        **{name: ["rõ ràng", "bổ sung trang 2", "{0.__class__}"] for name in ("note", "guidance", "comment")},
        "defects": [["trang 2 mờ"], ["thiếu chữ ký", "thiếu ngày"]],
        "filename": ["giấy.pdf", "ảnh.jpg"],
        "contentType": ["application/pdf"],
        "size": [10, 2_000_000],
        "sha256": [None],
        "type": ["birth_certificate", None],
        "title": ["Giấy khai sinh", "Bản sao"],
        "stepId": ["examine", "receive"],
        "rating": [1, 5],
        "quantities": [[], [{"unit": "page", "count": 3}]],
        "lines": [None],
        "version": [1],
        "locale": ["vi", "en"],
        "query": ["khai sinh", "đất đai"],
    }
    return {
        "people": {
            "stranger": [],
            "citizen": [[number, password]],
            "official": [[name, PASSWORD] for name in OFFICIALS],
        },
        "known": known,
        "ids": ids,
        "form": form,
    }


async def _act(who: Person, mutation: str, dossier: str, **input: Any) -> None:
    etag = (await look(who, dossier))["etag"]
    await who.do(mutation, "Dossier", "id", dossierId=dossier, etag=etag, **input)


async def dead(where: Addresses) -> list[str]:
    """Headers of what was set aside."""
    client = await nats.connect(where.nats.split(","))
    try:
        jetstream = client.jetstream()
        state = (await jetstream.stream_info("DEAD")).state
        numbers = range(max(1, state.first_seq), state.last_seq + 1)
        return [str((await jetstream.get_msg("DEAD", number)).headers) for number in numbers]
    finally:
        await client.close()


def unexpected(logs: Path) -> list[str]:
    """Lines of the services' logs that tell of something that nobody expected."""
    found = []
    for log in sorted(logs.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()
        found += [f"{log.stem}: {line[:300]}" for line in lines if _UNEXPECTED.search(line)]
    return found


def table(report: Report) -> Table:
    """Each root field: how often it was asked by whom, how much of it reached a resolver and was done."""
    shown = Table(title="schemathesis: requests by root field")
    for head in ("root field", "stranger", "citizen", "official", "reached", "done", "most told"):
        shown.add_column(head, justify="left" if head in ("root field", "most told") else "right")
    for label, met in sorted(report["met"].items()):
        sent, reached = sum(met["sent"].values()), sum(met["reached"].values())
        told = sorted(met["told"].items(), key=lambda item: -item[1])[:3]
        shown.add_row(
            label,
            *(str(met["sent"].get(kind, 0)) for kind in ("stranger", "citizen", "official")),
            f"{100 * reached // max(sent, 1)} %",
            str(met["done"]),
            ", ".join(f"{reason} {times}" for reason, times in told),
        )
    return shown


def wrong(report: Report, fields: list[str], lines: list[str], set_aside: list[str]) -> list[str]:
    """What must not be, in words; nothing when all is well."""
    met: Mapping[str, Any] = report["met"]
    sent = sum(sum(each["sent"].values()) for each in met.values())
    reached = sum(sum(each["reached"].values()) for each in met.values())
    never = [label for label in fields if not sum(met.get(label, {"reached": {}})["reached"].values())]
    found = [
        f"{fault['field']} as {fault['who']}: {fault['status']} {fault['text']}" for fault in report["faults"]
    ]
    found += [f"in the log: {line}" for line in lines]
    found += [f"in DEAD: {header}" for header in set_aside]
    if reached * 2 < sent:
        found.append(f"only {reached} of {sent} requests reached a resolver")
    if never:
        found.append(f"never reached: {', '.join(never)}")
    return found


def root_fields() -> list[str]:
    """Every field of Query, Mutation and Subscription."""
    from gateway.schema import schema

    made = schema()
    types = (made.query_type, made.mutation_type, made.subscription_type)
    return [f"{type_.name}.{name}" for type_ in types if type_ is not None for name in type_.fields]


async def run(minutes: float, seed: int, console: Console) -> int:
    """Fuzzes a stack of its own. Answers 0 when everything was as it must be."""
    os.environ.update(RAISED)
    with tempfile.TemporaryDirectory(prefix="motcua-fuzz-") as folder:
        home = Path(folder)
        async with Stack(private(home / "data")) as stack:
            prepared = await prepare(stack.addresses)
            prepared |= {
                "url": f"{stack.addresses.gateway}/graphql",
                "schema": str(ROOT / "graphql" / "schema.graphql"),
                "minutes": minutes,
                "seed": seed,
            }
            (home / "prepared.json").write_text(json.dumps(prepared, ensure_ascii=False))
            console.print(f"asking for {minutes} minutes; raised for it: {RAISED}")
            process = await asyncio.create_subprocess_exec(
                str(PYTHON), str(ROOT / "tests/fuzz/generated.py"), "prepared.json", "report.json", cwd=home
            )
            if await process.wait():
                return 2
            report = json.loads((home / "report.json").read_text())
            report_to = os.environ.get("FUZZ_REPORT")
            if report_to:
                Path(report_to).write_text(json.dumps(report, ensure_ascii=False, indent=1))
            lines, set_aside = unexpected(stack.addresses.logs), await dead(stack.addresses)
    console.print(table(report))
    sent = sum(sum(each["sent"].values()) for each in report["met"].values())
    reached = sum(sum(each["reached"].values()) for each in report["met"].values())
    console.print(
        f"{sent} requests, {reached} reached a resolver ({100 * reached // max(sent, 1)} %), "
        f"{report['fault_count']} faults, sign-ins refused: {report['missed']}"
    )
    problems = wrong(report, root_fields(), lines, set_aside)
    for problem in problems[:60]:
        console.print(problem, style="red", markup=False, soft_wrap=True)
    return 1 if problems else 0


def main() -> int:
    """Entry of `make fuzz`."""
    parser = argparse.ArgumentParser(
        prog="make fuzz",
        usage='make fuzz ARGS="[--minutes N] [--seed N]"',
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="how long")
    parser.add_argument("--seed", type=int, default=1, help="plays the same requests again, as far as ids go")
    arguments = parser.parse_args()
    return asyncio.run(run(arguments.minutes, arguments.seed, Console(width=150)))


if __name__ == "__main__":
    raise SystemExit(main())
