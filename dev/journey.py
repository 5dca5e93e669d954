"""The main journey through the public API: two citizens, officials of two agencies, the bank's sandbox.

`make demo` tells it step by step; the end-to-end tests play the same scenes. Whatever differs from what the
person expects is a Surprise.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from dev.parts import Addresses
from dev.person import JSON, Person, Surprise

PASSWORD = "Motcua@2026"  # noqa: S105 - of the demo accounts, which exist in development only
PROCEDURE = "2.000635"  # trích lục hộ tịch, 8.000 đ
RECEIVING, DECIDING = "H32.15", "H32.05"
PATIENCE = 20.0  # seconds that an effect of an event may take
VIETNAM = ZoneInfo("Asia/Ho_Chi_Minh")

T = TypeVar("T")

DOSSIER = """id code state etag dueTime paid currentStepId allowedActions closingReason
  currentAgency { code name } charges { id state amount { amount } receiptNumber }
  resultDocuments { id title trust }"""


@dataclass(frozen=True)
class Step:
    """One step as it happened: who did what, what they saw, and how long it took (seconds)."""

    who: str
    does: str
    sees: str
    seconds: float


@dataclass
class Diary:
    """Times the steps and tells each one as it ends."""

    tell: Callable[[Step], None]
    steps: list[Step] = field(default_factory=list)

    @asynccontextmanager
    async def step(self, who: Person | str, does: str) -> AsyncIterator[Callable[[str], None]]:
        """Around the step's acts; call what it gives with what the person sees."""
        seen: list[str] = []
        name = who if isinstance(who, str) else who.name
        began = time.perf_counter()
        try:
            yield seen.append
        except (Surprise, OSError) as error:
            raise Surprise(f"{name} – {does}: {error}") from error
        step = Step(name, does, "; ".join(seen), time.perf_counter() - began)
        self.steps.append(step)
        self.tell(step)


REQUESTS = "{ viewer { delegations(first: 5) { nodes { id state principalHint } } } }"


@dataclass
class Scene:
    """The people of one play, signed in, and the dossier between them."""

    where: Addresses
    diary: Diary
    an: Person
    binh: Person
    reception: Person
    examiner: Person
    leader: Person
    deciding_examiner: Person
    deciding_leader: Person
    dossier: str = ""
    code: str = ""
    document: str = ""
    result: bytes = b""


async def until(look: Callable[[], Awaitable[T | None]], what: str, seconds: float = PATIENCE) -> T:
    """What `look` answers as soon as it is not None. Raises Surprise when it stays None."""
    deadline = time.monotonic() + seconds
    while (found := await look()) is None:
        if time.monotonic() > deadline:
            raise Surprise(f"{what}: not within {seconds:.0f} s")
        await asyncio.sleep(0.1)
    return found


def pdf(text: str) -> bytes:
    """A one-page PDF with a line of ASCII text."""
    stream = f"BT /F1 18 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    out = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return (
        out
        + b"xref\n0 5\n0000000000 65535 f \n%strailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
        % (
            table,
            len(out),
        )
    )


def new_citizen() -> tuple[str, str]:
    """A citizen number and a phone number that nobody has yet, most likely."""
    number = f"056{random.choice('01')}{random.randint(50, 99)}{random.randint(0, 999_999):06}"  # noqa: S311
    return number, f"09{random.randint(0, 99_999_999):08}"  # noqa: S311


def local(instant: str | None) -> str:
    """An instant as people here write it."""
    if instant is None:
        return "–"
    return datetime.fromisoformat(instant).astimezone(VIETNAM).strftime("%H:%M %d/%m/%Y")


def dong(amount: int) -> str:
    """An amount as people here write it."""
    return f"{amount:,}".replace(",", ".") + " đ"


