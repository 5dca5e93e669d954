"""What a dossier may do after its fee was given back is its procedure's rule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dossier.domain.dossier import Dossier, draft
from dossier.domain.records import Actor, Channel, FeeLine, FeeNeededBy, Procedure, Step
from dossier.domain.states import Party, State
from kit.errors import DomainError

AT = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
DESK = Actor("official", frozenset(Party) - {Party.APPLICANT, Party.PAYMENT}, "H32.15")
PAYMENT = Actor("payment", frozenset({Party.PAYMENT}))
LINES = [FeeLine("Lệ phí", 8_000)]


def paid(rule: FeeNeededBy) -> Dossier:
    """A dossier in process whose fee was paid."""
    procedure = Procedure(
        code="1.001193",
        version=1,
        name="Đăng ký khai sinh",
        fileable=True,
        schema={},
        cases={},
        steps=(Step("examine", "Thẩm định", "examiner"), Step("sign", "Ký", "leader")),
        limits={},
        channels=frozenset({Channel.ONLINE}),
        fee_needed_by=rule,
    )
    where: dict[str, Any] = {"receiving_agency": "H32.15", "support_point": ""}
    dossier = draft(
        "d",
        procedure,
        AT,
        applicant="an",
        filed_by="an",
        assisted=False,
        channel=Channel.ONLINE,
        case="",
        form={},
        attachments=[],
        **where,
    )
    dossier.state = State.RECEIVED
    dossier.ask_payment(DESK, AT, charge="c1", lines=LINES, refundable=False)
    dossier.charge_paid(PAYMENT, AT, charge="c1", due=None, step_due=None)
    return dossier


def refusal(dossier: Dossier) -> str:
    """Why the next step cannot be completed; empty when it can."""
    try:
        dossier.complete_step(DESK, AT, expected="examine", note="", step_due=None)
    except DomainError as error:
        return error.reason
    return ""


@pytest.mark.parametrize(
    ("rule", "reason"),
    [(FeeNeededBy.EXAMINATION, "FEE_GIVEN_BACK"), (FeeNeededBy.RESULT, ""), (FeeNeededBy.NEVER, "")],
)
def test_examination_waits_where_the_procedure_needs_the_fee_for_it(rule: FeeNeededBy, reason: str) -> None:
    dossier = paid(rule)
    dossier.charge_refunded(PAYMENT, AT, charge="c1", amount=8_000, done=False)
    assert not dossier.paid
    assert refusal(dossier) == reason


def test_a_later_charge_makes_a_refund_good() -> None:
    dossier = paid(FeeNeededBy.EXAMINATION)
    dossier.charge_refunded(PAYMENT, AT, charge="c1", amount=8_000, done=True)
    later = AT + timedelta(days=1)
    dossier.ask_payment(DESK, later, charge="c2", lines=LINES, refundable=False)
    assert not dossier.paid
    dossier.charge_paid(PAYMENT, later, charge="c2", due=None, step_due=None)
    assert (dossier.paid, dossier.state) == (True, State.IN_PROCESS)
    assert refusal(dossier) == ""
    dossier.charge_refunded(PAYMENT, later, charge="c2", amount=8_000, done=True)
    assert not dossier.paid


def test_a_refund_while_another_fee_is_open_does_not_hold_that_up() -> None:
    dossier = paid(FeeNeededBy.RESULT)
    dossier.ask_payment(DESK, AT, charge="c2", lines=LINES, refundable=False)
    dossier.charge_refunded(PAYMENT, AT + timedelta(hours=1), charge="c1", amount=8_000, done=True)
    dossier.charge_paid(PAYMENT, AT + timedelta(hours=2), charge="c2", due=None, step_due=None)
    assert (dossier.state, dossier.paid) == (State.IN_PROCESS, False)
