"""An applicant whom nobody proved files for themselves, and sees and gets nothing else."""

from __future__ import annotations

from typing import Any

from motcua.dossier.v1 import dossier_pb2 as pb
from motcua.dossier.v1 import vault_pb2 as vp
from motcua.identity.v1 import identity_pb2 as idp

World = Any


async def _signed(world: World, applicant: str) -> tuple[pb.Dossier, str]:
    """A dossier of the applicant with its result signed."""
    dossier = await world.received(applicant)
    for who in ("examiner", "other_examiner"):
        request = pb.CompleteStepRequest(id=dossier.id)
        dossier = (await world.call("CompleteStep", who, request)).dossier
    result = await world.upload("leader", purpose=vp.UPLOAD_PURPOSE_RESULT, dossier_id=dossier.id)
    sign = pb.SignResultRequest(id=dossier.id, document_id=result.id)
    return (await world.call("SignResult", "leader", sign)).dossier, result.id


async def test_a_result_waits_until_it_is_proven_who_the_applicant_is(world: World) -> None:
    unproven = world.citizen(verified=False)
    dossier, result = await _signed(world, unproven)
    assert dossier.state == pb.DOSSIER_STATE_DONE
    hand_over = pb.HandOverResultRequest(id=dossier.id)
    assert (await world.refused("HandOverResult", "reception", hand_over)).reason == "APPLICANT_NOT_VERIFIED"
    read = vp.GetDocumentRequest(id=result)
    assert (await world.refused("GetDocument", unproven, read)).reason == "DOCUMENT_NOT_FOUND"

    world.identity.accounts[unproven].verified = True
    handed = (await world.call("HandOverResult", "reception", hand_over)).dossier
    assert handed.state == pb.DOSSIER_STATE_HANDED_OVER
    assert (await world.call("GetDocument", unproven, read)).document.owner_id == unproven


async def test_a_desk_files_for_nobody_whose_identity_is_not_proven(world: World) -> None:
    unproven = world.citizen(verified=False)
    error = await world.refused("CreateDossier", "reception", _draft(unproven))
    assert error.reason == "APPLICANT_NOT_VERIFIED"


async def test_what_a_desk_filed_is_hidden_from_an_account_that_is_no_longer_proven(world: World) -> None:
    applicant = world.citizen()
    filed = (await world.call("CreateDossier", "reception", _draft(applicant))).dossier
    read, listed = pb.GetDossierRequest(id=filed.id), pb.ListDossiersRequest()
    assert (await world.call("GetDossier", applicant, read)).dossier.id == filed.id
    assert [d.id for d in (await world.call("ListDossiers", applicant, listed)).dossiers] == [filed.id]
    world.identity.accounts[applicant].verified = False
    assert (await world.refused("GetDossier", applicant, read)).reason == "DOSSIER_NOT_FOUND"
    assert not (await world.call("ListDossiers", applicant, listed)).dossiers
    own = await world.draft(applicant)
    assert (await world.call("GetDossier", applicant, pb.GetDossierRequest(id=own.id))).dossier.id == own.id


async def test_an_unverified_delegate_acts_for_nobody(world: World) -> None:
    principal, delegate = world.citizen(), world.citizen(verified=False)
    world.lend(principal, delegate, idp.DELEGATION_SCOPE_READ, idp.DELEGATION_SCOPE_VAULT)
    dossier, document = await world.draft(principal), await world.upload(principal)
    for method, request in (
        ("GetDossier", pb.GetDossierRequest(id=dossier.id)),
        ("ListDossiers", pb.ListDossiersRequest(applicant_id=principal)),
        ("GetDocument", vp.GetDocumentRequest(id=document.id)),
    ):
        assert (await world.refused(method, delegate, request)).reason in (
            "DOSSIER_NOT_FOUND",
            "NOT_DELEGATED",
            "DOCUMENT_NOT_FOUND",
        )
    world.identity.accounts[delegate].verified = True
    assert (await world.call("GetDossier", delegate, pb.GetDossierRequest(id=dossier.id))).dossier


def _draft(applicant: str) -> pb.CreateDossierRequest:
    return pb.CreateDossierRequest(
        procedure_code="1.001193",
        receiving_agency="H32.15",
        applicant_id=applicant,
    )