@asynccontextmanager
async def stage(where: Addresses, tell: Callable[[Step], None]) -> AsyncIterator[Scene]:
    """Everybody at their desks: the officials of the demo signed in, the citizens about to register."""
    diary = Diary(tell)
    async with AsyncExitStack() as open_people:

        async def person(name: str) -> Person:
            return await open_people.enter_async_context(Person(name, where.gateway))

        an, binh = await person("Nguyễn Thị An"), await person("Trần Văn Bình")
        scene = Scene(
            where,
            diary,
            an,
            binh,
            reception=await person("Tiếp nhận, phường Nha Trang"),
            examiner=await person("Thụ lý, phường Nha Trang"),
            leader=await person("Lãnh đạo, phường Nha Trang"),
            deciding_examiner=await person("Thụ lý, Sở Tư pháp"),
            deciding_leader=await person("Lãnh đạo, Sở Tư pháp"),
        )
        async with diary.step("Năm cán bộ", "đăng nhập") as sees:
            await asyncio.gather(
                scene.reception.sign_in("nt.tiepnhan", PASSWORD),
                scene.examiner.sign_in("nt.thuly", PASSWORD),
                scene.leader.sign_in("nt.lanhdao", PASSWORD),
                scene.deciding_examiner.sign_in("stp.thuly", PASSWORD),
                scene.deciding_leader.sign_in("stp.lanhdao", PASSWORD),
            )
            sees("bàn làm việc của mình")
        yield scene


async def play(where: Addresses, tell: Callable[[Step], None]) -> Diary:
    """The whole journey. Raises Surprise."""
    async with stage(where, tell) as scene:
        await register(scene)
        await keep_a_document(scene)
        await file_a_dossier(scene)
        await receive(scene)
        await pay(scene)
        await supplement(scene)
        await process(scene)
        await sign_and_hand_over(scene)
        await find_the_result(scene)
        await delegate_and_withdraw(scene)
        return scene.diary


async def register(scene: Scene) -> None:
    """Both citizens sign up and in, and prove at the counter who they are; a wrong number is refused."""
    an, binh = scene.an, scene.binh
    async with scene.diary.step(an, "đăng ký với số căn cước sai") as sees:
        problem = await an.refused(
            "signUp",
            "ValidationProblem",
            name=an.name,
            citizenNumber="12345",
            phone=new_citizen()[1],
            password=PASSWORD + "!",
        )
        sees(problem["violations"][0]["message"])
    for who in (an, binh):
        number, phone = new_citizen()
        async with scene.diary.step(who, "đăng ký và đăng nhập") as sees:
            await who.do(
                "signUp",
                "Account",
                "id",
                kind="PERSON",
                name=who.name,
                citizenNumber=number,
                phone=phone,
                email=f"{number}@example.vn",
                password=PASSWORD + number[-4:],
            )
            await who.sign_in(number, PASSWORD + number[-4:])
            viewer = (await who.ask("{ viewer { name verified } }"))["viewer"]
            sees(f"xin chào {viewer['name']}" + ("" if viewer["verified"] else ", chưa xác thực"))
        async with scene.diary.step(who, "xuất trình căn cước tại quầy, nhập mã của quầy") as sees:
            proven = await who.prove(scene.reception, name=who.name, number=number)
            sees("đã xác thực" if proven["verified"] else "chưa xác thực")


async def keep_a_document(scene: Scene) -> None:
    """An puts a document into her vault, once."""
    an = scene.an
    async with scene.diary.step(an, "tải một tệp không đúng loại lên kho") as sees:
        lie = b"MZ" + bytes(200)
        begun = await an.do(
            "beginUpload", "Upload", "url", size=len(lie), filename="x.pdf", contentType="application/pdf"
        )
        answer = await an.patch(begun["url"], lie)
        if answer.status_code < 400 or answer.status_code >= 500:
            raise Surprise(f"a file that lies about its type got HTTP {answer.status_code}")
        sees(f"bị từ chối (HTTP {answer.status_code}): {answer.text.strip()[:120]}")
    async with scene.diary.step(an, "tải giấy tờ lên kho (tus)") as sees:
        document = await an.upload(
            pdf("Giay khai sinh"),
            filename="giay-khai-sinh.pdf",
            contentType="application/pdf",
            type="birth_certificate",
            title="Giấy khai sinh",
        )
        scene.document = document["id"]
        sees(f"«{document['title']}» trong kho, mức tin cậy {document['trust']}")


