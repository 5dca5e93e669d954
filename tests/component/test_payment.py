"""payment as it runs: dossiers' events in, the sandbox gateway over HTTP, real NATS and document store."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import grpc
import httpx
import nats
import pytest
import uvicorn
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import sandbox.app
import sandbox.settings
from kit import clock
from kit.auth import Caller, Role, TokenVerifier
from kit.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    Forbidden,
    InvalidInput,
    NotFound,
    Unauthenticated,
)
from kit.events import entry_of
from kit.grpc_client import connect
from kit.ids import uuid7
from kit.service import Service
from kit.status import from_rpc
from kit.streams import provision_stream
from motcua.dossier.v1 import events_pb2 as dossier
from motcua.dossier.v1.dossier_pb2 import FeeLine
from motcua.payment.v1 import events_pb2 as announced
from motcua.payment.v1 import payment_pb2 as pb
from motcua.payment.v1.payment_pb2_grpc import PaymentServiceStub
from payment import vietqr
from payment.bootstrap import build
from payment.settings import Settings

Eventually = Callable[..., Awaitable[Any]]
FEE = 20_000


class Spoken(TokenVerifier):
    """Takes `kind:subject:role@agency,…` for a token."""

    def __init__(self) -> None:
        """Has no keys."""
        self.ended = None

    async def verify(self, token: str) -> Caller:
        kind, subject, roles = (token + "::").split(":")[:3]
        if not subject:
            raise Unauthenticated("TOKEN_INVALID")
        held = (role.partition("@") for role in roles.split(",") if role)
        return Caller(subject, kind, tuple(Role(agency, name) for name, _, agency in held))


class People:
    async def payer(self, account: str) -> tuple[str, str]:
        return "Nguyễn Thị An", "0312345678"


def listen() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener


@asynccontextmanager
async def serving(app: Starlette, listener: socket.socket) -> AsyncIterator[str]:
    """The app under uvicorn in this loop; answers its address."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on"))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    running = asyncio.create_task(server.serve([listener]))
    async with asyncio.timeout(10):
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


class Edge:
    """The paths of the public gateway that a payment gateway calls; `port` is payment's."""

    def __init__(self) -> None:
        self.port = 0
        self.app = Starlette(
            routes=[
                Route("/payments/vnpay/ipn", self._ipn),
                Route("/payments/transfer/notice", self._transfer, methods=["POST"]),
            ]
        )

    async def _ipn(self, request: Request) -> JSONResponse:
        return await self._forward(
            "HandleVnpayIpn", pb.HandleVnpayIpnRequest(parameters=dict(request.query_params))
        )

    async def _transfer(self, request: Request) -> JSONResponse:
        signature = request.headers.get("x-signature", "")
        return await self._forward(
            "HandleTransferNotice",
            pb.HandleTransferNoticeRequest(body=await request.body(), signature=signature),
        )

    async def _forward(self, method: str, message: Message) -> JSONResponse:
        async with connect(f"127.0.0.1:{self.port}", timeout=5) as channel:
            try:
                answer = await getattr(PaymentServiceStub(channel), method)(message)
            except grpc.aio.AioRpcError:
                return JSONResponse({"RspCode": "99", "Message": "Unknown error"})
        return JSONResponse({"RspCode": answer.rsp_code, "Message": answer.message})


