"""Journeys through GraphQL on the whole stack, and the trace that one of them leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from dev import journey
from dev.journey import Scene
from dev.stack import Stack


@pytest.fixture
async def scene(stack: Stack) -> AsyncIterator[Scene]:
    """Two citizens and five officials who have just signed in."""
    async with journey.stage(stack.addresses, lambda step: None) as made:
        await journey.register(made)
        await journey.keep_a_document(made)
        await journey.file_a_dossier(made)
        yield made


async def test_the_main_journey_has_no_surprise(stack: Stack) -> None:
    diary = await journey.play(stack.addresses, lambda step: None)
    assert len(diary.steps) > 30


async def test_filing_is_one_trace_from_the_gateway_to_the_mail(scene: Scene, collector: Any) -> None:
    async def one_trace() -> bool | None:
        parts = {"gateway", "dossier", "notify"}
        return any(parts <= services for services in collector.traces.values()) or None

    await journey.until(one_trace, "a trace through gateway, dossier and notify")


async def test_a_fee_is_paid_by_vietqr(scene: Scene) -> None:
    await journey.receive(scene)
    await journey.act(scene.reception, "requestPayment", scene, quantities=[])

    async def charged() -> str | None:
        charges = (await journey.look(scene.an, scene.dossier))["charges"]
        return str(charges[0]["id"]) if charges else None

    started = await scene.an.do(
        "payCharge",
        "PaymentStart",
        "qrPayload redirectUrl",
        chargeId=await journey.until(charged, "the charge"),
        method="VIETQR",
    )
    assert started["redirectUrl"] is None
    paid = await scene.an.post(f"{scene.where.sandbox}/control/qr", {"qr": started["qrPayload"], "repeat": 1})
    assert paid.status_code == 200
    assert (await journey.in_state(scene.an, scene.dossier, "IN_PROCESS"))["paid"]


async def test_a_refused_dossier_gets_its_fee_back_by_the_procedures_rule(
    scene: Scene,
) -> None:
    await journey.receive(scene)
    await journey.pay(scene)
    refused = await journey.act(scene.examiner, "rejectDossier", scene, reason="Không có trong sổ gốc")
    assert refused["state"] == "STOPPED"
    assert refused["closingReason"] == "Không có trong sổ gốc"
    procedure = await scene.an.ask(
        "query($code: String!) { procedure(code: $code) { refundableOnRejection } }", code=journey.PROCEDURE
    )
    expected = "REFUNDED" if procedure["procedure"]["refundableOnRejection"] else "PAID"

    async def settled() -> bool | None:
        charge = (await journey.look(scene.an, scene.dossier))["charges"][0]
        return True if charge["state"] == expected else None

    await journey.until(settled, f"the charge {expected}")
    await journey.noticed(scene.an, "Không có trong sổ gốc")


async def test_a_withdrawal_after_receipt_is_the_desks_to_accept(scene: Scene) -> None:
    await journey.receive(scene)
    asked = await journey.act(scene.an, "withdrawDossier", scene, reason="Đã có bản sao khác")
    assert asked["state"] == "WITHDRAWAL_REQUESTED"
    declined = await journey.act(scene.reception, "declineWithdrawal", scene, reason="Đã ký xong")
    assert declined["state"] in ("RECEIVED", "IN_PROCESS")
    await journey.act(scene.an, "withdrawDossier", scene, reason="Vẫn muốn rút")
    stopped = await journey.act(scene.reception, "stopDossier", scene, reason="Đồng ý cho rút")
    assert stopped["state"] == "STOPPED"
    await journey.noticed(scene.an, scene.code)