def filled(schema: JSON, name: str) -> JSON:
    """Answers to the required questions of a form: the examples that its schema gives."""
    return {
        key: name if key == "requester_name" else schema["properties"][key]["examples"][0]
        for key in schema.get("required", [])
    }


async def file_a_dossier(scene: Scene) -> None:
    """An finds the procedure, fills its form, attaches her document and files."""
    an = scene.an
    async with scene.diary.step(an, "tìm «trich luc ho tich»") as sees:
        found = await an.ask(
            "query($q: String!) { procedures(query: $q, first: 5) { totalCount nodes { code name } } }",
            q="trich luc ho tich",
        )
        codes = [node["code"] for node in found["procedures"]["nodes"]]
        if PROCEDURE not in codes[:3]:
            raise Surprise(f"{PROCEDURE} is not among the first three: {codes}")
        sees(found["procedures"]["nodes"][codes.index(PROCEDURE)]["name"])
    procedure = (
        await an.ask(
            "query($code: String!) { procedure(code: $code) { code version form "
            "cases { id name components { id name required } } } }",
            code=PROCEDURE,
        )
    )["procedure"]
    case = procedure["cases"][0]
    form = filled(procedure["form"], an.name)
    attachments = [{"componentId": case["components"][-1]["id"], "documentId": scene.document}]
    async with scene.diary.step(an, "lập hồ sơ nháp thiếu thông tin rồi thử nộp") as sees:
        draft = await an.do(
            "createDossier",
            "Dossier",
            DOSSIER,
            procedureCode=PROCEDURE,
            caseId=case["id"],
            form={},
            attachments=attachments,
            receivingAgency=RECEIVING,
        )
        problem = await an.refused("submitDossier", "ValidationProblem", dossierId=draft["id"])
        sees(problem["message"])
    async with scene.diary.step(scene.binh, "thử dùng giấy tờ của người khác") as sees:
        problem = await scene.binh.attempt(
            "createDossier",
            "",
            procedureCode=PROCEDURE,
            caseId=case["id"],
            form=form,
            attachments=attachments,
            receivingAgency=RECEIVING,
        )
        if problem["__typename"] == "Dossier":
            raise Surprise("somebody else's document was attached")
        sees(problem["message"])
    async with scene.diary.step(an, "bổ sung tờ khai và nộp hồ sơ") as sees:
        draft = await an.do(
            "updateDossier",
            "Dossier",
            DOSSIER,
            dossierId=draft["id"],
            caseId=case["id"],
            form=form,
            attachments=attachments,
            receivingAgency=RECEIVING,
            etag=draft["etag"],
        )
        request = {"requestId": f"submit-{draft['id']}", "dossierId": draft["id"], "etag": draft["etag"]}
        submitted = await an.do("submitDossier", "Dossier", DOSSIER, **request)
        again = await an.do("submitDossier", "Dossier", DOSSIER, **request)
        if again["id"] != submitted["id"] or again["state"] != "NEWLY_FILED":
            raise Surprise(f"submitting twice with one requestId answered {again}")
        scene.dossier = submitted["id"]
        sees("hồ sơ mới đăng ký")


async def look(who: Person, dossier: str) -> JSON:
    """The dossier as this person sees it."""
    found = await who.ask(
        f"query($id: ID!) {{ node(id: $id) {{ ... on Dossier {{ {DOSSIER} }} }} }}", id=dossier
    )
    if found["node"] is None:
        raise Surprise(f"{who.name} does not see the dossier")
    return dict(found["node"])


async def in_state(who: Person, dossier: str, state: str) -> JSON:
    """The dossier as soon as it is in this state."""

    async def there() -> JSON | None:
        seen = await look(who, dossier)
        return seen if seen["state"] == state else None

    return await until(there, f"dossier {state}")


