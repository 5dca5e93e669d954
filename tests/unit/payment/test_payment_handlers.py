"""The use cases of payment with fakes: who may do what, what a notice changes, and what happens by itself."""

from __future__ import annotations

import copy
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kit.auth import ANONYMOUS, Caller, Role
from kit.errors import Conflict, DomainError, Forbidden, InvalidInput, NotFound, Unauthenticated
from payment.domain import lifecycle
from payment.domain.lifecycle import ChargeState, Method, PaymentState, RefundReason, Result
from payment.domain.records import Payment, Report
from payment.handlers import StatementLine, chores, dossiers, paying, reading, reconciling
from payment.vnpay import IpnAnswer, RefundAnswer

AN = Caller("an", "citizen")
BINH = Caller("binh", "citizen")


def official(role: str, agency: str = "H32.15") -> Caller:
    return Caller("official", "official", (Role(agency, role),))


CALLERS = {
    "nobody": ANONYMOUS,
    "payer": AN,
    "another citizen": BINH,
    "cashier": official("cashier"),
    "examiner": official("examiner"),
    "cashier elsewhere": official("cashier", "H32.99"),
    "admin": official("admin", "H32"),
    "dossier": Caller("dossier", "service"),
    "a service of no concern": Caller("importer", "service"),
}
# Who gets past the guard and the rules of whose it is; the rest is refused.
MATRIX: dict[str, set[str]] = {
    "get_charge": {"payer", "cashier", "examiner", "dossier"},
    "batch_get_charges": {"payer", "cashier", "examiner", "dossier"},
    "list_charges": {"payer", "cashier", "examiner", "dossier"},
    "batch_get_receipts": {"payer", "cashier", "examiner", "dossier"},
    "list_receipts": {"payer", "cashier", "examiner", "dossier"},
    "begin_payment": {"payer"},
    "handle_vnpay_ipn": set(CALLERS),
    "handle_transfer_notice": set(CALLERS),
    "read_vnpay_return": set(CALLERS),
    "refund_payment": {"cashier"},
    "review_payment": {"cashier"},
    "reconcile": {"cashier", "cashier elsewhere", "admin"},
}
HANDLERS = {
    name: handler
    for module in (reading, paying, reconciling)
    for name, handler in vars(module).items()
    if hasattr(handler, "allowed")
}


def test_the_matrix_names_every_operation() -> None:
    assert MATRIX.keys() == HANDLERS.keys()


@pytest.mark.parametrize("who", CALLERS)
@pytest.mark.parametrize("operation", MATRIX)
async def test_an_operation_serves_those_of_the_matrix_and_no_others(
    world: Any, operation: str, who: str
) -> None:
    if operation == "begin_payment":
        charge = world.charge("c1")
    elif operation == "review_payment":
        charge = world.paid("c1")
        charge.report(
            Report(charge.payments[0].reference, Result.PAID, 1, "00", "T-c1"), now=world.now, must_match=True
        )
        world.charges._keep(charge)
    else:
        charge = world.paid("c1")
        await chores.sweep(world.ports)
    receipt = world.stored("c1").receipt
    page = {"payer": "an", "size": 0, "token": ""}
    how: dict[str, dict[str, Any]] = {
        "get_charge": {"id": "c1"},
        "batch_get_charges": {"ids": ["c1"]},
        "list_charges": {**page, "states": []},
        "batch_get_receipts": {"ids": [receipt]},
        "list_receipts": page,
        "begin_payment": {"charge_id": "c1", "method": Method.VNPAY},
        "handle_vnpay_ipn": {"parameters": {}},
        "handle_transfer_notice": {"body": b"", "signature": ""},
        "read_vnpay_return": {"parameters": {}},
        "refund_payment": {"charge_id": "c1", "reason": "Thu nhầm"},
        "review_payment": {
            "charge_id": "c1",
            "payment_id": "payment-c1",
            "accept": True,
            "reason": "Đã thấy tiền",
        },
        "reconcile": {"day": "2026-11-23"},
    }
    before = copy.deepcopy(world.charges.items)
    refusal: DomainError | None
    try:
        answer = await HANDLERS[operation](world.ports, CALLERS[who], **how[operation])
    except (Unauthenticated, Forbidden, NotFound) as error:
        refusal, served = error, False
    else:
        refusal = None
        found = answer[0] if isinstance(answer, tuple) else answer
        served = found != []
    assert served == (who in MATRIX[operation])
    assert isinstance(refusal, Unauthenticated) == (who == "nobody" and not served)
    if not served:
        assert world.charges.items == before
    assert charge.id == "c1"


