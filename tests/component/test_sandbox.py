"""The sandbox as its own process: what it shows and remembers, how it insists on an answer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from kit.ids import uuid7
from payment import vietqr, vnpay
from payment.vnpay import Outcome

Eventually = Callable[..., Awaitable[Any]]
MERCHANT = vnpay.Merchant("MOTCUA01", "sandbox-vnpay-secret")


class Merchant:
    """Takes notices and answers as it is told, by reference; the last answer stays."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str]] = {}
        self.heard: list[dict[str, str]] = []
        self.transfers: list[tuple[bytes, str]] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        request, *headers = head.split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (h.partition(":") for h in headers)}
        body = await reader.readexactly(int(fields.get("content-length", "0")))
        ref = ""
        if "x-signature" in fields:
            self.transfers.append((body, fields["x-signature"]))
        else:
            self.heard.append(dict(parse_qsl(urlsplit(request.split()[1]).query)))
            ref = self.heard[-1]["vnp_TxnRef"]
        answers = self.answers.get(ref, ["00"])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        said = json.dumps({"RspCode": answer}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(said), said)
        )
        await writer.drain()
        writer.close()

    def of(self, ref: str) -> list[dict[str, str]]:
        """What it heard about one transaction."""
        return [notice for notice in self.heard if notice["vnp_TxnRef"] == ref]