async def act(who: Person, mutation: str, scene: Scene, **input: Any) -> JSON:
    """An act on the scene's dossier with the etag that the person sees now."""
    seen = await look(who, scene.dossier)
    return await who.do(mutation, "Dossier", DOSSIER, dossierId=scene.dossier, etag=seen["etag"], **input)


async def receive(scene: Scene) -> None:
    """The desk finds the dossier in its worklist and receives it; anyone may then track its code."""
    desk = scene.reception
    async with scene.diary.step(desk, "tiếp nhận hồ sơ") as sees:

        async def listed() -> bool | None:
            worklist = await desk.ask("{ worklist(states: [NEWLY_FILED], first: 100) { nodes { id } } }")
            return any(node["id"] == scene.dossier for node in worklist["worklist"]["nodes"]) or None

        await until(listed, "the dossier in the worklist")
        received = await act(desk, "receiveDossier", scene)
        scene.code = received["code"]
        sees(f"mã {scene.code}, hẹn trả {local(received['dueTime'])}")
    async with scene.diary.step(scene.an, "nhận thông báo và e-mail tiếp nhận") as sees:
        notice = await noticed(scene.an, scene.code)
        mail = await mailed(scene, scene.code)
        sees(f"«{notice['title']}»; e-mail «{mail['subject']}»")
    async with scene.diary.step("Người bất kỳ", "tra cứu bằng mã hồ sơ") as sees:
        async with Person("Người bất kỳ", scene.where.gateway) as stranger:
            found = await stranger.ask(
                "query($code: String!) { track(code: $code) { code state procedureName dueTime } }",
                code=scene.code,
            )
        if scene.an.name in str(found):
            raise Surprise("tracking shows a person's name")
        sees(f"{found['track']['procedureName']}: {found['track']['state']}")


async def noticed(who: Person, text: str) -> JSON:
    """The newest notice whose title or body has this text."""

    async def there() -> JSON | None:
        notices = (await who.ask("{ viewer { notices(first: 50) { nodes { id title body kind } } } }"))[
            "viewer"
        ]["notices"]["nodes"]
        return next((notice for notice in notices if text in notice["title"] + notice["body"]), None)

    return await until(there, f"a notice with {text!r}")


async def mailed(scene: Scene, text: str) -> JSON:
    """The newest caught mail whose subject or text has this text."""

    async def there() -> JSON | None:
        mails = (await scene.an.get(f"{scene.where.mail}/mails")).json()
        return next((mail for mail in mails if text in str(mail)), None)

    return await until(there, f"an e-mail with {text!r}")


async def pay(scene: Scene) -> None:
    """The desk asks for the fee; An is refused by her bank once, then pays; the dossier goes on by itself."""
    an = scene.an
    async with scene.diary.step(scene.reception, "yêu cầu nộp lệ phí") as sees:
        asked = await act(scene.reception, "requestPayment", scene, quantities=[])
        sees(f"trạng thái {asked['state']}")
    async with scene.diary.step(an, "mở trang thanh toán nhưng không đủ tiền") as sees:

        async def charged() -> JSON | None:
            charges = (await look(an, scene.dossier))["charges"]
            return dict(charges[0]) if charges else None

        charge = await until(charged, "the charge")
        reference = await open_payment(scene, charge["id"])
        answer = await settle(scene, reference, "no_funds")
        await an.get(answer["return_url"])
        if (await look(an, scene.dossier))["paid"]:
            raise Surprise("a refused payment paid the charge")
        sees(f"phải nộp {dong(charge['amount']['amount'])}, ngân hàng từ chối")
    async with scene.diary.step(an, "một IPN giả mạo được gửi tới") as sees:
        forged = await an.get(
            f"{scene.where.gateway}/payments/vnpay/ipn",
            vnp_TxnRef=reference,
            vnp_Amount="1",
            vnp_ResponseCode="00",
            vnp_SecureHash="0" * 128,
        )
        if forged.json()["RspCode"] != "97":
            raise Surprise(f"a forged IPN got {forged.json()}")
        sees("bị từ chối, mã 97")
    async with scene.diary.step(an, "thanh toán thành công, ngân hàng báo ba lần") as sees:
        reference = await open_payment(scene, charge["id"])
        answer = await settle(scene, reference, "pay", repeat=2)
        await in_state(an, scene.dossier, "IN_PROCESS")

        async def receipt() -> str | None:
            charges = (await look(an, scene.dossier))["charges"]
            return charges[0]["receiptNumber"] or None

        number = await until(receipt, "the e-receipt")
        sees(f"biên lai {number}, hồ sơ được xử lý tiếp")


