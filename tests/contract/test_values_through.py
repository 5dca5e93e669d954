"""Every scalar and text, at its extremes and hostile, from a mutation through the event and the notice into
the mail, and into every list, calendar and count that takes it.

Prints a table of what arrived where. `FUZZ_EXAMPLES` says how many values of each flow are tried.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from html import escape
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from dev.journey import new_citizen
from gateway.ids import to_global
from kit import clock
from kit.auth import Caller, Role
from kit.ids import derived, uuid7
from motcua.catalog.v1 import catalog_pb2 as cat
from motcua.dossier.v1 import vault_pb2 as vault
from motcua.identity.v1 import identity_pb2 as idp
from motcua.notify.v1 import notify_pb2 as ntf
from motcua.payment.v1 import payment_pb2 as pay
from notify.texts import amount, instant, shown
from payment import vnpay

World = Any
Eventually = Callable[..., Awaitable[Any]]

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5"))
WARD, PROVINCE, FREE_FEES = "H32.15", "H32", "9.900002"

# Which consumers take which scalar. What is not in a row's set has no place where the scalar could arrive.
TAKES: Mapping[str, frozenset[str]] = {
    scalar: frozenset(consumers.split())
    for scalar, consumers in {
        "instant": "store notice mail reminder worklist track calendar",
        "date": "store catalog statistics agencies posts",
        "text": "store notice mail search",
        "list of texts": "store notice mail",
        "title": "store notice mail",
        "name": "store notice mail",
        "e-mail": "store notice mail",
        "amount": "store notice mail charge payment",
        "number": "store charge statistics calendar",
        "JSON": "store",
        "pay date": "store charge receipt notice mail",
    }.items()
}

DAYS = ("1800-01-01", "1900-02-28", "1911-05-01", "1975-04-30", "2000-02-29", "2026-11-29", "2199-12-31")
NO_DAYS = (
    "1799-12-31",
    "2200-01-01",
    "9999-12-31",
    "0001-01-01",
    "2026-02-30",
    "２０２６-01-01",
    "",
    "20260101",
)
DATES = st.sampled_from(DAYS) | st.sampled_from(NO_DAYS) | st.dates().map(str)
LATER = (
    "2027-06-30T05:00:00Z",
    "2199-12-31T23:59:59.999999999Z",
    "2199-12-31T16:59:59+00:00",
    "2199-12-31T17:00:00Z",
    "2200-01-01T06:59:59.999+07:00",
    "2027-01-01T00:00:00+23:59",
    "2027-01-01T00:00:00-23:59",
    "2028-02-29t23:59:59z",
)
NEVER = ("9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "1800-01-01T00:00:00Z", "2027-06-30T24:00:00Z")
INSTANTS = st.sampled_from(LATER) | st.sampled_from(NEVER)
TEXTS = st.sampled_from(
    (
        "thiếu giấy tờ",
        "nhận 500.000đ tại http://evil.example",
        "dòng 1\r\ndòng 2\u2028dòng 3\x85",
        'xong.”\n"Lý do: khác',
        "{0.__class__} %s {by}",
        "<script>alert(1)</script>&amp;",
        "=?utf-8?B?QmNj?=\r\nBcc: a@b.vn",
        "\u202egnort\u202c \u2066x\u2069\u200b\ufeff",
        "e" + "\u0301" * 300,
        "𠀋👩‍👩‍👧‍👦🇻🇳ﷺ",
        "Ð đ ð İ ı ẞ ŉ",
        "ệ" * 1_999,
        "ệ" * 100_000,
        "\x00",
        "\u3164\u200b",
        "   ",
        "",
        "\U0010ffff\ufdd0",
    )
) | st.text(max_size=60)
NAMES = st.sampled_from(
    (
        "Nguyễn Thị Ánh Nguyệt",
        "Võ " + "Rất " * 30 + "Dài",
        "O'Brien-Đặng",
        "nhận 500.000đ tại http://evil.example",
        "Ng\u200buyễn A\u0301n",
        "\u3164",
        "A\r\nBcc: x@y.vn",
        "=?utf-8?q?x?=",
        "Đ",
    )
)
EMAILS = (
    st.sampled_from(
        (
            f"{'a' * 64}@{'b' * 63}.{'c' * 63}.example.vn",
            "a.b+c!#$%&'*/=?^_`{|}~-@example.vn",
            "AN@Example.VN",
            "an@đồng.vn",
            "nguyễn@example.vn",
            "a@b\r\nBcc: c@d.vn",
            "a@" + "." * 5_000,
            '"a b"@example.vn',
        )
    )
    | st.emails()
)
AMOUNTS = st.sampled_from((1, 8_000, 9_999_999_999, 10**10, 10**13, 2**53, 2**53 + 1, 0, -1, -0, 5.0, 1.5))
NUMBERS = st.sampled_from((1, 2, 5, 100, 1_000_000, 1_000_001, 2**31 - 1, 2**31, 0, -1, 2**53, 10**30))
FORMS = st.fixed_dictionaries(
    {"name": TEXTS | st.just("Lan")},
    optional={
        "copies": st.sampled_from((1, 5, 2**53 - 1, 2**53 + 1, 0, -1, 1.5, 1e308, 10**400)),
        "lạ": st.none() | st.lists(st.integers(), max_size=3),
    },
)
PAY_DATES = st.sampled_from(
    (
        "20261123120000",
        "20260228235959",
        "00010101000000",
        "99991231235959",
        "20261332000000",
        "",
        "x" * 5_000,
    )
)


@dataclass
class Through:
    """What is tried, what was taken and where it was seen."""

    world: World
    mails: dict[str, EmailMessage]
    eventually: Eventually
    sent: Counter[str] = field(default_factory=Counter)
    taken: Counter[str] = field(default_factory=Counter)
    refused: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)

    async def mutate(self, name: str, who: str, select: str, /, **input: Any) -> Any:
        """What a mutation made, as selected; None when it was refused, which must be for a reason."""
        title = name[0].upper() + name[1:]
        document = (
            f"mutation($i: {title}Input!) {{ made: {name}(input: $i) {{ __typename {select} "
            "... on Problem { reason } ... on ValidationProblem { violations { field reason message } } } }"
        )
        answer = await self.world.graphql(document, {"i": input}, who=who)
        assert answer.status_code < 500, answer.text
        body = answer.json()
        for error in body.get("errors", ()):
            code = error["extensions"]["code"]
            assert code in ("INVALID_INPUT", "BAD_REQUEST"), (name, str(input)[:200], error)
            self.refused[name][error["extensions"].get("reason", code)] += 1
            return None
        made = body["data"]["made"]
        if "reason" in made and "id" not in made and "charge" not in made:
            for violation in made.get("violations") or [made]:
                self.refused[name][violation["reason"]] += 1
            return None
        return made

    async def ask(self, query: str, who: str, **variables: Any) -> Any:
        """The data of a query; None when it was refused for a reason."""
        types = {"day": "Date!", "text": "String!", "id": "ID!"}
        given = ", ".join(f"${name}: {types[name]}" for name in variables)
        document = f"query({given}) {{ {query} }}" if given else f"{{ {query} }}"
        answer = await self.world.graphql(document, variables, who=who)
        assert answer.status_code < 500, answer.text
        body = answer.json()
        for error in body.get("errors", ()):
            assert error["extensions"]["code"] not in ("INTERNAL", "UNAVAILABLE"), (query, variables, error)
            self.refused[query.partition("(")[0]][error["extensions"].get("reason", "?")] += 1
            return None
        return body["data"]

    async def told(self, who: str, kind: str, about: str, *words: str) -> list[str]:
        """Waits for the notice of a kind about a dossier or document and for its mail; both have the words.
        Answers the consumers that have seen the value."""

        async def noticed() -> Any:
            request = ntf.ListNoticesRequest(page_size=100)
            listed = await self.world.do("NotifyService.ListNotices", request, who)
            found = [n for n in listed.notices if n.kind == kind]
            found = [n for n in found if not about or about in (n.dossier_id, n.document_id, n.charge_id)]
            told[:] = [f"{n.title}\n{n.body}" for n in found]
            return [n for n, text in zip(found, told, strict=True) if all(word in text for word in words)]

        told: list[str] = []
        try:
            notice = (await self.eventually(noticed))[0]
        except AssertionError:
            raise AssertionError(f"no {kind} with {words} among {told[:2]}") from None

        mail = await self.eventually(lambda: self.mails.get(derived("email", notice.id)))
        assert mail["Subject"] == notice.title
        plain, html = (mail.get_body((kind,)).get_content() for kind in ("plain", "html"))
        for line in filter(None, notice.body.splitlines()):
            assert line in plain.replace("\r\n", "\n"), (line, plain)
            assert escape(line) in html, (line, html)
        return ["notice", "mail"]

    def turned_down(self, outcome: Any) -> bool:
        """Notes for which reasons a service refused; it must have some. Answers False."""
        assert outcome.code in ("INVALID_ARGUMENT", "FAILED_PRECONDITION"), outcome
        for violation in getattr(outcome.error, "violations", None) or [outcome]:
            self.refused["service"][violation.reason] += 1
        return False

    def note(self, scalar: str, *consumers: str) -> None:
        for consumer in consumers:
            assert consumer in TAKES[scalar], (scalar, consumer)
            self.seen[scalar, consumer] += 1


Flow = Callable[[Through, Any], Awaitable[bool]]
FLOWS: list[tuple[str, Any, Any, Flow]] = []


def flow(scalar: str, values: Any, usual: Any) -> Callable[[Flow], Flow]:
    """A way that values of a scalar take; `usual` is one that is always taken. The way answers whether the
    value was."""

    def add(way: Flow) -> Flow:
        FLOWS.append((scalar, values, usual, way))
        return way

    return add


def node(kind: str, id: str) -> str:
    return to_global(kind, id)


def stamp(value: str) -> Timestamp:
    made = Timestamp()
    made.FromJsonString(value.upper().replace(" ", "T"))
    return made


def as_stored(value: str) -> str:
    at = stamp(value)
    whole = datetime.fromtimestamp(at.seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{at.nanos // 1_000_000:03}Z"


@flow("instant", INSTANTS, LATER[0])
async def a_new_due_time(t: Through, value: str) -> bool:
    dossier = await t.world.received()
    made = await t.mutate(
        "extendDeadline",
        "examiner",
        "... on Dossier { id dueTime code }",
        dossierId=node("Dossier", dossier),
        newDueTime=value,
        reason="thiếu người",
    )
    if made is None:
        return False
    due = as_stored(value)
    assert made["dueTime"] == due
    found = await t.ask("track(code: $text) { dueTime }", "", text=made["code"])
    assert found["track"]["dueTime"] == due
    listed = await t.ask("worklist(due: LATER, first: 100) { nodes { id dueTime } }", "examiner")
    assert any(each["dueTime"] == due for each in listed["worklist"]["nodes"]), (due, listed)
    seen = await t.told("owner", "deadline_extended", dossier, instant(due, "vi"))

    def reminded() -> Any:
        (name,) = [each for each in t.world.databases if "_notify_" in each]
        kept = t.world.mongo[name]["deadlines"].find_one({"_id": dossier})
        return kept is not None and kept["state"]["due"] == due and kept

    assert (await t.eventually(reminded))["state"]["due"] == due
    t.note("instant", "store", "track", "worklist", "reminder", *seen)
    return True


@flow("instant", INSTANTS, LATER[0])
async def the_end_of_a_delegation(t: Through, value: str) -> bool:
    made = await t.mutate(
        "grantDelegation",
        "owner",
        "... on Delegation { id expireTime }",
        delegateIdentifier="001085000202",
        scopes=["READ"],
        expireTime=value,
    )
    if made is None:
        return False
    assert made["expireTime"] == as_stored(value)
    accepted = await t.mutate(
        "acceptDelegation", "stranger", "... on Delegation { id }", delegationId=made["id"]
    )
    if accepted is not None:
        seen = await t.told("owner", "delegation_granted", "", instant(as_stored(value), "vi"))
        t.note("instant", "store", *seen)
    ended = await t.mutate("revokeDelegation", "owner", "... on Delegation { id }", delegationId=made["id"])
    assert ended is not None
    return True


@flow("instant", INSTANTS, LATER[0])
async def a_start_of_a_time_limit(t: Through, value: str) -> bool:
    try:
        start = stamp(value)
    except ValueError:
        start = Timestamp(seconds=2**62)
    limit = cat.TimeLimit(amount=10, unit=cat.TIME_UNIT_WORKING_DAY)
    due = cat.ComputeDueRequest(start_time=start, limit=limit)
    outcome = await t.world.call("CatalogService.ComputeDue", due, "service:dossier")
    assert outcome.code in ("OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION"), outcome
    days = cat.CountWorkingDaysRequest(start_time=start, end_time=stamp("2026-12-31T00:00:00Z"))
    counted = await t.world.call("CatalogService.CountWorkingDays", days, "service:dossier")
    assert counted.code in ("OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION"), counted
    t.note("instant", "calendar")
    return bool(outcome.code == "OK")


@flow("date", DATES, "2026-01-01")
async def the_dates_of_a_document(t: Through, value: str) -> bool:
    made = await t.mutate(
        "beginUpload",
        "owner",
        "... on Upload { id }",
        size=10,
        filename="a.pdf",
        issueDate=value,
        expiryDate="2199-12-31",
    )
    kept = await t.world.document()
    changed = await t.mutate(
        "updateDocument",
        "owner",
        "... on Document { id issueDate }",
        documentId=node("Document", kept),
        issueDate=value,
    )
    if changed is None:
        return False
    assert value == "" or (made and changed["issueDate"] == value)
    t.note("date", "store")
    return True


@flow("date", DATES, "2026-01-01")
async def the_days_of_statistics(t: Through, value: str) -> bool:
    found = await t.ask("statistics(from: $day, to: $day) { newlyReceived }", "leader", day=value)
    agencies = await t.ask("agencies(onDate: $day) { nodes { code } }", "", day=value)
    assert (found is None) == (agencies is None)
    if found is None:
        return False
    t.note("date", "statistics", "agencies")
    return True


@flow("date", DATES, "2026-01-01")
async def the_dates_of_a_role(t: Through, value: str) -> bool:
    username = f"moi.{uuid7()[-12:]}"
    official = idp.CreateOfficialRequest(name="Cán Bộ", username=username, password="một mật khẩu dài")
    official.roles.add(agency=WARD, name="clerk", valid_from=value)
    outcome = await t.world.call("IdentityService.CreateOfficial", official, "admin")
    if outcome.code != "OK":
        return t.turned_down(outcome)
    id = outcome.reply.account.id

    def posted() -> Any:
        (name,) = [each for each in t.world.databases if "_notify_" in each]
        found = [t.world.mongo[name][each].find_one({"_id": id}) for each in ("contacts", "people")]
        return [each for each in found if each and value in str(each)]

    await t.eventually(posted)
    t.note("date", "store", "posts")
    return True


@flow("date", DATES, "2026-01-01")
async def the_dates_of_a_procedure(t: Through, value: str) -> bool:
    code = f"8.{random.randint(0, 999_999):06}"  # noqa: S311
    known = cat.GetProcedureRequest(code="9.900001")
    made = (await t.world.do("CatalogService.GetProcedure", known, "service:dossier")).procedure
    made.code, made.etag, made.effective_from = code, "", value
    made.fees[0].valid_from = value
    put = cat.PutProcedureRequest(procedure=made)
    outcome = await t.world.call("CatalogService.PutProcedure", put, "service:importer")
    quote = cat.QuoteFeeRequest(code=code, channel=cat.CHANNEL_COUNTER, on_date=value)
    quoted = await t.world.call("CatalogService.QuoteFee", quote, "service:dossier")
    assert quoted.code not in ("INTERNAL", "UNKNOWN"), quoted
    if outcome.code != "OK":
        return t.turned_down(outcome)
    t.note("date", "catalog")
    return True


@flow("text", TEXTS, "thiếu giấy tờ")
async def the_reason_of_an_end(t: Through, value: str) -> bool:
    dossier = await t.world.received()
    made = await t.mutate(
        "stopDossier",
        "examiner",
        "... on Dossier { id closingReason }",
        dossierId=node("Dossier", dossier),
        reason=value,
    )
    if made is None:
        return False
    seen = await t.told("owner", "dossier_stopped", dossier, shown(made["closingReason"]))
    t.note("text", "store", *seen)
    return True


@flow("text", TEXTS, "thiếu giấy tờ")
async def a_search(t: Through, value: str) -> bool:
    found = await t.ask("procedures(query: $text, first: 5) { nodes { code } }", "", text=value)
    await t.ask("track(code: $text) { code }", "", text=value)
    await t.ask("node(id: $id) { id }", "owner", id=value)
    if found is None:
        return False
    t.note("text", "search")
    return True


@flow("list of texts", st.lists(TEXTS, max_size=4) | st.just(["mờ"] * 2_000), ["trang 2 mờ", "thiếu chữ ký"])
async def what_is_missing(t: Through, value: list[str]) -> bool:
    dossier = await t.world.received()
    made = await t.mutate(
        "requestSupplement",
        "examiner",
        "... on Dossier { id supplement { defects } }",
        dossierId=node("Dossier", dossier),
        defects=value,
        reason="không đọc được",
        guidance="chụp lại",
    )
    if made is None:
        return False
    seen = await t.told(
        "owner", "supplement_requested", dossier, shown("; ".join(made["supplement"]["defects"]))
    )
    t.note("list of texts", "store", *seen)
    return True


@flow("title", TEXTS, "Giấy khai sinh")
async def the_title_of_a_document(t: Through, value: str) -> bool:
    document = await t.world.document()
    renamed = await t.mutate(
        "updateDocument",
        "owner",
        "... on Document { id title }",
        documentId=node("Document", document),
        title=value,
    )
    if renamed is None:
        return False
    dossier = await t.world.received(document)
    request = vault.VerifyDocumentRequest(
        id=document, dossier_id=dossier, trust=vault.TRUST_LEVEL_CERTIFIED_COPY
    )
    await t.world.do("VaultService.VerifyDocument", request, "reception")
    words = [shown(renamed["title"])] if renamed["title"] else []
    seen = await t.told("owner", "document_verified", document, *words)
    t.note("title", "store", *seen)
    return True


@flow("name", NAMES, "Nguyễn Thị Ánh Nguyệt")
async def the_name_of_an_official(t: Through, value: str) -> bool:
    official = idp.CreateOfficialRequest(
        name=value, username=f"ten.{uuid7()[-12:]}", password="một mật khẩu dài"
    )
    official.roles.add(agency=WARD, name="examiner")
    outcome = await t.world.call("IdentityService.CreateOfficial", official, "admin")
    if outcome.code != "OK":
        return t.turned_down(outcome)
    account = outcome.reply.account
    who = f"official {account.id}"
    t.world.tokens[who] = t.world.issue(Caller(account.id, "official", (Role(WARD, "examiner"),)))
    dossier = await t.world.received()
    made = await t.mutate(
        "stopDossier", who, "... on Dossier { id }", dossierId=node("Dossier", dossier), reason="trùng"
    )
    assert made is not None
    t.note("name", "store", *(await t.told("owner", "dossier_stopped", dossier, shown(account.name))))
    return True


@flow("e-mail", EMAILS, "an.moi@example.vn")
async def an_address(t: Through, value: str) -> bool:
    number, phone = new_citizen()
    made = await t.mutate(
        "openAccount",
        "reception",
        "... on OpenedAccount { account { id email } }",
        name="Trần Thị Mới",
        citizenNumber=number,
        phone=phone,
        email=value,
        agency=WARD,
        papers=[{"kind": "CITIZEN_CARD", "number": number}],
    )
    if made is None:
        return False
    id = made["account"]["id"]
    found = await t.world.do(
        "IdentityService.FindAccount", idp.FindAccountRequest(identifier=number), "service:gateway"
    )
    who = f"citizen {id}"
    t.world.tokens[who] = t.world.issue(Caller(found.account.id, "citizen", verified=True))
    seen = await t.told(who, "account_opened", "")
    t.note("e-mail", "store", *seen)
    return True


async def charged(t: Through, lines: list[dict[str, Any]]) -> tuple[str, str] | None:
    """The dossier and the charge of what was asked for; None when it was refused."""
    made = await t.mutate(
        "createDossier",
        "owner",
        "... on Dossier { id }",
        procedureCode=FREE_FEES,
        receivingAgency=WARD,
        form={"name": "Lan"},
    )
    assert made is not None
    for name, who in (("submitDossier", "owner"), ("receiveDossier", "reception")):
        assert await t.mutate(name, who, "... on Dossier { id }", dossierId=made["id"]) is not None
    asked = await t.mutate(
        "requestPayment", "examiner", "... on Dossier { id }", dossierId=made["id"], lines=lines
    )
    if asked is None:
        return None

    async def due() -> Any:
        found = await t.ask(
            "node(id: $id) { ... on Dossier { charges { id amount { amount } } } }", "owner", id=made["id"]
        )
        return found["node"]["charges"]

    (charge,) = await t.eventually(due)
    assert charge["amount"]["amount"] == sum(line["amount"] for line in lines)
    return made["id"], charge["id"]


@flow("amount", AMOUNTS, 8_000)
async def a_fee(t: Through, value: Any) -> bool:
    found = await charged(t, [{"name": "Phí", "amount": value}])
    if found is None:
        return False
    _, charge = found
    for method in ("VNPAY", "VIETQR"):
        paying = await t.mutate(
            "payCharge", "owner", "... on PaymentStart { charge { id } }", chargeId=charge, method=method
        )
        assert paying is not None, (value, t.refused["payCharge"])
    listed = await t.world.do("NotifyService.ListNotices", ntf.ListNoticesRequest(page_size=1), "owner")
    assert listed is not None
    seen = await t.told("owner", "payment_requested", "", amount(str(int(value)), "vi"))
    t.note("amount", "store", "charge", "payment", *seen)
    return True


@flow("number", NUMBERS, 5)
async def a_quantity(t: Through, value: Any) -> bool:
    found = await charged(t, [{"name": "Phí", "amount": 1000, "quantity": value}])
    if found is None:
        return False
    t.note("number", "store", "charge")
    return True


@flow("number", NUMBERS, 5)
async def a_rating(t: Through, value: Any) -> bool:
    if "rated" not in t.world.kept:
        t.world.kept["rated"] = await t.world.finished()
    dossier = t.world.kept["rated"]
    made = await t.mutate(
        "rateDossier",
        "owner",
        "... on Dossier { id rating }",
        dossierId=node("Dossier", dossier),
        rating=value,
        comment="tốt",
    )
    if made is None:
        return False
    del t.world.kept["rated"]
    found = await t.ask(
        "statistics(from: $day, to: $day) { rated }", "leader", day=str(datetime.now(UTC).date())
    )
    assert made["rating"] == value
    assert found["statistics"]["rated"] is not None
    t.note("number", "store", "statistics")
    return True


@flow("number", NUMBERS, 5)
async def the_length_of_a_time_limit(t: Through, value: Any) -> bool:
    if not -(2**31) <= value < 2**31:
        return False
    taken = False
    for unit in (cat.TIME_UNIT_WORKING_DAY, cat.TIME_UNIT_DAY, cat.TIME_UNIT_HOUR):
        limit = cat.TimeLimit(amount=value, unit=unit)
        due = cat.ComputeDueRequest(start_time=stamp("2026-11-23T01:00:00Z"), limit=limit)
        outcome = await t.world.call("CatalogService.ComputeDue", due, "service:dossier")
        assert outcome.code in ("OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION"), outcome
        taken = taken or outcome.code == "OK"
    if taken:
        t.note("number", "calendar")
    return taken


@flow("JSON", FORMS, {"name": "Lan", "copies": 2**53 - 1})
async def a_form(t: Through, value: Any) -> bool:
    try:
        made = await t.mutate(
            "createDossier",
            "owner",
            "... on Dossier { id form }",
            procedureCode="9.900001",
            receivingAgency=WARD,
            form=value,
        )
    except (ValueError, OverflowError):  # what JSON cannot write never leaves the client
        return False
    if made is None:
        return False
    assert made["form"].keys() == value.keys()
    filed = await t.mutate("submitDossier", "owner", "... on Dossier { id form }", dossierId=made["id"])
    if filed is None:
        return False
    assert filed["form"].get("copies") == value.get("copies")
    t.note("JSON", "store")
    return True


@flow("pay date", PAY_DATES, vnpay.stamp(clock.now()))
async def the_moment_of_a_payment(t: Through, value: str) -> bool:
    charge = await t.world.charged()
    request = pay.BeginPaymentRequest(charge_id=charge, method=pay.PAYMENT_METHOD_VNPAY)
    begun = await t.world.do("PaymentService.BeginPayment", request, "owner")
    told = t.world.notice(begun.payment.reference, begun.payment.amount, vnp_PayDate=value)
    outcome = await t.world.call(
        "PaymentService.HandleVnpayIpn", pay.HandleVnpayIpnRequest(parameters=told), "nobody"
    )
    assert outcome.code in ("OK", "INVALID_ARGUMENT"), outcome
    t.note("pay date", "charge")
    found = await t.world.do("PaymentService.GetCharge", pay.GetChargeRequest(id=charge), "owner")
    if found.charge.state != pay.CHARGE_STATE_PAID:
        return False
    seen = await t.told("owner", "charge_paid", charge)

    async def receipted() -> Any:
        listed = await t.world.do(
            "PaymentService.ListReceipts", pay.ListReceiptsRequest(page_size=100), "owner"
        )
        return [receipt for receipt in listed.receipts if receipt.charge_id == charge]

    await t.eventually(receipted)
    t.note("pay date", "store", "receipt", *seen)
    return True


def table(t: Through) -> Table:
    """Scalars by consumers: how often one was seen in the other, and `–` where it does not arrive."""
    consumers = list(dict.fromkeys(each for scalar in TAKES for each in sorted(TAKES[scalar])))
    shown_ = Table(title="scalar × consumer")
    for head in ("scalar", "sent", "taken", *consumers):
        shown_.add_column(head, justify="left" if head == "scalar" else "right")
    for scalar, takes in TAKES.items():
        cells = [str(t.seen[scalar, each]) if each in takes else "–" for each in consumers]
        shown_.add_row(scalar, str(t.sent[scalar]), str(t.taken[scalar]), *cells)
    return shown_


async def test_every_scalar_reaches_every_consumer_that_takes_it(
    world: World, eventually: Eventually, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.unpriced(FREE_FEES)
    t = Through(world, world.mails, eventually)
    loop = asyncio.get_running_loop()
    for scalar, values, usual, way in FLOWS:

        async def one(value: Any, scalar: str = scalar, way: Flow = way) -> None:
            t.sent[scalar] += 1
            t.taken[scalar] += await way(t, value)

        def every(values: Any = values, usual: Any = usual, one: Any = one) -> None:
            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @example(value=usual)
            @given(value=values)
            def each(value: Any) -> None:
                asyncio.run_coroutine_threadsafe(one(value), loop).result(60)

            each()

        await asyncio.to_thread(every)
    await world.quiet()
    dead = await world.jetstream.stream_info("DEAD")
    with capsys.disabled():
        console = Console(width=170)
        console.print()
        console.print(table(t))
        for name, reasons in sorted(t.refused.items()):
            console.print(f"{name} was refused: {dict(reasons)}")
    assert dead.state.messages == 0, "an event could not be handled"
    missing = [
        (scalar, each) for scalar in TAKES for each in sorted(TAKES[scalar]) if not t.seen[scalar, each]
    ]
    assert not missing
    sent, taken = sum(t.sent.values()), sum(t.taken.values())
    assert taken >= 0.3 * sent, (taken, sent)