class Running:
    """A sandbox process on a data folder."""

    def __init__(self, folder: Path, merchant: Merchant) -> None:
        self._folder = folder
        self._merchant = merchant
        self._process: asyncio.subprocess.Process | None = None
        self.address = ""
        self.http = httpx.AsyncClient(timeout=10, trust_env=False)

    async def start(self, **settings: str) -> str:
        """Starts it, and answers the first line it printed."""
        notices = f"http://127.0.0.1:{self._merchant.port}"
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sandbox",
            env={
                **os.environ,
                "SANDBOX_LISTEN": "127.0.0.1:0",
                "SANDBOX_DATA_DIR": str(self._folder),
                "SANDBOX_RETRY_SECONDS": "0.05",
                "SANDBOX_TRIES": "4",
                "VNPAY_IPN_URL": f"{notices}/ipn",
                "BANK_NOTICE_URL": f"{notices}/transfer",
                **settings,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout
        line = (await asyncio.wait_for(self._process.stdout.readline(), 20)).decode().strip()
        self.address = line.rpartition(" ")[2]
        return line

    async def ended(self) -> tuple[int, str]:
        """Waits for the end: the exit code and what it said on stderr."""
        assert self._process
        _, said = await asyncio.wait_for(self._process.communicate(), 20)
        assert self._process.returncode is not None
        return self._process.returncode, said.decode()

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.communicate()

    async def open(self, ref: str, *, amount: int = 20_000, **changed: Any) -> httpx.Response:
        """The payment page, opened as a browser would."""
        now = datetime.now(UTC)
        url = vnpay.payment_url(
            f"{self.address}/paymentv2/vpcpay.html",
            MERCHANT,
            **{
                "txn_ref": ref,
                "amount": amount,
                "text": "Nop phi ho so <b>",
                "return_url": "http://portal.example/return?x=1",
                "client_address": "127.0.0.1",
                "locale": "vi",
                "created": now,
                "expires": now + timedelta(minutes=15),
                **changed,
            },
        )
        return await self.http.get(url)

    async def end(self, ref: str, **how: Any) -> httpx.Response:
        return await self.http.post(f"{self.address}/control/transactions/{ref}", json=how)

    async def merchant_api(self, body: dict[str, str]) -> dict[str, str]:
        answer: dict[str, str] = (
            await self.http.post(f"{self.address}/merchant_webapi/api/transaction", json=body)
        ).json()
        return answer

    async def query(self, ref: str) -> vnpay.Notice:
        now = datetime.now(UTC)
        body = vnpay.query_request(MERCHANT, request_id="q1", txn_ref=ref, begun=now, now=now)
        return vnpay.read_query_answer(await self.merchant_api(body), MERCHANT, ref)

    async def refund(self, ref: str, request: str, amount: int) -> tuple[str, str]:
        now = datetime.now(UTC)
        body = vnpay.refund_request(
            MERCHANT,
            request_id=request,
            txn_ref=ref,
            amount=amount,
            transaction_no="1",
            begun=now,
            by="cashier",
            now=now,
        )
        return vnpay.read_refund_answer(await self.merchant_api(body), MERCHANT)


@pytest.fixture(scope="module")
async def merchant() -> AsyncIterator[Merchant]:
    made = Merchant()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@pytest.fixture(scope="module")
async def shop(merchant: Merchant, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    made = Running(tmp_path_factory.mktemp("sandbox"), merchant)
    assert (await made.start()).startswith("sandbox ready on http://127.0.0.1:")
    yield made
    await made.kill()
    await made.http.aclose()


@pytest.fixture
def ref() -> str:
    """A reference that no other test uses."""
    return uuid7().replace("-", "")


async def test_the_page_names_amount_and_purpose_and_offers_labelled_choices(shop: Running, ref: str) -> None:
    page = (await shop.open(ref)).text
    assert '<html lang="vi">' in page
    assert "20.000 đ" in page
    assert "<b>" not in page
    for choice in ("pay", "cancel", "no_funds", "delay"):
        assert f'name="outcome" value="{choice}"' in page


async def test_a_query_that_was_altered_or_came_too_late_opens_nothing(shop: Running, ref: str) -> None:
    other = vnpay.Merchant("MOTCUA01", "another-secret")
    now = datetime.now(UTC)
    late = await shop.open(ref, expires=now - timedelta(minutes=1))
    assert (late.status_code, "quá hạn" in late.text) == (400, True)
    url = vnpay.payment_url(
        f"{shop.address}/paymentv2/vpcpay.html",
        other,
        txn_ref=ref,
        amount=1,
        text="x",
        return_url="http://portal.example",
        client_address="",
        locale="vi",
        created=now,
        expires=now + timedelta(minutes=1),
    )
    forged = await shop.http.get(url)
    assert (forged.status_code, "Sai chữ ký" in forged.text) == (400, True)
    assert (await shop.http.get(f"{shop.address}/paymentv2/vpcpay.html")).status_code == 400
    assert (await shop.query(ref)).outcome is Outcome.UNKNOWN


async def test_paying_tells_the_merchant_and_sends_the_browser_back(
    shop: Running, ref: str, merchant: Merchant, eventually: Eventually
) -> None:
    await shop.open(ref)
    back = await shop.http.post(f"{shop.address}/paymentv2/pay", data={"ref": ref, "outcome": "pay"})
    assert back.status_code == 303
    returned = dict(parse_qsl(urlsplit(back.headers["location"]).query))
    assert returned.pop("x") == "1"
    assert vnpay.read_notice(returned, MERCHANT).outcome is Outcome.PAID
    [heard] = await eventually(lambda: merchant.of(ref))
    notice = vnpay.read_notice(heard, MERCHANT)
    assert (notice.outcome, notice.amount, notice.txn_ref) == (Outcome.PAID, 20_000, ref)
    again = await shop.http.post(f"{shop.address}/paymentv2/pay", data={"ref": ref, "outcome": "cancel"})
    assert again.status_code == 409
    assert (await shop.open(ref)).status_code == 409
    assert (await shop.query(ref)).outcome is Outcome.PAID


@pytest.mark.parametrize(
    ("outcome", "expected", "code"),
    [
        ("cancel", Outcome.FAILED, "24"),
        ("no_funds", Outcome.FAILED, "51"),
        ("expired", Outcome.FAILED, "11"),
        ("suspect", Outcome.SUSPECT, "07"),
    ],
)
async def test_other_outcomes_carry_their_codes(
    shop: Running,
    ref: str,
    merchant: Merchant,
    eventually: Eventually,
    outcome: str,
    expected: Outcome,
    code: str,
) -> None:
    await shop.open(ref)
    assert (await shop.end(ref, outcome=outcome)).status_code == 200
    [heard] = await eventually(lambda: merchant.of(ref))
    notice = vnpay.read_notice(heard, MERCHANT)
    assert (notice.outcome, notice.code) == (expected, code)
    assert (await shop.query(ref)).outcome is expected


async def test_it_insists_until_it_is_answered_00_or_02_and_then_is_quiet(
    shop: Running, ref: str, merchant: Merchant, eventually: Eventually
) -> None:
    other = ref[::-1]
    merchant.answers |= {ref: ["99", "97", "02"], other: ["99"]}
    await shop.open(ref)
    await shop.end(ref)
    await eventually(lambda: len(merchant.of(ref)) == 3)
    await shop.open(other)
    await shop.end(other)

    async def given_up() -> bool:
        known = (await shop.http.get(f"{shop.address}/control/transactions/{other}")).json()
        return bool(known["notices"][0]["tries"] == 4)

    await eventually(given_up)
    assert (len(merchant.of(ref)), len(merchant.of(other))) == (3, 4)


async def test_notices_are_delayed_repeated_lost_or_spoilt_as_told(
    shop: Running, ref: str, merchant: Merchant, eventually: Eventually
) -> None:
    lost, spoilt, wrong, repeated = refs = [f"{ref}{n}" for n in range(4)]
    merchant.answers |= {spoilt: ["97", "02"], wrong: ["04", "02"]}
    for one in refs:
        await shop.open(one)
    await shop.end(lost, outcome="lose_ipn")
    await shop.end(spoilt, outcome="wrong_checksum")
    await shop.end(wrong, outcome="wrong_amount")
    await shop.end(repeated, repeat=2, delay_ms=300)
    assert merchant.of(repeated) == []
    await eventually(lambda: len(merchant.of(repeated)) == 3)
    assert [len(merchant.of(one)) for one in refs] == [0, 2, 2, 3]
    for notice in merchant.of(spoilt):
        with pytest.raises(vnpay.BadSignature):
            vnpay.read_notice(notice, MERCHANT)
    assert vnpay.read_notice(merchant.of(wrong)[0], MERCHANT).amount == 10_000
    assert (await shop.query(lost)).outcome is Outcome.PAID


async def test_kill_9_forgets_neither_who_paid_nor_what_is_still_to_be_told(
    shop: Running, ref: str, merchant: Merchant, eventually: Eventually
) -> None:
    await shop.open(ref)
    await shop.end(ref, delay_ms=500)
    await shop.kill()
    assert merchant.of(ref) == []
    await shop.start()
    assert (await shop.query(ref)).outcome is Outcome.PAID
    await eventually(lambda: merchant.of(ref))
    assert await shop.refund(ref, "r1", 20_000) == ("accepted", "00")
    await shop.kill()
    await shop.start()
    assert await shop.refund(ref, "r1", 20_000) == ("repeated", "94")
    assert (await shop.http.get(f"{shop.address}/control/transactions/{ref}")).json()["refunded"] == 20_000


async def test_no_more_goes_back_than_came_in(shop: Running, ref: str) -> None:
    await shop.open(ref)
    assert await shop.refund(ref, f"{ref}r0", 20_000) == ("refused", "95")
    await shop.end(ref)
    assert await shop.refund(ref, f"{ref}r1", 20_001) == ("refused", "02")
    assert await shop.refund(ref, f"{ref}r2", 20_000) == ("accepted", "00")
    assert await shop.refund(ref, f"{ref}r3", 1) == ("refused", "02")
    assert await shop.refund(ref[::-1], f"{ref}r4", 1) == ("refused", "91")


async def test_an_unsigned_call_of_the_apis_gets_97_and_changes_nothing(shop: Running, ref: str) -> None:
    await shop.open(ref)
    await shop.end(ref)
    now = datetime.now(UTC)
    body = vnpay.query_request(MERCHANT, request_id="q", txn_ref=ref, begun=now, now=now)
    body["vnp_SecureHash"] = "0" * 128
    assert (await shop.merchant_api(body))["vnp_ResponseCode"] == "97"
    for path in ("merchant_webapi/api/statement", "bank/api/refunds", "bank/api/transfers"):
        answer = await shop.http.post(f"{shop.address}/{path}", json={"date": "2026-11-23"})
        assert answer.json() == {"code": "97"}
    broken = await shop.http.post(f"{shop.address}/merchant_webapi/api/transaction", content=b"{")
    assert broken.json()["vnp_ResponseCode"] == "03"


async def test_a_vietqr_code_is_paid_and_the_bank_tells_so(
    shop: Running, merchant: Merchant, eventually: Eventually
) -> None:
    code = vietqr.build(vietqr.Transfer("970436", "1032026001", 20_000, "MC01"))
    page = await shop.http.get(f"{shop.address}/qr", params={"qr": code})
    assert "MC01" in page.text
    done = await shop.http.post(f"{shop.address}/qr", data={"qr": code, "amount": "20.000"})
    assert done.status_code == 200
    [(body, _)] = await eventually(lambda: merchant.transfers)
    notice = json.loads(body)
    assert (notice["amount"], notice["account"]) == (20_000, "1032026001")
    assert "MC01" in notice["content"]
    for wrong in (code[:-1] + "?", vietqr.build(vietqr.Transfer("970400", "1", 1)), ""):
        assert (await shop.http.post(f"{shop.address}/control/qr", json={"qr": wrong})).status_code == 400
        assert (await shop.http.post(f"{shop.address}/qr", data={"qr": wrong})).status_code == 400


async def test_what_it_cannot_do_it_says(shop: Running, ref: str) -> None:
    assert (await shop.end("nobody")).status_code == 404
    await shop.open(ref)
    assert (await shop.end(ref, outcome="miracle")).status_code == 400
    assert (await shop.end(ref, delay_ms="soon")).status_code == 400
    assert (
        await shop.http.post(f"{shop.address}/control/qr", json={"qr": 1, "amount": []})
    ).status_code == 400
    assert (await shop.http.get(f"{shop.address}/control/transactions/nobody")).status_code == 404
    assert (await shop.http.get(f"{shop.address}/healthz")).status_code == 200
    assert ref in (await shop.http.get(f"{shop.address}/")).text


async def test_it_refuses_production_and_bad_settings_in_one_line(shop: Running, tmp_path: Path) -> None:
    other = Running(tmp_path / "other", Merchant())
    busy = shop.address.removeprefix("http://")
    for settings, why in (
        ({"ENVIRONMENT": "production"}, "the payment sandbox must not run in production"),
        ({"SANDBOX_LISTEN": busy}, f"SANDBOX_LISTEN: cannot listen on {busy}"),
        ({"SANDBOX_LISTEN": "localhost"}, "SANDBOX_LISTEN: cannot listen on localhost"),
        ({"SANDBOX_TRIES": "many"}, "bad setting: SANDBOX_TRIES: "),
    ):
        await other.start(**settings)
        code, said = await other.ended()
        assert code == 2
        assert said.startswith(f"sandbox: {why}")
        assert said.count("\n") == 1
    await other.http.aclose()