async def open_payment(scene: Scene, charge: str) -> str:
    """Opens the bank's page as a browser would and answers the payment's reference."""
    started = await scene.an.do(
        "payCharge", "PaymentStart", "redirectUrl payment { reference }", chargeId=charge, method="VNPAY"
    )
    page = await scene.an.get(started["redirectUrl"])
    if page.status_code != 200:
        raise Surprise(f"the payment page answered HTTP {page.status_code}")
    return str(started["payment"]["reference"])


async def settle(scene: Scene, reference: str, outcome: str, **how: Any) -> JSON:
    """Chooses at the sandbox how the payment ends."""
    answer = await scene.an.post(
        f"{scene.where.sandbox}/control/transactions/{reference}", {"outcome": outcome, **how}
    )
    if answer.status_code != 200:
        raise Surprise(f"the sandbox answered {answer.text}")
    return dict(answer.json())


async def supplement(scene: Scene) -> None:
    """The examiner asks for a better scan, once; An answers; the limit starts again in full."""
    async with scene.diary.step(scene.examiner, "yêu cầu bổ sung") as sees:
        asked = await act(
            scene.examiner,
            "requestSupplement",
            scene,
            defects=["Bản chụp giấy khai sinh bị mờ"],
            reason="Không đọc được số giấy",
            guidance="Chụp lại bản gốc",
        )
        sees(f"trạng thái {asked['state']}")
    async with scene.diary.step(scene.an, "bổ sung giấy tờ mới chụp") as sees:
        await noticed(scene.an, "Bản chụp giấy khai sinh bị mờ")
        document = await scene.an.upload(
            pdf("Giay khai sinh, ban ro"),
            filename="giay-khai-sinh-2.pdf",
            contentType="application/pdf",
            purpose="VERSION",
            documentId=scene.document,
        )
        if document["id"] != scene.document:
            raise Surprise("a new version became another document")
        attached = (await look_attachments(scene.an, scene.dossier))[0]["componentId"]
        answered = await act(
            scene.an,
            "supplementDossier",
            scene,
            attachments=[{"componentId": attached, "documentId": scene.document}],
            note="Đã chụp lại",
        )
        sees(f"hẹn trả mới {local(answered['dueTime'])}")
    async with scene.diary.step(scene.examiner, "yêu cầu bổ sung lần thứ hai") as sees:
        seen = await look(scene.examiner, scene.dossier)
        problem = await scene.examiner.refused(
            "requestSupplement",
            "WrongState",
            dossierId=scene.dossier,
            defects=["Thêm giấy tờ"],
            reason="Chưa đủ",
            etag=seen["etag"],
        )
        sees(problem["message"])


async def look_attachments(who: Person, dossier: str) -> list[JSON]:
    """What is attached to the dossier."""
    found = await who.ask(
        "query($id: ID!) { node(id: $id) { ... on Dossier { attachments { componentId } } } }", id=dossier
    )
    return list(found["node"]["attachments"])