class World:
    """A running payment with the sandbox before it, and what it announced."""

    service: Service
    stub: Any

    def __init__(self, settings: Settings, edge: Edge, shop: str, client: Any) -> None:
        self.settings = settings
        self.edge = edge
        self.sandbox = shop
        self.nats = client
        self.http = httpx.AsyncClient(timeout=10, trust_env=False)
        self.events: list[Any] = []
        self._channel: Any = None

    async def start(self, settings: Settings | None = None) -> None:
        """Runs payment, with a store of its own or as the settings say."""
        self.service = build(settings or self.settings, verifier=Spoken(), people=People())
        await self.service.start()
        self.edge.port = self.service.port
        self._channel = connect(f"127.0.0.1:{self.service.port}")
        self.stub = PaymentServiceStub(self._channel)

    async def stop(self) -> None:
        await self._channel.close()
        await self.service.stop()

    async def hear(self) -> None:
        seen: set[str] = set()

        async def note(message: Any) -> None:
            name, id = message.headers["ce-type"].rpartition(".")[2], message.headers["Nats-Msg-Id"]
            if id in seen:  # two relays may publish the same event; the stream keeps it once
                return
            seen.add(id)
            self.events.append(getattr(announced, name).FromString(message.data))

        await self.nats.subscribe("motcua.payment.v1.>", cb=note)

    def heard(self, kind: Any, charge: str) -> list[Any]:
        return [e for e in self.events if isinstance(e, kind) and e.charge.charge_id == charge]

    async def announce(self, message: Any, id: str = "") -> str:
        """Publishes a dossier's event as the dossier service would; answers its id."""
        entry = entry_of("dossier", message.dossier.dossier_id, message, clock.to_text(clock.now()))
        id = id or entry.id
        headers = {"Nats-Msg-Id": uuid7(), "ce-id": id, "ce-type": entry.type, "ce-time": entry.time}
        headers |= {"Nats-Expected-Stream": "dossier"}
        await self.nats.jetstream().publish(entry.subject, entry.payload(), headers=headers)
        return id

    async def call(self, who: str, method: str, request: Message) -> Any:
        metadata = (("authorization", f"Bearer {who}"),) if who else None
        try:
            return await getattr(self.stub, method)(request, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error

    async def charge(self, id: str) -> pb.Charge:
        charge: pb.Charge = (
            await self.call("service:notify", "GetCharge", pb.GetChargeRequest(id=id))
        ).charge
        return charge

    async def requested(self, eventually: Eventually, *, payer: str = "", **more: Any) -> pb.Charge:
        """A new charge of 20.000 đ as a dossier asks for it."""
        message = request_of(payer or uuid7(), **more)
        await self.announce(message)
        return await self.known(eventually, message.charge_id)

    async def known(self, eventually: Eventually, id: str) -> pb.Charge:
        async def there() -> pb.Charge | None:
            try:
                return await self.charge(id)
            except NotFound:
                return None

        found: pb.Charge = await eventually(there)
        return found

    async def begin(
        self, charge: pb.Charge, method: Any = pb.PAYMENT_METHOD_VNPAY, request_id: str = ""
    ) -> pb.BeginPaymentResponse:
        asked = pb.BeginPaymentRequest(charge_id=charge.id, method=method, request_id=request_id)
        begun: pb.BeginPaymentResponse = await self.call(f"citizen:{charge.payer_id}", "BeginPayment", asked)
        return begun

    async def pay(self, charge: pb.Charge, outcome: str = "pay", **how: Any) -> pb.Payment:
        """Begins to pay, opens the gateway's page, and lets the sandbox end it that way."""
        begun = await self.begin(charge)
        assert (await self.http.get(begun.redirect_url)).status_code == 200
        answer = await self.http.post(
            f"{self.sandbox}/control/transactions/{begun.payment.reference}", json={"outcome": outcome, **how}
        )
        assert answer.status_code == 200, answer.text
        return begun.payment

    async def transfer(self, charge: pb.Charge, **how: Any) -> str:
        """Pays by VietQR and answers the bank's transaction."""
        begun = await self.begin(charge, pb.PAYMENT_METHOD_VIETQR)
        answer = await self.http.post(f"{self.sandbox}/control/qr", json={"qr": begun.qr_payload, **how})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["transaction_id"])

    async def at_sandbox(self, subject: str) -> dict[str, Any]:
        answer: dict[str, Any] = (
            await self.http.get(f"{self.sandbox}/control/transactions/{subject}")
        ).json()
        return answer

    async def answers(self, subject: str) -> list[str]:
        return [a for notice in (await self.at_sandbox(subject))["notices"] for a in notice["answers"]]

    async def in_state(
        self, eventually: Eventually, charge: pb.Charge, state: int, *, receipt: bool = False
    ) -> pb.Charge:
        async def there() -> pb.Charge | None:
            found = await self.charge(charge.id)
            return found if found.state == state and (found.receipt_id or not receipt) else None

        name = pb.ChargeState.Name(state)  # type: ignore[arg-type]
        found: pb.Charge = await eventually(there, message=f"the charge never became {name}")
        return found

    async def payment_in_state(
        self, eventually: Eventually, charge: pb.Charge, payment: str, state: int
    ) -> pb.Payment:
        async def there() -> pb.Payment | None:
            found = {p.id: p for p in (await self.charge(charge.id)).payments}
            return found[payment] if payment in found and found[payment].state == state else None

        found: pb.Payment = await eventually(there)
        return found


def request_of(payer: str, **more: Any) -> dossier.PaymentRequested:
    about = {"dossier_id": uuid7(), "receiving_agency": "H32.15", "deciding_agency": "H32.05", **more}
    return dossier.PaymentRequested(
        dossier=dossier.DossierRef(
            code="H32.15-261123-0001", procedure_name="Trích lục hộ tịch", applicant_id=payer, **about
        ),
        charge_id=uuid7(),
        lines=[FeeLine(name="Lệ phí", amount=FEE, currency="VND", quantity=2)],
        total=FEE,
        currency="VND",
        refundable_on_rejection=True,
    )