async def test_the_same_request_begins_the_same_payment(world: Any) -> None:
    world.charge("c1")
    request = SimpleNamespace(key="r1")
    begun = [
        await paying.begin_payment(world.ports, AN, charge_id="c1", method=Method.VNPAY, request=request)
        for _ in range(2)
    ]
    assert begun[0][1].id == begun[1][1].id
    assert len(world.stored("c1").payments) == 1


async def begin(world: Any, method: Method = Method.VNPAY) -> Payment:
    _, payment, _ = await paying.begin_payment(world.ports, AN, charge_id="c1", method=method)
    return payment


async def ipn(world: Any, parameters: dict[str, str]) -> IpnAnswer:
    return await paying.handle_vnpay_ipn(world.ports, ANONYMOUS, parameters=parameters)


async def test_notices_are_answered_by_the_gateways_own_codes_and_only_the_first_is_written(
    world: Any,
) -> None:
    world.charge("c1")
    payment = await begin(world)
    untouched = copy.deepcopy(world.charges.items)
    good = world.ipn(payment)
    stranger = copy.copy(payment)
    stranger.reference = "MC00000000000001"
    nonsense = copy.copy(payment)
    nonsense.reference = "ORDER-1"
    assert await ipn(world, {**good, "vnp_Amount": "1"}) is IpnAnswer.BAD_CHECKSUM
    assert await ipn(world, {}) is IpnAnswer.BAD_CHECKSUM
    assert await ipn(world, world.ipn(stranger)) is IpnAnswer.ORDER_NOT_FOUND
    assert await ipn(world, world.ipn(nonsense)) is IpnAnswer.ORDER_NOT_FOUND
    assert await ipn(world, world.ipn(payment, vnp_TmnCode="OTHER")) is IpnAnswer.OTHER
    assert await ipn(world, world.ipn(payment, vnp_TxnRef="")) is IpnAnswer.OTHER
    assert world.charges.items == untouched
    assert await ipn(world, world.ipn(payment, vnp_Amount="100")) is IpnAnswer.AMOUNT_DIFFERS
    assert await ipn(world, good) is IpnAnswer.OK
    written = copy.deepcopy(world.charges.items)
    assert await ipn(world, good) is IpnAnswer.ALREADY_CONFIRMED
    late = world.ipn(payment, vnp_ResponseCode="24", vnp_TransactionStatus="02")
    assert await ipn(world, late) is IpnAnswer.ALREADY_CONFIRMED
    assert world.charges.items == written
    assert world.stored("c1").payments[0].taken_on == "2026-11-23"


async def test_a_notice_that_cannot_be_stored_is_answered_99_so_that_it_comes_again(world: Any) -> None:
    world.charge("c1")
    payment = await begin(world)

    async def lost(*args: Any, **more: Any) -> Any:
        raise Conflict("LOST_RACE")

    world.charges.change = lost
    assert await ipn(world, world.ipn(payment)) is IpnAnswer.OTHER


async def test_the_browsers_return_shows_what_we_know_and_writes_nothing(world: Any) -> None:
    world.charge("c1")
    payment = await begin(world)
    before = copy.deepcopy(world.charges.items)
    parameters = world.ipn(payment)
    shown = await paying.read_vnpay_return(world.ports, ANONYMOUS, parameters=parameters)
    assert shown.payment
    assert (shown.valid, shown.payment.state) == (True, PaymentState.PENDING)
    forged = await paying.read_vnpay_return(
        world.ports, ANONYMOUS, parameters={**parameters, "vnp_ResponseCode": "24"}
    )
    assert not forged.valid
    assert world.charges.items == before


