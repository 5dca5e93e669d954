"""What has no deadline is not overdue: in lists, statistics and what the dossier says of itself."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Any

import pytest
import pytest_asyncio

from motcua.dossier.v1 import dossier_pb2 as pb

WARD = "H32.15"


@pytest_asyncio.fixture(loop_scope="session")
async def an(world: Any) -> str:
    return str(world.citizen())


async def listed(world: Any, due: int, *states: int) -> list[str]:
    """The ids in the worklist of the reception, all pages, in its order."""
    found: list[str] = []
    token = ""
    while True:
        request = pb.ListWorklistRequest(
            page_size=100,
            page_token=token,
            due=pb.DueFilter.ValueType(due),
            states=[pb.DossierState.ValueType(state) for state in states],
        )
        page = await world.call("ListWorklist", "reception", request)
        found += [dossier.id for dossier in page.dossiers]
        if not (token := page.next_page_token):
            return found


async def overdue_in_statistics(world: Any) -> int:
    request = pb.GetStatisticsRequest(to="2099-12-31", agency=WARD)
    setattr(request, "from", "2026-01-01")
    return int((await world.call("GetStatistics", "leader", request)).in_process_overdue)


async def paused(world: Any, an: str, how: str) -> pb.Dossier:
    dossier: pb.Dossier = await world.received(an)
    if how == "payment":
        await world.call("RequestPayment", "reception", pb.RequestPaymentRequest(id=dossier.id))
    else:
        ask = pb.RequestSupplementRequest(id=dossier.id, defects=["thiếu"], reason="thiếu")
        await world.call("RequestSupplement", "reception", ask)
    if how == "withdrawal":
        await world.call("WithdrawDossier", an, pb.WithdrawDossierRequest(id=dossier.id, reason="Đổi ý"))
    return dossier


@pytest.mark.proof("9.5")
@pytest.mark.parametrize("how", ["supplement", "payment", "withdrawal"])
async def test_a_dossier_that_waits_for_the_applicant_is_not_overdue(world: Any, an: str, how: str) -> None:
    before = await overdue_in_statistics(world)
    dossier = await paused(world, an, how)
    world.time.at = dossier.due_time.ToDatetime(UTC) + timedelta(days=2)
    now_late = await overdue_in_statistics(world)
    assert dossier.id not in await listed(world, pb.DUE_FILTER_OVERDUE)
    assert now_late == before
    if how == "withdrawal":
        decline = pb.DeclineWithdrawalRequest(id=dossier.id, reason="Đã thẩm tra xong")
        await world.call("DeclineWithdrawal", "reception", decline)
    stop = pb.StopDossierRequest(id=dossier.id, reason="Dừng")
    await world.call("StopDossier", "leader", stop)


@pytest.mark.proof("9.5")
async def test_a_newly_filed_dossier_has_a_deadline_for_reception_and_sorts_by_it(
    world: Any, an: str
) -> None:
    filed = await world.submitted(an)
    received = await world.received(an)
    everything = await listed(world, pb.DUE_FILTER_UNSPECIFIED, pb.DOSSIER_STATE_NEWLY_FILED, 2)
    assert everything.index(filed.id) < everything.index(received.id)
    world.time.forward(days=2)
    assert filed.id in await listed(world, pb.DUE_FILTER_OVERDUE)
    late = await world.get("reception", filed.id)
    assert late.overdue
    assert late.deadline_time.ToDatetime(UTC) < world.time()
    assert not late.HasField("due_time")
    done = await world.dossier_of("ReceiveDossier", "reception", pb.ReceiveDossierRequest(id=filed.id))
    assert not done.overdue
    assert done.deadline_time == done.due_time


async def test_a_withdrawal_that_the_agency_has_to_answer_keeps_its_deadline(world: Any, an: str) -> None:
    dossier = await world.received(an)
    await world.call("WithdrawDossier", an, pb.WithdrawDossierRequest(id=dossier.id, reason="Đổi ý"))
    world.time.at = dossier.due_time.ToDatetime(UTC) + timedelta(days=1)
    assert dossier.id in await listed(world, pb.DUE_FILTER_OVERDUE)
    await world.call("StopDossier", "reception", pb.StopDossierRequest(id=dossier.id))
    ended = await world.get("reception", dossier.id)
    assert (ended.overdue, ended.HasField("deadline_time")) == (False, False)