def ended(charge: pb.Charge, *, refundable: bool, kind: Any = dossier.DossierRejected) -> Any:
    return kind(dossier=dossier.DossierRef(dossier_id=charge.dossier_id), refundable=refundable)


@pytest.fixture(scope="module")
async def world(
    mongo_url: str, nats_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    edge = Edge()
    before, behind = listen(), listen()
    public = f"http://127.0.0.1:{before.getsockname()[1]}"
    shop = sandbox.app.build(
        sandbox.settings.Settings(
            environment="test",
            sandbox_data_dir=tmp_path_factory.mktemp("sandbox"),
            sandbox_retry_seconds=0.05,
            sandbox_tries=3,
            vnpay_ipn_url=f"{public}/payments/vnpay/ipn",
            bank_notice_url=f"{public}/payments/transfer/notice",
        )
    )
    async with serving(edge.app, before), serving(shop, behind) as address:
        settings = Settings(
            environment="test",
            mongodb_url=mongo_url,
            mongodb_database=f"payment_{uuid7()}",
            nats_url=nats_url,
            vnpay_pay_url=f"{address}/paymentv2/vpcpay.html",
            vnpay_api_url=f"{address}/merchant_webapi/api",
            vnpay_return_url=f"{public}/payments/vnpay/return",
            bank_api_url=f"{address}/bank/api",
            payment_ask_after=0.4,
            payment_retry_after=0.1,
            payment_poll=0.1,
            grace=0,
        )
        client = await nats.connect(nats_url)
        for context in ("dossier", "payment"):
            await provision_stream(client.jetstream(), context)
        made = World(settings, edge, address, client)
        await made.start()
        await made.hear()
        yield made
        await made.stop()
        await made.http.aclose()
        await client.close()


async def test_a_requested_fee_becomes_one_charge_however_often_it_is_announced(
    world: World, eventually: Eventually
) -> None:
    message = request_of("an")
    event = await world.announce(message)
    await world.announce(message, id=event)
    await world.announce(message)
    charge = await world.known(eventually, message.charge_id)
    assert (charge.state, charge.amount, charge.agency) == (pb.CHARGE_STATE_DUE, FEE, "H32.15")
    assert [(line.name, line.amount, line.quantity) for line in charge.lines] == [("Lệ phí", FEE, 2)]
    await world.requested(eventually)  # events are in order: all three have been handled
    await eventually(lambda: world.heard(announced.ChargeCreated, charge.id))
    assert len(world.heard(announced.ChargeCreated, charge.id)) == 1


async def test_a_citizen_pays_on_the_gateways_page_and_gets_a_receipt(
    world: World, eventually: Eventually
) -> None:
    charge = await world.requested(eventually)
    begun = await world.begin(charge)
    page = await world.http.get(begun.redirect_url)
    assert "20.000 đ" in page.text
    sent_back = await world.http.post(
        f"{world.sandbox}/paymentv2/pay", data={"ref": begun.payment.reference, "outcome": "pay"}
    )
    assert sent_back.status_code == 303
    paid = await world.in_state(eventually, charge, pb.CHARGE_STATE_PAID, receipt=True)
    [payment] = paid.payments
    assert (payment.id, payment.state) == (begun.payment.id, pb.PAYMENT_STATE_PAID)
    assert paid.receipt_number.startswith(f"{clock.now().astimezone(clock.VIETNAM):%y}TAB/")

    returned = dict(parse_qsl(urlsplit(sent_back.headers["location"]).query))
    shown = await world.call("", "ReadVnpayReturn", pb.ReadVnpayReturnRequest(parameters=returned))
    assert (shown.valid, shown.charge_id, shown.state) == (True, charge.id, pb.PAYMENT_STATE_PAID)

    [event] = await eventually(lambda: world.heard(announced.ChargePaid, charge.id))
    assert event.payment_id == payment.id
    [issued] = await eventually(lambda: world.heard(announced.ReceiptIssued, charge.id))
    assert f"{issued.series}/{issued.number}" == paid.receipt_number
    answer = await world.call(
        f"citizen:{charge.payer_id}", "BatchGetReceipts", pb.BatchGetReceiptsRequest(ids=[paid.receipt_id])
    )
    [receipt] = answer.receipts
    assert (receipt.form, receipt.payer_name, receipt.payer_tax_code, receipt.amount) == (
        "EBL01",
        "Nguyễn Thị An",
        "0312345678",
        FEE,
    )


async def test_what_the_browser_brings_back_pays_nothing(world: World, eventually: Eventually) -> None:
    charge = await world.requested(eventually)
    begun = await world.begin(charge)
    await world.http.get(begun.redirect_url)
    answer = await world.http.post(
        f"{world.sandbox}/control/transactions/{begun.payment.reference}",
        json={"outcome": "pay", "lose_ipn": True},
    )
    returned = dict(parse_qsl(urlsplit(answer.json()["return_url"]).query))
    revision = (await world.charge(charge.id)).etag
    shown = await world.call("", "ReadVnpayReturn", pb.ReadVnpayReturnRequest(parameters=returned))
    assert (shown.valid, shown.response_code) == (True, "00")
    assert shown.state == pb.PAYMENT_STATE_PENDING
    assert (await world.charge(charge.id)).etag == revision
    returned["vnp_Amount"] = "100"
    assert not (await world.call("", "ReadVnpayReturn", pb.ReadVnpayReturnRequest(parameters=returned))).valid


async def test_a_lost_notice_loses_no_money(world: World, eventually: Eventually) -> None:
    charge = await world.requested(eventually)
    payment = await world.pay(charge, "lose_ipn")
    await world.in_state(eventually, charge, pb.CHARGE_STATE_PAID, receipt=True)
    assert await world.answers(payment.reference) == []


async def test_a_repeated_notice_is_answered_02_and_does_nothing_twice(
    world: World, eventually: Eventually
) -> None:
    charge = await world.requested(eventually)
    payment = await world.pay(charge, repeat=3)

    async def all_sent() -> bool:
        return await world.answers(payment.reference) == ["00", "02", "02", "02"]

    await eventually(all_sent)
    await world.in_state(eventually, charge, pb.CHARGE_STATE_PAID, receipt=True)
    await eventually(lambda: world.heard(announced.ReceiptIssued, charge.id))
    assert len(world.heard(announced.ChargePaid, charge.id)) == 1
    assert len(world.heard(announced.ReceiptIssued, charge.id)) == 1
    assert (await world.at_sandbox(payment.reference))["refunded"] == 0


async def test_a_forged_notice_changes_nothing(world: World, eventually: Eventually) -> None:
    charge = await world.requested(eventually)
    begun = await world.begin(charge)
    before = await world.charge(charge.id)
    forged = {
        "vnp_TmnCode": "MOTCUA01",
        "vnp_TxnRef": begun.payment.reference,
        "vnp_Amount": str(FEE * 100),
        "vnp_ResponseCode": "00",
        "vnp_TransactionStatus": "00",
    }
    for signature in ({}, {"vnp_SecureHash": "0" * 128}):
        answer = await world.call(
            "", "HandleVnpayIpn", pb.HandleVnpayIpnRequest(parameters={**forged, **signature})
        )
        assert answer.rsp_code == "97"
    body = b'{"amount": 20000}'
    notice = pb.HandleTransferNoticeRequest(body=body, signature="0" * 128)
    assert (await world.call("", "HandleTransferNotice", notice)).rsp_code == "97"
    after = await world.charge(charge.id)
    assert [p.state for p in after.payments] == [p.state for p in before.payments]
    assert after.state == pb.CHARGE_STATE_DUE


async def test_a_notice_with_a_wrong_checksum_is_refused_and_the_inquiry_finds_the_money(
    world: World, eventually: Eventually
) -> None:
    charge = await world.requested(eventually)
    payment = await world.pay(charge, "wrong_checksum")
    await world.in_state(eventually, charge, pb.CHARGE_STATE_PAID)
    assert set(await world.answers(payment.reference)) == {"97"}


async def test_a_wrong_amount_is_not_accepted_and_goes_back(world: World, eventually: Eventually) -> None:
    charge = await world.requested(eventually)
    payment = await world.pay(charge, "wrong_amount")
    refunded = await world.payment_in_state(eventually, charge, payment.id, pb.PAYMENT_STATE_REFUNDED)
    assert refunded.amount == FEE // 2
    assert "04" in await world.answers(payment.reference)
    assert (await world.at_sandbox(payment.reference))["refunded"] == FEE // 2
    [event] = await eventually(lambda: world.heard(announced.PaymentRefunded, charge.id))
    assert (event.amount, event.reason) == (FEE // 2, "WRONG_AMOUNT")
    assert (await world.charge(charge.id)).state == pb.CHARGE_STATE_DUE
    await world.pay(charge)
    await world.in_state(eventually, charge, pb.CHARGE_STATE_PAID)


@pytest.mark.parametrize(("outcome", "code"), [("cancel", "24"), ("no_funds", "51")])
async def test_a_payment_that_fails_leaves_the_charge_due_and_can_be_tried_again(
    world: World, eventually: Eventually, outcome: str, code: str
) -> None:
    charge = await world.requested(eventually)
    failed = await world.pay(charge, outcome)
    payment = await world.payment_in_state(eventually, charge, failed.id, pb.PAYMENT_STATE_FAILED)
    assert payment.response_code == code
    await eventually(lambda: world.heard(announced.PaymentFailed, charge.id))
    assert (await world.charge(charge.id)).state == pb.CHARGE_STATE_DUE
    await world.pay(charge)
    await world.in_state(eventually, charge, pb.CHARGE_STATE_PAID)


async def test_a_charge_paid_twice_keeps_one_payment_and_returns_the_other(
    world: World, eventually: Eventually
) -> None:
    charge = await world.requested(eventually)
    begun = [await world.begin(charge) for _ in range(2)]
    for one in begun:
        await world.http.get(one.redirect_url)
        await world.http.post(f"{world.sandbox}/control/transactions/{one.payment.reference}", json={})
    await world.in_state(eventually, charge, pb.CHARGE_STATE_PAID, receipt=True)

    async def settled() -> bool:
        states = sorted(p.state for p in (await world.charge(charge.id)).payments)
        return states == [pb.PAYMENT_STATE_PAID, pb.PAYMENT_STATE_REFUNDED]

    await eventually(settled)
    sent_back = [(await world.at_sandbox(one.payment.reference))["refunded"] for one in begun]
    assert sorted(sent_back) == [0, FEE]
    assert len(world.heard(announced.ChargePaid, charge.id)) == 1


async def test_a_suspect_payment_waits_for_the_gateways_verdict(world: World, eventually: Eventually) -> None:
    charge = await world.requested(eventually)
    payment = await world.pay(charge, "suspect")
    await world.payment_in_state(eventually, charge, payment.id, pb.PAYMENT_STATE_SUSPECT)
    with pytest.raises(FailedPrecondition, match="PAYMENT_UNDER_REVIEW"):
        await world.begin(charge)
    await world.http.post(
        f"{world.sandbox}/control/transactions/{payment.reference}", json={"outcome": "lose_ipn"}
    )
    await world.in_state(eventually, charge, pb.CHARGE_STATE_PAID)


async def test_a_vietqr_transfer_pays_by_its_reference(world: World, eventually: Eventually) -> None:
    charge = await world.requested(eventually)
    transaction = await world.transfer(charge, repeat=2)
    paid = await world.in_state(eventually, charge, pb.CHARGE_STATE_PAID, receipt=True)
    assert [p.gateway_transaction for p in paid.payments] == [transaction]

    async def all_sent() -> bool:
        return await world.answers(transaction) == ["00", "02", "02"]

    await eventually(all_sent)


async def test_a_transfer_without_its_notice_is_found_at_the_bank(
    world: World, eventually: Eventually
) -> None:
    charge = await world.requested(eventually)
    await world.transfer(charge, lose_ipn=True)
    await world.in_state(eventually, charge, pb.CHARGE_STATE_PAID)


async def test_transfers_of_another_amount_and_second_ones_go_back(
    world: World, eventually: Eventually
) -> None:
    charge = await world.requested(eventually)
    begun = await world.begin(charge, pb.PAYMENT_METHOD_VIETQR)
    transactions = []
    for amount in (FEE - 1, FEE, FEE):
        answer = await world.http.post(
            f"{world.sandbox}/control/qr", json={"qr": begun.qr_payload, "amount": amount}
        )
        transactions.append(answer.json()["transaction_id"])
        await eventually(lambda id=transactions[-1]: world.answers(id))

    async def all_settled() -> bool:
        states = [p.state for p in (await world.charge(charge.id)).payments]
        return states == [pb.PAYMENT_STATE_REFUNDED, pb.PAYMENT_STATE_PAID, pb.PAYMENT_STATE_REFUNDED]

    await eventually(all_settled)
    assert [(await world.at_sandbox(t))["refunded"] for t in transactions] == [FEE - 1, 0, FEE]
    assert "04" in await world.answers(transactions[0])


@pytest.mark.parametrize("kind", [dossier.DossierRejected, dossier.DossierWithdrawn, dossier.DossierStopped])
async def test_an_unpaid_charge_falls_away_with_its_dossier(
    world: World, eventually: Eventually, kind: Any
) -> None:
    charge = await world.requested(eventually)
    payment = await world.begin(charge)
    await world.announce(ended(charge, refundable=False, kind=kind))
    await world.in_state(eventually, charge, pb.CHARGE_STATE_CANCELLED)
    [event] = await eventually(lambda: world.heard(announced.ChargeCancelled, charge.id))
    assert event.reason == kind.DESCRIPTOR.name
    with pytest.raises(FailedPrecondition, match="CHARGE_NOT_DUE"):
        await world.begin(charge)
    # The payer was on the gateway's page all the while.
    await world.http.get(payment.redirect_url)
    await world.http.post(f"{world.sandbox}/control/transactions/{payment.payment.reference}", json={})
    await world.payment_in_state(eventually, charge, payment.payment.id, pb.PAYMENT_STATE_REFUNDED)
    assert not (await world.charge(charge.id)).receipt_id


async def test_a_charge_asked_for_after_its_dossier_ended_is_void(
    world: World, eventually: Eventually
) -> None:
    message = request_of("an")
    gone = pb.Charge(dossier_id=message.dossier.dossier_id)
    await world.announce(ended(gone, refundable=True))
    await world.announce(message)
    charge = await world.known(eventually, message.charge_id)
    await world.in_state(eventually, charge, pb.CHARGE_STATE_CANCELLED)


async def test_a_paid_fee_goes_back_only_where_the_rule_says_so(world: World, eventually: Eventually) -> None:
    charges = [await world.requested(eventually) for _ in range(2)]
    for charge in charges:
        await world.pay(charge)
        await world.in_state(eventually, charge, pb.CHARGE_STATE_PAID)
    event = ended(charges[0], refundable=True)
    id = await world.announce(event)
    await world.announce(event, id=id)
    await world.announce(ended(charges[1], refundable=False))
    refunded = await world.in_state(eventually, charges[0], pb.CHARGE_STATE_REFUNDED)
    assert (await world.at_sandbox(refunded.payments[0].reference))["refunded"] == FEE
    [asked] = await eventually(lambda: world.heard(announced.RefundRequested, charges[0].id))
    [done] = await eventually(lambda: world.heard(announced.PaymentRefunded, charges[0].id))
    assert asked.reason == done.reason == "DOSSIER_CLOSED"
    assert (await world.charge(charges[1].id)).state == pb.CHARGE_STATE_PAID


async def test_a_cashier_of_the_agency_refunds_and_nobody_else(world: World, eventually: Eventually) -> None:
    charge = await world.requested(eventually)
    await world.pay(charge)
    paid = await world.in_state(eventually, charge, pb.CHARGE_STATE_PAID, receipt=True)
    asked = pb.RefundPaymentRequest(charge_id=charge.id, reason="Thu nhầm")
    for who, error in (
        ("", Unauthenticated),
        (f"citizen:{charge.payer_id}", Forbidden),
        ("official:o:reception@H32.15", Forbidden),
        ("official:o:cashier@H32.05", Forbidden),
        ("official:o:cashier@H32.99", NotFound),
    ):
        with pytest.raises(error):
            await world.call(who, "RefundPayment", asked)
    cashier = "official:o:cashier@H32.15"
    stale = pb.RefundPaymentRequest(charge_id=charge.id, reason="Thu nhầm", etag="1")
    with pytest.raises(Conflict, match="STALE"):
        await world.call(cashier, "RefundPayment", stale)
    with pytest.raises(InvalidInput):
        await world.call(cashier, "RefundPayment", pb.RefundPaymentRequest(charge_id=charge.id))
    asked.etag, asked.request_id = paid.etag, uuid7()
    for _ in range(2):
        await world.call(cashier, "RefundPayment", asked)
    await world.in_state(eventually, charge, pb.CHARGE_STATE_REFUNDED)
    asked.request_id, asked.etag = uuid7(), ""
    with pytest.raises(FailedPrecondition, match="NOTHING_TO_REFUND"):
        await world.call(cashier, "RefundPayment", asked)


@pytest.mark.parametrize("unclear", [["done"], ["not_done"], ["not_done", "done"]])
async def test_a_refund_that_is_answered_unclearly_sends_the_money_back_once(
    world: World, eventually: Eventually, unclear: list[str]
) -> None:
    charge = await world.requested(eventually)
    payment = await world.pay(charge)
    await world.in_state(eventually, charge, pb.CHARGE_STATE_PAID, receipt=True)
    told = await world.http.post(f"{world.sandbox}/control/refunds", json={"unclear": unclear})
    assert told.status_code == 200
    asked = pb.RefundPaymentRequest(charge_id=charge.id, reason="Thu nhầm")
    await world.call("official:o:cashier@H32.15", "RefundPayment", asked)
    await world.in_state(eventually, charge, pb.CHARGE_STATE_REFUNDED)
    assert (await world.at_sandbox(payment.reference))["refunded"] == FEE
    await eventually(lambda: world.heard(announced.PaymentRefunded, charge.id))
    assert len(world.heard(announced.PaymentRefunded, charge.id)) == 1


async def test_a_repeated_request_begins_one_payment(world: World, eventually: Eventually) -> None:
    charge = await world.requested(eventually)
    id = uuid7()
    first, again = [await world.begin(charge, request_id=id) for _ in range(2)]
    assert (first.payment.id, first.redirect_url) == (again.payment.id, again.redirect_url)
    assert len((await world.charge(charge.id)).payments) == 1
    with pytest.raises(AlreadyExists, match="REQUEST_ID_REUSED"):
        await world.begin(charge, pb.PAYMENT_METHOD_VIETQR, request_id=id)
    with pytest.raises(InvalidInput):
        await world.begin(charge, pb.PAYMENT_METHOD_UNSPECIFIED)


async def test_charges_are_seen_by_their_payer_and_their_agencies_only(
    world: World, eventually: Eventually
) -> None:
    payer = uuid7()
    charge = await world.requested(eventually, payer=payer)
    other = await world.requested(eventually, payer=payer)
    asked = pb.GetChargeRequest(id=charge.id)
    for who in (f"citizen:{payer}", "official:o:examiner@H32.05", "official:o:cashier@H32.15"):
        assert (await world.call(who, "GetCharge", asked)).charge.id == charge.id
    for who in ("citizen:other", "official:o:leader@H32.99", "official:o:"):
        with pytest.raises(NotFound):
            await world.call(who, "GetCharge", asked)
        batch = pb.BatchGetChargesRequest(ids=[charge.id, uuid7()])
        assert list((await world.call(who, "BatchGetCharges", batch)).charges) == []
    with pytest.raises(NotFound):
        await world.call(
            "citizen:other",
            "BeginPayment",
            pb.BeginPaymentRequest(charge_id=charge.id, method=pb.PAYMENT_METHOD_VNPAY),
        )
    first = await world.call(f"citizen:{payer}", "ListCharges", pb.ListChargesRequest(page_size=1))
    rest = await world.call(
        f"citizen:{payer}",
        "ListCharges",
        pb.ListChargesRequest(page_size=1, page_token=first.next_page_token),
    )
    assert [c.id for c in (*first.charges, *rest.charges)] == [other.id, charge.id]
    assert rest.next_page_token == ""
    paid_only = pb.ListChargesRequest(states=[pb.CHARGE_STATE_PAID])
    assert list((await world.call(f"citizen:{payer}", "ListCharges", paid_only)).charges) == []
    with pytest.raises(Forbidden):
        await world.call("citizen:other", "ListCharges", pb.ListChargesRequest(payer_id=payer))
    elsewhere = await world.call(
        "official:o:cashier@H32.99", "ListCharges", pb.ListChargesRequest(payer_id=payer)
    )
    assert list(elsewhere.charges) == []


async def test_reconciliation_finds_what_the_gateway_has_and_we_have_not(
    world: World, eventually: Eventually
) -> None:
    charge = await world.requested(eventually)
    payment = await world.pay(charge)
    await world.in_state(eventually, charge, pb.CHARGE_STATE_PAID)
    qr = await world.requested(eventually)
    await world.transfer(qr)
    await world.in_state(eventually, qr, pb.CHARGE_STATE_PAID)
    begun = await world.begin(qr_free := await world.requested(eventually), pb.PAYMENT_METHOD_VIETQR)
    assert qr_free.state == pb.CHARGE_STATE_DUE
    lost = begun.payment.reference
    today = clock.now().astimezone(clock.VIETNAM).date().isoformat()

    async def differences() -> dict[str, Any]:
        answer = await world.call("official:o:cashier@H32.15", "Reconcile", pb.ReconcileRequest(date=today))
        assert answer.matched >= 2
        assert answer.matched_amount >= 2 * FEE
        return {d.reference: d for d in answer.differences}

    assert not {payment.reference, lost} & (await differences()).keys()
    # Money with a text that no charge of ours has any more.
    stray = lost[:-2] + "77"
    code = begun.qr_payload.replace(lost, stray)[:-4]
    await world.http.post(f"{world.sandbox}/control/qr", json={"qr": code + vietqr.crc(code)})
    found = (await differences())[stray]
    assert (found.kind, found.our_amount, found.their_amount) == ("MISSING_HERE", 0, FEE)
    for date in ("today", "2999-01-01"):
        with pytest.raises(InvalidInput):
            await world.call("official:o:admin@H32", "Reconcile", pb.ReconcileRequest(date=date))
    with pytest.raises(Forbidden):
        await world.call("citizen:an", "Reconcile", pb.ReconcileRequest(date=today))


async def test_two_replicas_number_receipts_without_gap_or_repetition(
    world: World, eventually: Eventually
) -> None:
    agency = f"H32.{uuid7()[-6:]}"
    charges = [await world.requested(eventually, receiving_agency=agency) for _ in range(12)]
    begun = [await world.begin(charge) for charge in charges]
    other = build(world.settings, verifier=Spoken(), people=People())
    await other.start()
    try:

        async def settle(one: pb.BeginPaymentResponse) -> None:
            await world.http.get(one.redirect_url)
            await world.http.post(
                f"{world.sandbox}/control/transactions/{one.payment.reference}", json={"repeat": 1}
            )

        await asyncio.gather(*map(settle, begun))
        paid = [await world.in_state(eventually, c, pb.CHARGE_STATE_PAID, receipt=True) for c in charges]
    finally:
        await other.stop()
    numbers = sorted(int(charge.receipt_number.rpartition("/")[2]) for charge in paid)
    assert numbers == list(range(1, len(charges) + 1))
    for charge in charges:
        await eventually(lambda id=charge.id: world.heard(announced.ReceiptIssued, id))
        assert len(world.heard(announced.ReceiptIssued, charge.id)) == 1
        assert len(world.heard(announced.ChargePaid, charge.id)) == 1


async def test_a_request_whose_lines_do_not_add_up_is_set_aside(world: World, eventually: Eventually) -> None:
    message = request_of("an")
    message.total += 1
    await world.announce(message)
    await world.requested(eventually)  # events are in order
    with pytest.raises(NotFound):
        await world.charge(message.charge_id)


async def test_a_receipt_cut_off_by_kill_9_is_issued_once_after_a_restart(
    world: World, eventually: Eventually, tmp_path: Path
) -> None:
    """Payment runs as a process and cannot reach identity, so that it dies with the receipt still to come."""
    away, taken = listen(), listen()  # bound and never listening: nobody answers there
    port = taken.getsockname()[1]
    taken.close()
    settings = world.settings.model_copy(
        update={
            "mongodb_database": f"payment_{uuid7()}",
            "grpc_listen": f"127.0.0.1:{port}",
            "identity_target": f"127.0.0.1:{away.getsockname()[1]}",
        }
    )
    told = settings.model_dump(exclude_defaults=True, exclude={"vnpay_hash_secret", "bank_secret"})
    environment = {**os.environ, **{name.upper(): str(value) for name, value in told.items()}}
    message = request_of("an")
    charge = pb.Charge(id=message.charge_id, payer_id="an")
    await world.stop()
    # Begun while it is not yet the process that will die; tokens of ours mean nothing to that one.
    await world.start(settings.model_copy(update={"grpc_listen": "127.0.0.1:0"}))
    await world.announce(message)
    await world.known(eventually, charge.id)
    begun = await world.begin(charge)
    await world.stop()
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "payment", env=environment, stdout=out, stderr=out
        )
    try:
        world.edge.port = port
        await world.http.get(begun.redirect_url)
        await world.http.post(
            f"{world.sandbox}/control/transactions/{begun.payment.reference}", json={"outcome": "lose_ipn"}
        )
        await eventually(lambda: world.heard(announced.ChargePaid, charge.id), within=30)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        away.close()
    assert world.heard(announced.ReceiptIssued, charge.id) == [], log.read_text()[-2000:]
    try:
        await world.start(settings.model_copy(update={"grpc_listen": "127.0.0.1:0"}))
        paid = await world.in_state(eventually, charge, pb.CHARGE_STATE_PAID, receipt=True)
        assert paid.receipt_number.endswith("/00000001")
        await eventually(lambda: world.heard(announced.ReceiptIssued, charge.id))
    finally:
        await world.stop()
        await world.start()
    assert len(world.heard(announced.ReceiptIssued, charge.id)) == 1
    assert len(world.heard(announced.ChargePaid, charge.id)) == 1