async def test_a_transfer_notice_is_found_by_the_reference_in_its_text(world: Any) -> None:
    world.charge("c1")
    payment = await begin(world, Method.VIETQR)
    text = f"NGUYEN THI AN chuyen tien {payment.reference.lower()} FT123"
    assert paying.find_reference(text) == payment.reference
    assert paying.find_reference("chuyen tien an trua") == ""
    world.bank.notice = Report(payment.reference, Result.PAID, payment.amount, "00", "FT1", "2026-11-23")

    async def notice(signature: str) -> IpnAnswer:
        return await paying.handle_transfer_notice(world.ports, ANONYMOUS, body=b"", signature=signature)

    assert await notice("forged") is IpnAnswer.BAD_CHECKSUM
    assert await notice("good") is IpnAnswer.OK
    assert await notice("good") is IpnAnswer.ALREADY_CONFIRMED
    world.bank.notice = Report("", Result.PAID, 1, "00", "FT2", "2026-11-23")
    assert await notice("good") is IpnAnswer.ORDER_NOT_FOUND


async def test_an_open_payment_is_asked_about_with_patience_while_the_gateway_is_down(world: Any) -> None:
    world.charge("c1")
    await begin(world)
    world.gateway.down = True
    for _ in range(40):
        world.now += timedelta(minutes=3)
        await chores.sweep(world.ports)
    [payment] = world.stored("c1").payments
    assert payment.state is PaymentState.PENDING, "nobody said that it is over"
    assert 5 <= world.gateway.inquiries <= 10
    world.gateway.down = False
    world.now += timedelta(hours=1)
    await chores.sweep(world.ports)
    assert world.stored("c1").payments[0].state is PaymentState.EXPIRED
    world.now += timedelta(days=1)
    asked = world.gateway.inquiries
    assert await chores.sweep(world.ports) == 0
    assert world.gateway.inquiries == asked


async def test_money_that_an_inquiry_finds_settles_the_charge_and_leads_to_a_receipt(world: Any) -> None:
    world.charge("c1")
    payment = await begin(world)
    world.gateway.knows[payment.reference] = Report(
        payment.reference, Result.PAID, payment.amount, "00", "T1", "2026-11-23"
    )
    assert await chores.sweep(world.ports) == 0, "not yet"
    world.now += timedelta(minutes=2)
    while await chores.sweep(world.ports):
        pass
    assert world.stored("c1").state is ChargeState.PAID
    assert world.numbers() == [1]


async def test_a_refund_is_tried_until_the_gateway_takes_it(world: Any) -> None:
    world.paid("c1")
    await chores.sweep(world.ports)
    cashier = official("cashier")
    await paying.refund_payment(world.ports, cashier, charge_id="c1", reason="Thu nhầm")
    world.gateway.down = True
    await chores.sweep(world.ports)
    assert world.stored("c1").state is ChargeState.REFUND_PENDING
    world.gateway.down = False
    assert await chores.sweep(world.ports) == 0, "not at once"
    world.now += timedelta(minutes=1)
    await chores.sweep(world.ports)
    assert world.stored("c1").state is ChargeState.REFUNDED
    assert len(world.gateway.refunded) == 1
    await chores.sweep(world.ports)
    assert len(world.charges.announced(lifecycle.PaymentRefunded)) == 1