async def process(scene: Scene) -> None:
    """Step by step: the ward examines, the Department of Justice checks, and it comes back to the ward."""
    for who, does in (
        (scene.examiner, "thụ lý xong, chuyển bước"),
        (scene.deciding_examiner, "đối chiếu xong, chuyển trả"),
    ):
        async with scene.diary.step(who, does) as sees:
            seen = await look(who, scene.dossier)
            if "complete_step" not in seen["allowedActions"]:
                raise Surprise(f"cannot complete the step: {seen}")
            done = await act(who, "completeStep", scene, stepId=seen["currentStepId"], note="Đã kiểm tra")
            sees(f"hồ sơ ở {done['currentAgency']['name']}, bước «{done['currentStepId']}»")
    async with scene.diary.step(scene.examiner, "xem số định danh của người nộp để đối chiếu") as sees:
        seen = await scene.examiner.ask(
            "query($id: ID!) { node(id: $id) { ... on Dossier { applicant { id name citizenNumber } } } }",
            id=scene.dossier,
        )
        applicant = seen["node"]["applicant"]
        record = await scene.examiner.do(
            "openAccountRecord", "AccountRecord", "citizenNumber", accountId=applicant["id"]
        )
        if applicant["citizenNumber"] == record["citizenNumber"]:
            raise Surprise("an official sees a citizen number without a record")
        sees(f"{applicant['name']}: {applicant['citizenNumber']}, mở đầy đủ và được ghi lại")
    async with scene.diary.step(scene.examiner, "chuyển hồ sơ cho Sở Tư pháp xem thêm") as sees:
        moved = await act(scene.examiner, "handOff", scene, toAgency=DECIDING, note="Xin ý kiến")
        sees(f"hồ sơ ở {moved['currentAgency']['name']}")
    async with scene.diary.step(scene.deciding_leader, "cho ý kiến và chuyển lại") as sees:
        moved = await act(scene.deciding_leader, "handOff", scene, toAgency=RECEIVING, note="Đồng ý")
        sees(f"hồ sơ ở {moved['currentAgency']['name']}")


async def sign_and_hand_over(scene: Scene) -> None:
    """The leader uploads and signs the result, the desk hands it over."""
    leader = scene.leader
    scene.result = pdf(f"Trich luc {scene.code}")
    async with scene.diary.step(leader, "tải kết quả lên và ký duyệt") as sees:
        document = await leader.upload(
            scene.result,
            filename="trich-luc.pdf",
            contentType="application/pdf",
            purpose="RESULT",
            dossierId=scene.dossier,
            type="civil_status_extract",
            title="Bản sao trích lục hộ tịch",
        )
        signed = await act(leader, "signResult", scene, documentId=document["id"])
        sees(f"trạng thái {signed['state']}")
    async with scene.diary.step(scene.reception, "trả kết quả") as sees:
        handed = await act(scene.reception, "handOverResult", scene)
        sees(f"trạng thái {handed['state']}")


async def find_the_result(scene: Scene) -> None:
    """An finds the result in her vault, reads it and rates the service; Bình may not see any of it."""
    an, binh = scene.an, scene.binh
    async with scene.diary.step(an, "mở kết quả trong kho") as sees:
        result = (await look(an, scene.dossier))["resultDocuments"][0]
        content = await an.download(result["id"])
        if hashlib.sha256(content).digest() != hashlib.sha256(scene.result).digest():
            raise Surprise("the result's bytes are not those that were signed")
        if await an.download(result["id"], first=8) != scene.result[:8]:
            raise Surprise("a range of the result is wrong")
        sees(f"«{result['title']}», {len(content)} byte, mức tin cậy {result['trust']}")
    async with scene.diary.step(an, "xem ai đã đọc và dùng giấy tờ của mình") as sees:
        found = await an.ask(
            "query($id: ID!) { node(id: $id) { ... on Document { accesses { nodes { act } } } } }",
            id=scene.document,
        )
        acts = {access["act"] for access in found["node"]["accesses"]["nodes"]}
        if "USE" not in acts:
            raise Surprise(f"the use in the dossier is not in the access log: {acts}")
        log = await an.ask("{ viewer { accesses { nodes { act purpose agency { name } actor { name } } } } }")
        looks = [access for access in log["viewer"]["accesses"]["nodes"] if access["act"] == "IDENTITY"]
        if not looks:
            raise Surprise("nobody is recorded to have seen An's numbers")
        sees(f"{', '.join(sorted(acts))}; {looks[0]['actor']['name']} đã xem số định danh")
    async with scene.diary.step(binh, "thử xem hồ sơ và kết quả của người khác") as sees:
        for id in (scene.dossier, result["id"]):
            if (await binh.ask("query($id: ID!) { node(id: $id) { id } }", id=id))["node"] is not None:
                raise Surprise("a stranger sees somebody else's dossier or document")
        problem = await binh.attempt("createDownload", "", documentId=result["id"])
        if problem["__typename"] not in ("NotFound", "Forbidden"):
            raise Surprise(f"a stranger got {problem}")
        sees(problem["message"])
    async with scene.diary.step(an, "đánh giá và đọc hết thông báo") as sees:
        await an.do("rateDossier", "Dossier", "rating", dossierId=scene.dossier, rating=5)
        await noticed(an, "kết quả")
        unread = (await an.ask("{ viewer { unreadNotices } }"))["viewer"]["unreadNotices"]
        read = await an.do("markNoticesRead", "NoticesRead", "unreadNotices")
        sees(f"5 sao; {unread} thông báo mới, còn {read['unreadNotices']}")


