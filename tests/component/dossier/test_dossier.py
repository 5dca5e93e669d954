"""Dossiers from draft to result, over real gRPC, NATS and MongoDB wire."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import nats
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from dossier.domain.records import Actor
from dossier.domain.states import Party
from kit.clock import VIETNAM
from kit.errors import (
    AlreadyExists,
    Conflict,
    DomainError,
    FailedPrecondition,
    Forbidden,
    InvalidInput,
    NotFound,
    RateLimited,
    Unauthenticated,
)
from kit.ids import uuid7
from motcua.dossier.v1 import dossier_pb2 as pb
from motcua.dossier.v1 import events_pb2 as ev
from motcua.dossier.v1 import vault_pb2 as vp
from motcua.identity.v1 import identity_pb2 as idp
from motcua.payment.v1 import events_pb2 as pay

WARD, JUSTICE = "H32.15", "H32.05"


def local(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(UTC).astimezone(VIETNAM)


def paid(dossier: pb.Dossier, at: Any) -> pay.ChargePaid:
    message = pay.ChargePaid(charge=pay.ChargeRef(charge_id=dossier.charge_ids[-1], dossier_id=dossier.id))
    message.pay_time.FromDatetime(at)
    return message


async def pay_for(world: Any, who: str, dossier: pb.Dossier, eventually: Any, *, id: str = "") -> pb.Dossier:
    subject = f"motcua.payment.v1.charge_paid.{dossier.charge_ids[-1]}"
    await world.announce(subject, paid(dossier, world.time()), id=id)

    async def settled() -> Any:
        now = await world.get(who, dossier.id)
        return now if now.paid else None

    done = await eventually(settled)
    assert isinstance(done, pb.Dossier)
    return done


async def test_a_dossier_goes_from_draft_to_result_through_two_agencies(
    world: Any, anh: str, eventually: Any
) -> None:
    draft = await world.draft(anh)
    assert draft.state == pb.DOSSIER_STATE_DRAFT
    assert (draft.procedure_version, draft.procedure_name) == (3, "Đăng ký khai sinh")
    assert set(draft.allowed_actions) == {"update", "submit", "withdraw"}

    filed = (
        await world.call("SubmitDossier", anh, pb.SubmitDossierRequest(id=draft.id, etag=draft.etag))
    ).dossier
    assert filed.state == pb.DOSSIER_STATE_NEWLY_FILED
    assert "receive" in (await world.get("reception", filed.id)).allowed_actions

    received = (
        await world.call("ReceiveDossier", "reception", pb.ReceiveDossierRequest(id=filed.id))
    ).dossier
    day = world.time().astimezone(VIETNAM)
    assert received.code.startswith(f"H32.15-{day:%y%m%d}-")
    assert received.receipt.code == received.code
    assert local(received.due_time).date() == (day + timedelta(days=7)).date(), "five working days"
    assert received.current_step_id == "examine"

    asked = (
        await world.call(
            "RequestPayment", "reception", pb.RequestPaymentRequest(id=filed.id, quantities={"copy": 2})
        )
    ).dossier
    assert asked.state == pb.DOSSIER_STATE_PAYMENT_REQUESTED
    assert len(asked.charge_ids) == 1

    world.time.forward(days=2)
    going = await pay_for(world, anh, asked, eventually)
    assert going.state == pb.DOSSIER_STATE_IN_PROCESS
    assert local(going.due_time) == local(received.due_time) + timedelta(days=2), "the pause is added"

    request = pb.CompleteStepRequest(id=filed.id, step_id="examine", note="đủ")
    moved = (await world.call("CompleteStep", "examiner", request)).dossier
    assert (moved.current_agency, moved.current_step_id) == (JUSTICE, "check")
    sheet = moved.hand_overs[-1]
    assert (sheet.from_agency, sheet.to_agency, sheet.to_role) == (WARD, JUSTICE, "examiner")
    request = pb.CompleteStepRequest(id=filed.id, step_id="check")
    back = (await world.call("CompleteStep", "other_examiner", request)).dossier
    assert (back.current_agency, back.current_step_id) == (WARD, "sign")

    result = await world.upload(
        "leader",
        purpose=vp.UPLOAD_PURPOSE_RESULT,
        dossier_id=filed.id,
        type="birth_certificate",
        title="Giấy khai sinh",
    )
    unseen = await world.refused("GetDocument", anh, vp.GetDocumentRequest(id=result.id))
    assert isinstance(unseen, NotFound)
    signed = (
        await world.call("SignResult", "leader", pb.SignResultRequest(id=filed.id, document_id=result.id))
    ).dossier
    assert signed.state == pb.DOSSIER_STATE_DONE
    assert signed.timeliness == pb.TIMELINESS_EARLY
    mine = (await world.call("GetDocument", anh, vp.GetDocumentRequest(id=result.id))).document
    assert (mine.owner_id, mine.trust, mine.dossier_id) == (anh, vp.TRUST_LEVEL_SIGNED_ORIGINAL, filed.id)

    closed = (await world.call("HandOverResult", "reception", pb.HandOverResultRequest(id=filed.id))).dossier
    assert closed.state == pb.DOSSIER_STATE_HANDED_OVER
    rated = (
        await world.call("RateDossier", anh, pb.RateDossierRequest(id=filed.id, rating=5, comment="tốt"))
    ).dossier
    assert rated.rating == 5
    assert [t.to for t in rated.transitions] == [1, 2, 6, 4, 9, 10]

    tracked = await world.call("TrackDossier", "", pb.TrackDossierRequest(code=received.code.lower()))
    assert tracked.state == pb.DOSSIER_STATE_HANDED_OVER
    assert [step.state for step in tracked.steps] == [1, 2, 6, 4, 9, 10]
    assert anh not in str(tracked)


async def test_a_form_that_breaks_its_schema_is_told_by_pointer_and_nothing_changes(
    world: Any, anh: str
) -> None:
    request = pb.CreateDossierRequest(procedure_code="1.001193", receiving_agency=WARD)
    request.form.update({"child": "A", "copies": 1.5})
    draft = (await world.call("CreateDossier", anh, request)).dossier
    error = await world.refused("SubmitDossier", anh, pb.SubmitDossierRequest(id=draft.id))
    assert isinstance(error, InvalidInput)
    assert error.reason == "DOSSIER_INCOMPLETE"
    told = {(violation.field, violation.reason) for violation in error.violations}
    assert told == {
        ("/form/child", "MIN_LENGTH"),
        ("/form/copies", "TYPE"),
        ("/form/born", "REQUIRED"),
        ("/attachments/birth_proof", "COMPONENT_REQUIRED"),
    }
    assert (await world.get(anh, draft.id)).etag == draft.etag


async def test_a_number_that_json_does_not_know_is_bad_input_and_no_fault_of_ours(
    world: Any, anh: str
) -> None:
    request = pb.CreateDossierRequest(procedure_code="1.001193", receiving_agency=WARD)
    request.form.update({"copies": float("inf")})
    error = await world.refused("CreateDossier", anh, request)
    assert isinstance(error, InvalidInput)
    assert [(violation.field, violation.reason) for violation in error.violations] == [
        ("form", "OUT_OF_RANGE")
    ]


async def test_a_document_of_the_wrong_type_or_in_an_unknown_component_is_told(world: Any, anh: str) -> None:
    document = await world.upload(anh, type="photo")
    draft = await world.draft(
        anh,
        attachments=[
            pb.Attachment(component_id="birth_proof", document_id=document.id),
            pb.Attachment(component_id="nothing", document_id=document.id),
        ],
    )
    error = await world.refused("SubmitDossier", anh, pb.SubmitDossierRequest(id=draft.id))
    assert isinstance(error, InvalidInput)
    assert {(v.field, v.reason) for v in error.violations} == {
        ("/attachments/birth_proof", "WRONG_DOCUMENT_TYPE"),
        ("/attachments/nothing", "UNKNOWN_COMPONENT"),
    }


async def test_a_document_of_someone_else_cannot_be_attached_and_is_not_told_from_a_missing_one(
    world: Any, anh: str, binh: str
) -> None:
    theirs = await world.upload(binh)
    told = []
    for document in (theirs.id, uuid7()):
        request = pb.CreateDossierRequest(
            procedure_code="1.001193",
            receiving_agency=WARD,
            attachments=[pb.Attachment(component_id="birth_proof", document_id=document)],
        )
        error = await world.refused("CreateDossier", anh, request)
        assert isinstance(error, Forbidden)
        told.append((error.reason, error.message))
    assert told[0] == told[1]
    assert told[0][0] == "NOT_YOUR_DOCUMENT"


async def test_a_delegate_files_for_another_with_their_document_while_the_delegation_holds(
    world: Any, anh: str, binh: str
) -> None:
    document = await world.upload(anh)
    attachments = [pb.Attachment(component_id="birth_proof", document_id=document.id)]
    request = pb.CreateDossierRequest(
        procedure_code="1.001193", receiving_agency=WARD, applicant_id=anh, attachments=attachments
    )
    request.form.update({"child": "Bé", "born": "2026-11-01"})
    assert (await world.refused("CreateDossier", binh, request)).reason == "NOT_DELEGATED"
    world.lend(anh, binh, idp.DELEGATION_SCOPE_FILE)
    assert (await world.refused("CreateDossier", binh, request)).reason == "NOT_YOUR_DOCUMENT"
    world.lend(anh, binh, idp.DELEGATION_SCOPE_VAULT)
    draft = (await world.call("CreateDossier", binh, request)).dossier
    assert (draft.applicant_id, draft.filed_by_id) == (anh, binh)
    filed = (await world.call("SubmitDossier", binh, pb.SubmitDossierRequest(id=draft.id))).dossier
    assert filed.state == pb.DOSSIER_STATE_NEWLY_FILED
    listed = await world.call("ListDossiers", binh, pb.ListDossiersRequest(applicant_id=anh))
    assert [d.id for d in listed.dossiers] == [draft.id]
    world.identity.delegations.clear()
    assert isinstance(await world.refused("GetDossier", binh, pb.GetDossierRequest(id=draft.id)), NotFound)
    assert isinstance(
        await world.refused("ListDossiers", binh, pb.ListDossiersRequest(applicant_id=anh)), Forbidden
    )


async def test_identity_is_asked_once_for_an_applicant_however_many_dossiers_a_delegate_reads(
    world: Any, anh: str, binh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.lend(anh, binh, idp.DELEGATION_SCOPE_READ)
    mine = [await world.draft(anh, attachments=[]) for _ in range(4)]
    asked = []
    may_act = world.ports.identity.may_act

    async def counted(*question: str) -> bool:
        asked.append(question)
        return bool(await may_act(*question))

    monkeypatch.setattr(world.ports.identity, "may_act", counted)
    batch = pb.BatchGetDossiersRequest(ids=[dossier.id for dossier in mine])
    found = (await world.call("BatchGetDossiers", binh, batch)).dossiers
    assert [dossier.id for dossier in found] == [dossier.id for dossier in mine]
    assert not any(dossier.allowed_actions for dossier in found)
    assert asked == [(anh, binh, "FILE"), (anh, binh, "READ")]


async def test_a_desk_files_for_the_person_before_it_with_a_scan_of_its_own(world: Any, anh: str) -> None:
    request = pb.CreateDossierRequest(
        procedure_code="1.001193", receiving_agency=WARD, applicant_id=anh, support_point=WARD
    )
    request.form.update({"child": "Bé", "born": "2026-11-01"})
    draft = (await world.call("CreateDossier", "reception", request)).dossier
    assert draft.channel == pb.FILING_CHANNEL_COUNTER
    assert (draft.applicant_id, draft.filed_by_id) == (anh, "official-reception")
    scan = await world.upload("reception", dossier_id=draft.id)
    assert (scan.owner_id, scan.trust) == (anh, vp.TRUST_LEVEL_OFFICER_SCAN)
    update = pb.UpdateDossierRequest(
        id=draft.id, attachments=[pb.Attachment(component_id="birth_proof", document_id=scan.id)]
    )
    update.form.CopyFrom(request.form)
    await world.call("UpdateDossier", "reception", update)
    filed = (await world.call("SubmitDossier", "reception", pb.SubmitDossierRequest(id=draft.id))).dossier
    assert filed.state == pb.DOSSIER_STATE_NEWLY_FILED
    assert (await world.get(anh, draft.id)).id == draft.id, "the applicant sees it in their workspace"
    stranger = await world.refused("GetDossier", "other_examiner", pb.GetDossierRequest(id=draft.id))
    assert isinstance(stranger, NotFound)


@pytest.mark.parametrize("who", ["other_reception", "other_examiner", "leader", "examiner"])
async def test_only_the_reception_of_the_receiving_agency_receives(world: Any, anh: str, who: str) -> None:
    filed = await world.submitted(anh)
    error = await world.refused("ReceiveDossier", who, pb.ReceiveDossierRequest(id=filed.id))
    assert isinstance(error, Forbidden | NotFound)
    assert (await world.get(anh, filed.id)).state == pb.DOSSIER_STATE_NEWLY_FILED


async def test_a_stale_etag_is_a_conflict_and_the_other_edit_stands(world: Any, anh: str) -> None:
    draft = await world.draft(anh)
    first = pb.UpdateDossierRequest(id=draft.id, etag=draft.etag)
    first.form.update({"child": "Người thứ nhất"})
    kept = (await world.call("UpdateDossier", anh, first)).dossier
    second = pb.UpdateDossierRequest(id=draft.id, etag=draft.etag)
    second.form.update({"child": "Người thứ hai"})
    error = await world.refused("UpdateDossier", anh, second)
    assert isinstance(error, Conflict)
    assert error.reason == "STALE"
    now = await world.get(anh, draft.id)
    assert (json.loads(now.form_json)["child"], now.etag) == ("Người thứ nhất", kept.etag)


async def test_a_repeated_request_id_gives_the_same_answer_and_another_request_is_refused(
    world: Any, anh: str
) -> None:
    key = uuid7()
    first = await world.draft(anh, request_id=key, attachments=[])
    again = await world.draft(anh, request_id=key, attachments=[])
    assert again.id == first.id
    with pytest.raises(AlreadyExists):
        await world.draft(anh, request_id=key, attachments=[], support_point=WARD)

    filed = await world.submitted(anh)
    receive = pb.ReceiveDossierRequest(id=filed.id, request_id=uuid7())
    one = (await world.call("ReceiveDossier", "reception", receive)).dossier
    two = (await world.call("ReceiveDossier", "reception", receive)).dossier
    assert (two.code, two.etag) == (one.code, one.etag)
    assert (
        await world.refused("ReceiveDossier", "reception", pb.ReceiveDossierRequest(id=filed.id))
    ).reason == "WRONG_STATE"


async def test_codes_are_unique_under_load_and_a_dossier_never_has_two(world: Any, anh: str) -> None:
    document = await world.upload(anh)
    attachments = [pb.Attachment(component_id="birth_proof", document_id=document.id)]
    filed = await asyncio.gather(*(world.submitted(anh, attachments=attachments) for _ in range(12)))

    async def receive(dossier: pb.Dossier) -> str:
        try:
            answer = await world.call("ReceiveDossier", "reception", pb.ReceiveDossierRequest(id=dossier.id))
        except FailedPrecondition as error:
            return "" if error.reason == "WRONG_STATE" else error.reason
        return str(answer.dossier.code)

    codes = await asyncio.gather(*(receive(dossier) for dossier in filed * 3))
    given = [code for code in codes if code]
    assert len(given) == len(set(given)) == 12
    kept = {(await world.get(anh, dossier.id)).code for dossier in filed}
    assert kept == set(given)


async def test_a_crash_between_code_and_dossier_leaves_one_code(world: Any, anh: str) -> None:
    filed = await world.submitted(anh)
    before = await world.ports.codes.assign(filed.id, WARD, world.time())
    after = (await world.call("ReceiveDossier", "reception", pb.ReceiveDossierRequest(id=filed.id))).dossier
    assert after.code == before


async def test_a_payment_told_twice_moves_the_dossier_once(world: Any, anh: str, eventually: Any) -> None:
    dossier = await world.received(anh)
    dossier = (
        await world.call("RequestPayment", "reception", pb.RequestPaymentRequest(id=dossier.id))
    ).dossier
    event = uuid7()
    once = await pay_for(world, anh, dossier, eventually, id=event)
    await world.announce("motcua.payment.v1.charge_paid.x", paid(dossier, world.time()), id=event)
    await world.announce("motcua.payment.v1.charge_paid.x", paid(dossier, world.time()))
    last = await world.received(anh)  # something to wait for behind the two
    last = (await world.call("RequestPayment", "reception", pb.RequestPaymentRequest(id=last.id))).dossier
    await pay_for(world, anh, last, eventually)
    again = await world.get(anh, dossier.id)
    assert [t.to for t in again.transitions] == [t.to for t in once.transitions] == [1, 2, 6, 4]
    assert again.due_time == once.due_time


async def test_an_unknown_fee_needs_lines_and_a_known_one_takes_none(world: Any, anh: str) -> None:
    dossier = await world.received(anh)
    line = pb.FeeLine(name="Phí thẩm định", amount=150_000)
    with_lines = pb.RequestPaymentRequest(id=dossier.id, lines=[line])
    assert (await world.refused("RequestPayment", "reception", with_lines)).reason == "FEE_IS_KNOWN"
    world.catalog.known_fee = False
    try:
        without = pb.RequestPaymentRequest(id=dossier.id)
        assert (await world.refused("RequestPayment", "reception", without)).reason == "FEE_UNKNOWN"
        asked = (await world.call("RequestPayment", "reception", with_lines)).dossier
    finally:
        world.catalog.known_fee = True
    assert asked.state == pb.DOSSIER_STATE_PAYMENT_REQUESTED


async def test_a_supplement_is_asked_once_in_three_working_days_and_restarts_the_limit(
    world: Any, anh: str
) -> None:
    dossier = await world.received(anh)
    ask = pb.RequestSupplementRequest(id=dossier.id, defects=["Thiếu chữ ký"], reason="Chưa đủ")
    asked = (await world.call("RequestSupplement", "examiner", ask)).dossier
    assert asked.state == pb.DOSSIER_STATE_SUPPLEMENT_REQUESTED
    world.time.forward(days=7)
    more = await world.upload(anh, type="other_paper")
    answer = pb.SupplementDossierRequest(
        id=dossier.id,
        attachments=[pb.Attachment(component_id="other", document_id=more.id)],
        note="đã bổ sung",
    )
    done = (await world.call("SupplementDossier", anh, answer)).dossier
    assert done.state == pb.DOSSIER_STATE_IN_PROCESS
    assert {a.component_id for a in done.attachments} == {"birth_proof", "other"}
    assert local(done.due_time).date() == (world.time().astimezone(VIETNAM) + timedelta(days=7)).date()
    assert (await world.refused("RequestSupplement", "examiner", ask)).reason == "SUPPLEMENT_USED"

    late = await world.received(anh)
    world.time.forward(days=7)
    ask.id = late.id
    assert (await world.refused("RequestSupplement", "examiner", ask)).reason == "SUPPLEMENT_TOO_LATE"


async def test_an_apology_is_made_once_and_a_day_before_expiry(world: Any, anh: str) -> None:
    dossier = await world.received(anh)
    extend = pb.ExtendDeadlineRequest(id=dossier.id, reason="Chờ xác minh")
    extend.new_due_time.FromDatetime(dossier.due_time.ToDatetime(UTC) + timedelta(days=3))
    done = (await world.call("ExtendDeadline", "examiner", extend)).dossier
    assert done.apology.original_due_time == dossier.due_time
    assert done.due_time == extend.new_due_time
    assert (await world.refused("ExtendDeadline", "examiner", extend)).reason == "APOLOGY_USED"
    late = await world.received(anh)
    extend.id = late.id
    world.time.at = late.due_time.ToDatetime(UTC) - timedelta(hours=3)
    assert (await world.refused("ExtendDeadline", "examiner", extend)).reason == "APOLOGY_TOO_LATE"


async def test_a_dossier_received_after_15_00_counts_from_the_next_working_day(world: Any, anh: str) -> None:
    filed = await world.submitted(anh)
    morning = world.time().astimezone(VIETNAM).replace(hour=9, minute=0)
    while morning.weekday() != 0:
        morning += timedelta(days=1)
    world.time.at = morning.replace(hour=15, minute=30).astimezone(UTC)
    received = (
        await world.call("ReceiveDossier", "reception", pb.ReceiveDossierRequest(id=filed.id))
    ).dossier
    assert local(received.due_time).date() == (morning + timedelta(days=8)).date()
    world.time.at = morning.astimezone(UTC) + timedelta(days=1)


async def test_a_withdrawal_is_direct_before_reception_and_asked_for_afterwards(world: Any, anh: str) -> None:
    early = await world.submitted(anh)
    gone = (
        await world.call("WithdrawDossier", anh, pb.WithdrawDossierRequest(id=early.id, reason="Nhầm"))
    ).dossier
    assert gone.state == pb.DOSSIER_STATE_WITHDRAWN

    dossier = await world.received(anh)
    withdraw = pb.WithdrawDossierRequest(id=dossier.id, reason="Đổi ý")
    asked = (await world.call("WithdrawDossier", anh, withdraw)).dossier
    assert asked.state == pb.DOSSIER_STATE_WITHDRAWAL_REQUESTED
    decline = pb.DeclineWithdrawalRequest(id=dossier.id, reason="Đã thẩm tra xong")
    back = (await world.call("DeclineWithdrawal", "reception", decline)).dossier
    assert back.state == pb.DOSSIER_STATE_RECEIVED
    await world.call("WithdrawDossier", anh, withdraw)
    stop = pb.StopDossierRequest(id=dossier.id)
    stopped = (await world.call("StopDossier", "reception", stop)).dossier
    assert (stopped.state, stopped.closing_reason) == (pb.DOSSIER_STATE_STOPPED, "Đổi ý")


async def test_a_paid_dossier_refused_on_examination_announces_what_is_to_be_refunded(
    world: Any, anh: str, eventually: Any
) -> None:
    dossier = await world.received(anh)
    dossier = (
        await world.call("RequestPayment", "reception", pb.RequestPaymentRequest(id=dossier.id))
    ).dossier
    dossier = await pay_for(world, anh, dossier, eventually)
    client = await nats.connect(world.settings.nats_url)
    heard = await client.jetstream().subscribe(
        f"motcua.dossier.v1.dossier_rejected.*.{dossier.id}", stream="dossier", ordered_consumer=True
    )
    reject = pb.RejectDossierRequest(id=dossier.id, reason="Không đủ điều kiện")
    refused = (await world.call("RejectDossier", "examiner", reject)).dossier
    assert refused.state == pb.DOSSIER_STATE_STOPPED
    event = ev.DossierRejected.FromString((await heard.next_msg(timeout=10)).data)
    await client.close()
    assert event.refundable
    assert list(event.charge_ids) == list(dossier.charge_ids)
    assert (event.reason, event.dossier.applicant_id) == ("Không đủ điều kiện", anh)
    assert event.dossier.actor_agency == WARD


async def test_a_result_cannot_be_signed_before_it_is_uploaded_nor_out_of_turn(world: Any, anh: str) -> None:
    dossier = await world.received(anh)
    missing = pb.SignResultRequest(id=dossier.id, document_id=uuid7())
    assert (await world.refused("SignResult", "leader", missing)).reason == "RESULT_MISSING"
    result = await world.upload("examiner", purpose=vp.UPLOAD_PURPOSE_RESULT, dossier_id=dossier.id)
    early = pb.SignResultRequest(id=dossier.id, document_id=result.id)
    assert (await world.refused("SignResult", "leader", early)).reason == "WRONG_STATE"
    await world.call("CompleteStep", "examiner", pb.CompleteStepRequest(id=dossier.id))
    assert isinstance(await world.refused("SignResult", "leader", early), FailedPrecondition | Forbidden)
    own = await world.upload(anh)
    foreign = pb.SignResultRequest(id=dossier.id, document_id=own.id)
    assert (await world.refused("SignResult", "leader", foreign)).reason == "RESULT_MISSING"
    assert (
        await world.refused("HandOverResult", "reception", pb.HandOverResultRequest(id=dossier.id))
    ).reason == ("WRONG_STATE")


async def test_a_step_is_completed_once_and_by_its_role(world: Any, anh: str) -> None:
    dossier = await world.received(anh)
    complete = pb.CompleteStepRequest(id=dossier.id, step_id="examine")
    assert (await world.refused("CompleteStep", "reception", complete)).reason == "NOT_YOUR_STEP"
    await world.call("CompleteStep", "examiner", complete)
    assert isinstance(await world.refused("CompleteStep", "examiner", complete), DomainError)
    assert (await world.refused("CompleteStep", "other_examiner", complete)).reason == "STEP_PASSED"


async def test_the_worklist_shows_an_agencys_work_most_urgent_first(world: Any, anh: str) -> None:
    first = await world.received(anh)
    world.time.forward(days=1)
    second = await world.received(anh)
    extend = pb.ExtendDeadlineRequest(id=first.id, reason="Chờ")
    extend.new_due_time.FromDatetime(second.due_time.ToDatetime(UTC) + timedelta(days=10))
    await world.call("ExtendDeadline", "examiner", extend)

    async def listed(who: str, **fields: Any) -> list[str]:
        found, token = [], ""
        while True:
            request = pb.ListWorklistRequest(page_size=7, page_token=token, **fields)
            page = await world.call("ListWorklist", who, request)
            found += [d.id for d in page.dossiers]
            if not (token := page.next_page_token):
                return found

    ids = await listed("examiner", states=[pb.DOSSIER_STATE_RECEIVED])
    assert ids.index(second.id) < ids.index(first.id)
    assert first.id in await listed("examiner", due=pb.DUE_FILTER_LATER)
    world.time.at = second.due_time.ToDatetime(UTC) + timedelta(minutes=1)
    assert second.id in await listed("examiner", due=pb.DUE_FILTER_OVERDUE)
    assert second.id not in await listed("other_examiner")
    error = await world.refused("ListWorklist", "other_examiner", pb.ListWorklistRequest(agency=WARD))
    assert isinstance(error, Forbidden)


async def test_statistics_balance_and_a_province_sees_its_wards(world: Any, anh: str) -> None:
    await world.received(anh)
    month = {"from": "2026-01-01", "to": (world.time() + timedelta(days=1)).date().isoformat()}
    ward = await world.call("GetStatistics", "leader", pb.GetStatisticsRequest(**month))
    handled = ward.handled_early + ward.handled_on_time + ward.handled_overdue
    open_now = ward.in_process_in_time + ward.in_process_overdue + ward.paused
    assert ward.carried_over + ward.newly_received == handled + open_now
    assert ward.newly_received > 0
    assert ward.online <= ward.newly_received
    province = await world.call("GetStatistics", "admin", pb.GetStatisticsRequest(**month))
    assert province == ward
    error = await world.refused(
        "GetStatistics", "other_examiner", pb.GetStatisticsRequest(agency=WARD, **month)
    )
    assert isinstance(error, Forbidden)


async def test_tracking_says_the_same_of_a_wrong_code_and_is_limited(world: Any) -> None:
    bad = await world.refused("TrackDossier", "", pb.TrackDossierRequest(code="nonsense"))
    assert isinstance(bad, InvalidInput)
    track = pb.TrackDossierRequest(code="H32.15-261121-9999", client_address="203.0.113.9")
    assert isinstance(await world.refused("TrackDossier", "", track), NotFound)
    for _ in range(world.settings.track_tries):
        error = await world.refused("TrackDossier", "", track)
    assert isinstance(error, RateLimited)
    assert int(error.metadata["retry_after"]) > 0
    track.client_address = "203.0.113.10"
    assert isinstance(await world.refused("TrackDossier", "", track), NotFound)


async def test_strangers_get_nothing(world: Any, anh: str, binh: str) -> None:
    dossier = await world.received(anh)
    get = pb.GetDossierRequest(id=dossier.id)
    assert isinstance(await world.refused("GetDossier", "", get), Unauthenticated)
    assert isinstance(await world.refused("GetDossier", binh, get), NotFound)
    batch = pb.BatchGetDossiersRequest(ids=[dossier.id, uuid7()])
    assert not (await world.call("BatchGetDossiers", binh, batch)).dossiers
    assert len((await world.call("BatchGetDossiers", anh, batch)).dossiers) == 1
    withdraw = pb.WithdrawDossierRequest(id=dossier.id, reason="x")
    assert isinstance(await world.refused("WithdrawDossier", binh, withdraw), NotFound)
    receive = pb.ReceiveDossierRequest(id=dossier.id)
    assert isinstance(await world.refused("ReceiveDossier", anh, receive), Forbidden)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"procedure_code": "8.888888"}, "NOT_FOUND"),
        ({"procedure_code": "9.000001"}, "NOT_FILEABLE"),
        ({"receiving_agency": "H99"}, "UNKNOWN_AGENCY"),
        ({"receiving_agency": "H32.99"}, "UNKNOWN_AGENCY"),
        ({"receiving_agency": ""}, "REQUIRED"),
        ({"support_point": "H99"}, "UNKNOWN_AGENCY"),
        ({"channel": pb.FILING_CHANNEL_COUNTER}, "NOT_YOUR_CHANNEL"),
        ({"channel": pb.FILING_CHANNEL_POST}, "NOT_OFFERED"),
        ({"case_id": "none"}, "UNKNOWN_CASE"),
    ],
)
async def test_what_cannot_be_filed_is_said_at_once(
    world: Any, anh: str, fields: dict[str, Any], reason: str
) -> None:
    request = pb.CreateDossierRequest(**{"procedure_code": "1.001193", "receiving_agency": WARD, **fields})
    error = await world.refused("CreateDossier", anh, request)
    reasons = {violation.reason for violation in getattr(error, "violations", [])}
    assert reason in {error.reason, *reasons}


async def test_a_handed_off_dossier_can_be_finished_by_the_one_it_was_given_to(world: Any, anh: str) -> None:
    dossier = await world.received(anh)
    world.identity.accounts["official-other_examiner"] = idp.Account(
        id="official-other_examiner",
        kind=idp.ACCOUNT_KIND_OFFICIAL,
        roles=[idp.Role(agency=JUSTICE, name="examiner")],
    )
    wrong = pb.HandOffRequest(id=dossier.id, to_agency=WARD, to_official_id="official-other_examiner")
    assert (await world.refused("HandOff", "examiner", wrong)).reason == "NOT_OF_THIS_AGENCY"
    hand = pb.HandOffRequest(
        id=dossier.id, to_agency=JUSTICE, to_official_id="official-other_examiner", note="chuyển"
    )
    there = (await world.call("HandOff", "examiner", hand)).dossier
    assert (there.current_agency, there.assignee_id) == (JUSTICE, "official-other_examiner")
    assert there.current_step_id == "check", "handing to the agency of the next step completes this one"
    assert there.state == pb.DOSSIER_STATE_IN_PROCESS
    mine = await world.call("ListWorklist", "other_examiner", pb.ListWorklistRequest(mine=True))
    assert dossier.id in [d.id for d in mine.dossiers]
    seen = await world.get("examiner", dossier.id)
    assert seen.allowed_actions == [], "who had it may look, and no more"


async def test_a_crash_right_after_an_act_still_records_the_use_and_deposits_the_result(
    world: Any, anh: str, eventually: Any
) -> None:
    document = await world.upload(anh)
    attachments = [pb.Attachment(component_id="birth_proof", document_id=document.id)]
    draft = await world.draft(anh, attachments=attachments)
    who = Actor(anh, frozenset({Party.APPLICANT}))
    # The act was stored, and the process died before it could do what follows in the vault.
    await world.ports.dossiers.change(draft.id, lambda d: d.submit(who, world.time()))

    async def used() -> bool:
        request = vp.ListAccessesRequest(document_id=document.id)
        log = (await world.call("ListAccesses", anh, request)).accesses
        return [access.act for access in log] == ["USE"]

    await eventually(used)
    await world.call("ReceiveDossier", "reception", pb.ReceiveDossierRequest(id=draft.id))
    await world.call("CompleteStep", "examiner", pb.CompleteStepRequest(id=draft.id))
    await world.call("CompleteStep", "other_examiner", pb.CompleteStepRequest(id=draft.id))
    result = await world.upload("leader", purpose=vp.UPLOAD_PURPOSE_RESULT, dossier_id=draft.id)
    leader = Actor("official-leader", frozenset({Party.LEADER}), WARD)
    await world.ports.dossiers.change(
        draft.id, lambda d: d.sign_result(leader, world.time(), document=result.id, note="")
    )

    async def deposited() -> bool:
        page = await world.call("ListDocuments", anh, vp.ListDocumentsRequest())
        return result.id in [d.id for d in page.documents]

    await eventually(deposited)


async def test_a_payment_for_an_unknown_dossier_does_not_hold_up_the_next(
    world: Any, anh: str, eventually: Any
) -> None:
    stray = pay.ChargePaid(charge=pay.ChargeRef(charge_id=uuid7(), dossier_id=uuid7()))
    await world.announce("motcua.payment.v1.charge_paid.stray", stray)
    dossier = await world.received(anh)
    dossier = (
        await world.call("RequestPayment", "reception", pb.RequestPaymentRequest(id=dossier.id))
    ).dossier
    assert (await pay_for(world, anh, dossier, eventually)).state == pb.DOSSIER_STATE_IN_PROCESS