async def test_a_refused_refund_rests_until_a_cashier_tries_again(world: Any) -> None:
    world.paid("c1")
    world.gateway.answer = (RefundAnswer.REFUSED, "95")
    cashier = official("cashier")
    await paying.refund_payment(world.ports, cashier, charge_id="c1", reason="Thu nhầm")
    while await chores.sweep(world.ports):
        pass
    world.now += timedelta(days=1)
    assert await chores.sweep(world.ports) == 0
    world.gateway.answer = (RefundAnswer.ACCEPTED, "00")
    await paying.refund_payment(world.ports, cashier, charge_id="c1", reason="Gửi lại")
    await chores.sweep(world.ports)
    assert world.stored("c1").state is ChargeState.REFUNDED


async def test_a_charge_whose_chore_breaks_does_not_hold_up_the_others(world: Any) -> None:
    world.paid("bad")
    world.paid("good")
    world.books.create, right = None, world.books.create

    async def create(make: Any, id: str) -> Any:
        if world.now and not world.receipts.items and broken:
            broken.clear()
            raise RuntimeError("a defect")
        return await right(make, id=id)

    broken = [True]
    world.books.create = create
    assert await chores.sweep(world.ports, parallel=1) == 1
    assert await chores.sweep(world.ports) == 1
    assert world.numbers() == [1, 2]


async def test_a_charge_that_comes_after_its_dossier_ended_is_void(world: Any) -> None:
    await dossiers.dossier_closed(
        world.ports, dossier="dossier-c1", refundable=False, reason="DossierStopped", event="e1"
    )
    made = world.charge("c1")
    del world.charges.items["c1"]
    charge = await dossiers.charge_requested(world.ports, made)
    assert (charge.state, charge.cancel_reason) == (ChargeState.CANCELLED, "DossierStopped")


async def test_the_end_of_a_dossier_is_handled_once(world: Any) -> None:
    world.paid("c1", refundable_on_rejection=True)
    for _ in range(2):
        await dossiers.dossier_closed(
            world.ports, dossier="dossier-c1", refundable=True, reason="DossierRejected", event="e1"
        )
    [asked] = world.charges.announced(lifecycle.RefundRequested)
    assert asked.reason == RefundReason.DOSSIER_CLOSED


async def test_reconciliation_names_each_kind_of_difference(world: Any) -> None:
    for name in ("same", "ours", "amount", "state"):
        world.paid(name)

    def line(name: str, amount: int = 20_000, refunded: int = 0) -> StatementLine:
        return StatementLine(world.stored(name).payments[0].reference, f"T-{name}", amount, refunded)

    world.gateway.lines = [
        line("same"),
        line("amount", amount=19_999),
        line("state", refunded=20_000),
        StatementLine("MCX", "T-theirs", 5, 0),
    ]
    found = await reconciling.reconcile(world.ports, official("cashier"), day="2026-11-23")
    assert (found.matched, found.matched_amount) == (1, 20_000)
    assert sorted((d.kind, d.our_amount, d.their_amount) for d in found.differences) == [
        ("AMOUNT", 20_000, 19_999),
        ("MISSING_HERE", 0, 5),
        ("MISSING_THERE", 20_000, 0),
        ("STATE", 20_000, 20_000),
    ]
    other_day = await reconciling.reconcile(world.ports, official("cashier"), day="2026-11-22")
    assert {d.kind for d in other_day.differences} == {"MISSING_HERE"}


@pytest.mark.parametrize("day", ["", "23/11/2026", "2026-11-24"])
async def test_only_a_day_that_has_come_is_reconciled(world: Any, day: str) -> None:
    with pytest.raises(InvalidInput):
        await reconciling.reconcile(world.ports, official("admin"), day=day)


async def test_too_many_ids_and_bad_sizes_are_refused(world: Any) -> None:
    with pytest.raises(InvalidInput):
        await reading.batch_get_charges(world.ports, AN, ids=["x"] * 101)
    with pytest.raises(InvalidInput):
        await reading.list_receipts(world.ports, AN, payer="", size=-1, token="")
    with pytest.raises(InvalidInput):
        await reading.list_receipts(world.ports, official("cashier"), payer="", size=1, token="")
    with pytest.raises(DomainError):
        await paying.refund_payment(world.ports, official("cashier"), charge_id="none", reason="x")