async def delegate_and_withdraw(scene: Scene) -> None:
    """An lets Bình see her dossiers and takes it back; Bình files a dossier of his own and withdraws it."""
    an, binh = scene.an, scene.binh
    async with scene.diary.step(an, "ủy quyền cho Bình xem hồ sơ, rồi thu hồi") as sees:
        number = (await binh.ask("{ viewer { citizenNumber } }"))["viewer"]["citizenNumber"]
        delegation = await an.do(
            "grantDelegation",
            "Delegation",
            "id",
            delegateIdentifier=number,
            scopes=["READ"],
            expireTime=(datetime.now(VIETNAM) + timedelta(days=7)).isoformat(),
        )
        asked = (await binh.ask(REQUESTS))["viewer"]["delegations"]["nodes"][0]
        sees(f"Bình thấy đề nghị từ số {asked['principalHint']}")
        await binh.do("acceptDelegation", "Delegation", "state", delegationId=asked["id"])
        await look(binh, scene.dossier)
        await an.do("revokeDelegation", "Delegation", "revokeTime", delegationId=delegation["id"])

        async def hidden() -> bool | None:
            found = await binh.ask("query($id: ID!) { node(id: $id) { id } }", id=scene.dossier)
            return True if found["node"] is None else None

        await until(hidden, "the end of the delegation")
        sees("Bình xem được trong lúc được ủy quyền, sau đó thì không")
    async with scene.diary.step(binh, "nộp một hồ sơ rồi rút") as sees:
        procedure = (
            await binh.ask("query($code: String!) { procedure(code: $code) { form } }", code=PROCEDURE)
        )["procedure"]
        draft = await binh.do(
            "createDossier",
            "Dossier",
            DOSSIER,
            procedureCode=PROCEDURE,
            form=filled(procedure["form"], binh.name),
            receivingAgency=RECEIVING,
        )
        submitted = await binh.do("submitDossier", "Dossier", DOSSIER, dossierId=draft["id"])
        withdrawn = await binh.do(
            "withdrawDossier", "Dossier", DOSSIER, dossierId=submitted["id"], reason="Nộp nhầm"
        )
        sees(f"trạng thái {withdrawn['state']}")
    async with scene.diary.step(scene.reception, "xem thống kê hôm nay") as sees:
        today = datetime.now(VIETNAM).date().isoformat()
        numbers = (
            await scene.reception.ask(
                "query($day: Date!, $agency: String) { statistics(from: $day, to: $day, agency: $agency) "
                "{ newlyReceived handledEarly handledOnTime } }",
                day=today,
                agency=RECEIVING,
            )
        )["statistics"]
        handled = numbers["handledEarly"] + numbers["handledOnTime"]
        if not handled:
            raise Surprise(f"the statistics do not count the dossier: {numbers}")
        sees(f"tiếp nhận {numbers['newlyReceived']}, đã giải quyết {handled}")
