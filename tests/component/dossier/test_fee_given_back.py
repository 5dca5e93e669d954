"""A refund reaches the dossier: it is not paid any more, says so, and goes on as its procedure has it."""

from __future__ import annotations

from typing import Any

import pytest

from kit.errors import FailedPrecondition
from motcua.dossier.v1 import dossier_pb2 as pb
from motcua.dossier.v1 import events_pb2 as ev
from motcua.dossier.v1 import vault_pb2 as vp
from motcua.payment.v1 import events_pb2 as pay


def ref(dossier: pb.Dossier, charge: str = "") -> pay.ChargeRef:
    return pay.ChargeRef(charge_id=charge or dossier.charge_ids[-1], dossier_id=dossier.id)


async def announced(world: Any, kind: str, message: Any) -> None:
    await world.announce(f"motcua.payment.v1.{kind}.{message.charge.charge_id}", message)


async def asked(world: Any, who: str) -> pb.Dossier:
    """A received dossier whose fee was asked for."""
    dossier = await world.received(who)
    request = pb.RequestPaymentRequest(id=dossier.id, quantities={"copy": 2})
    made: pb.Dossier = (await world.call("RequestPayment", "reception", request)).dossier
    return made


async def until_paid(world: Any, who: str, dossier: pb.Dossier, eventually: Any, paid: bool = True) -> Any:
    async def look() -> Any:
        now = await world.get(who, dossier.id)
        return now if now.paid is paid else None

    return await eventually(look)


async def pays(world: Any, who: str, dossier: pb.Dossier, eventually: Any) -> Any:
    message = pay.ChargePaid(charge=ref(dossier), payment_id="p")
    message.pay_time.FromDatetime(world.time())
    await announced(world, "charge_paid", message)
    return await until_paid(world, who, dossier, eventually)


async def gives_back(world: Any, dossier: pb.Dossier, *, reason: str = "OFFICIAL", done: bool = True) -> None:
    how: dict[str, Any] = {"charge": ref(dossier), "payment_id": "p", "amount": 16_000, "reason": reason}
    await announced(world, "refund_requested", pay.RefundRequested(**how))
    if done:
        await announced(world, "payment_refunded", pay.PaymentRefunded(**how))


async def signed(world: Any, dossier: pb.Dossier) -> pb.Dossier:
    """Its result, signed by the leader."""
    for who, step in (("examiner", "examine"), ("other_examiner", "check")):
        await world.call("CompleteStep", who, pb.CompleteStepRequest(id=dossier.id, step_id=step))
    result = await world.upload(
        "leader",
        purpose=vp.UPLOAD_PURPOSE_RESULT,
        dossier_id=dossier.id,
        type="birth_certificate",
        title="KS",
    )
    request = pb.SignResultRequest(id=dossier.id, document_id=result.id)
    done: pb.Dossier = (await world.call("SignResult", "leader", request)).dossier
    return done


@pytest.mark.proof("9.9")
async def test_a_refund_shows_in_the_dossier_and_on_its_control_sheet(
    world: Any, anh: str, eventually: Any
) -> None:
    dossier = await pays(world, anh, await asked(world, anh), eventually)
    lines = len(dossier.hand_overs)
    await gives_back(world, dossier)
    now = await until_paid(world, anh, dossier, eventually, paid=False)
    assert len(now.hand_overs) == lines + 1
    assert now.state == pb.DOSSIER_STATE_IN_PROCESS


@pytest.mark.proof("9.9")
async def test_the_result_is_not_handed_over_until_the_fee_is_paid_again(
    world: Any, anh: str, eventually: Any
) -> None:
    dossier = await signed(world, await pays(world, anh, await asked(world, anh), eventually))
    await gives_back(world, dossier)
    await until_paid(world, anh, dossier, eventually, paid=False)
    error = await world.refused("HandOverResult", "reception", pb.HandOverResultRequest(id=dossier.id))
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "FEE_GIVEN_BACK"

    again = pb.RequestPaymentRequest(id=dossier.id, quantities={"copy": 2})
    dossier = (await world.call("RequestPayment", "reception", again)).dossier
    assert dossier.state == pb.DOSSIER_STATE_DONE
    await pays(world, anh, dossier, eventually)
    done = (await world.call("HandOverResult", "reception", pb.HandOverResultRequest(id=dossier.id))).dossier
    assert done.state == pb.DOSSIER_STATE_HANDED_OVER


async def test_its_fields_tell_the_money_and_the_times_once(world: Any, anh: str, eventually: Any) -> None:
    dossier = await pays(world, anh, await asked(world, anh), eventually)
    await gives_back(world, dossier)
    await gives_back(world, dossier)

    async def back() -> Any:
        (fee,) = (await world.get(anh, dossier.id)).fees
        return fee if fee.HasField("refund_time") else None

    fee = await eventually(back)
    assert (fee.refund_amount, fee.charge_id) == (16_000, dossier.charge_ids[0])
    assert fee.HasField("pay_time")
    assert fee.HasField("refund_request_time")
    sheet = [h.refunded_amount for h in (await world.get(anh, dossier.id)).hand_overs]
    assert sheet.count(16_000) == 1


async def test_a_refund_heard_of_before_the_payment_counts(world: Any, anh: str, eventually: Any) -> None:
    dossier = await asked(world, anh)
    await gives_back(world, dossier)

    async def back() -> Any:
        now = await world.get(anh, dossier.id)
        return now if now.fees[0].HasField("refund_time") else None

    await eventually(back)
    message = pay.ChargePaid(charge=ref(dossier), payment_id="p")
    message.pay_time.FromDatetime(world.time())
    await announced(world, "charge_paid", message)

    async def goes_on() -> Any:
        now = await world.get(anh, dossier.id)
        return now if now.state == pb.DOSSIER_STATE_IN_PROCESS else None

    assert not (await eventually(goes_on)).paid


@pytest.mark.parametrize("reason", ["DOUBLE_PAYMENT", "WRONG_AMOUNT", "CHARGE_CANCELLED"])
async def test_money_that_never_paid_the_fee_changes_nothing(
    world: Any, anh: str, eventually: Any, reason: str
) -> None:
    dossier = await pays(world, anh, await asked(world, anh), eventually)
    await gives_back(world, dossier, reason=reason)
    other = await pays(world, anh, await asked(world, anh), eventually)
    await gives_back(world, other)
    await until_paid(world, anh, other, eventually, paid=False)
    now = await world.get(anh, dossier.id)
    assert now.paid
    assert now.etag == dossier.etag


async def test_a_dossier_that_ended_keeps_its_end(world: Any, anh: str, eventually: Any) -> None:
    dossier = await signed(world, await pays(world, anh, await asked(world, anh), eventually))
    await world.call("HandOverResult", "reception", pb.HandOverResultRequest(id=dossier.id))
    await gives_back(world, dossier)
    now = await until_paid(world, anh, dossier, eventually, paid=False)
    assert now.state == pb.DOSSIER_STATE_HANDED_OVER
    assert "FeeGivenBack" in ev.DESCRIPTOR.message_types_by_name
