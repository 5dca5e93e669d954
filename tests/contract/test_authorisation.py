"""Who may call what, as one table over all services: every RPC, every kind of caller, exactly the outcome."""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from graphql import (
    GraphQLObjectType,
    is_enum_type,
    is_input_object_type,
    is_list_type,
    is_non_null_type,
    is_required_input_field,
)

from gateway.ids import to_global
from gateway.schema import schema
from kit.auth import Who
from motcua.catalog.v1 import catalog_pb2 as cat
from motcua.dossier.v1 import dossier_pb2 as dos
from motcua.dossier.v1 import vault_pb2 as vlt
from motcua.identity.v1 import identity_pb2 as idp
from motcua.notify.v1 import notify_pb2 as ntf
from motcua.payment.v1 import payment_pb2 as pay

World = Any

# RPC, and where it matters in which case | the guard on its handler | who is let in | what the others whom
# the guard lets pass are told, by default and by name. Whom the guard stops is told SIGN_IN_REQUIRED
# (strangers) or NOT_ALLOWED. Where lists leave out what one may not see, nothing is left: OMITTED.
#
# The thing is the owner's, or their dossier's at the ward (H32.15). stranger: another citizen. file, read,
# vault, pay: citizens with the owner's delegation of that one scope. roleless: an official without a role.
# elsewhere: an official with every role, of another agency. reception … cashier: officials of the ward with
# that one role. admin: of the province. service:…: our services, acting for themselves.
TABLE = """
IdentityService.SignUp             | anyone                     | everyone                     |
IdentityService.SignIn             | anyone                     | everyone                     |
IdentityService.CompleteSignIn     | anyone                     | everyone                     |
IdentityService.BeginSecondFactor  | anyone                     | everyone                     |
IdentityService.CompleteSecondFactor | anyone                   | everyone                     |
IdentityService.ListSecondFactors  | official                   | officials                    |
IdentityService.RemoveSecondFactor | official                   | officials                    |
IdentityService.RenewRecoveryCodes | official                   | officials                    |
IdentityService.ResetSecondFactors | official:admin             | admin                        | NOT_YOUR_AGENCY
IdentityService.BeginOidcSignIn    | anyone                     | everyone                     |
IdentityService.CompleteOidcSignIn | anyone                     | everyone                     |
IdentityService.RefreshSession     | anyone                     | everyone                     |
IdentityService.SignOut            | anyone                     | everyone                     |
IdentityService.ListEndedSessions  | anyone                     | everyone                     |
IdentityService.GetJwks            | anyone                     | everyone                     |
IdentityService.IssueServiceToken  | anyone                     | everyone                     |
IdentityService.OpenAccount        | official:reception         | reception                    | NOT_YOUR_AGENCY
IdentityService.ProveAccount       | official:reception         | reception                    | NOT_YOUR_AGENCY
IdentityService.ConfirmIdentity    | citizen                    | citizens                     |
IdentityService.CreateOfficial     | official:admin             | admin                        | NOT_YOUR_AGENCY
IdentityService.SetRoles           | official:admin             | admin                        | NOT_YOUR_AGENCY
IdentityService.UpdateProfile      | citizen official           | citizens officials           |
IdentityService.ChangePassword     | citizen official           | citizens officials           |
IdentityService.RequestPasswordReset | anyone                   | everyone                     |
IdentityService.ResetPassword      | anyone                     | everyone                     |
IdentityService.RequestContactVerification | citizen official   | citizens officials           |
IdentityService.VerifyContact      | citizen official           | citizens officials           |
IdentityService.IssueOneTimeSecret | service:notify             | service:notify               |
IdentityService.SetAccountStatus   | official:admin             | admin                        | NOT_YOUR_AGENCY
IdentityService.GetAccount         | citizen official service   | owner delegates officials services | ACCOUNT_NOT_FOUND
IdentityService.BatchGetAccounts   | citizen official service   | owner delegates officials services | OMITTED
IdentityService.FindAccount        | service                    | services                     |
IdentityService.PutAgency          | official:admin             | admin                        | NOT_YOUR_AGENCY
IdentityService.BatchGetAgencies   | anyone                     | everyone                     |
IdentityService.ListAgencies       | anyone                     | everyone                     |
IdentityService.GrantDelegation    | citizen                    | citizens                     |
IdentityService.AcceptDelegation   | citizen                    | pay                          | DELEGATION_NOT_FOUND
IdentityService.RevokeDelegation   | citizen                    | owner pay                    | DELEGATION_NOT_FOUND
IdentityService.DeclineDelegation  | citizen                    | pay                          | DELEGATION_NOT_FOUND
IdentityService.ListDelegations    | citizen                    | citizens                     |
IdentityService.CheckDelegation    | service                    | services                     |

CatalogService.SearchProcedures    | anyone                     | everyone                     |
CatalogService.GetProcedure        | anyone                     | everyone                     |
CatalogService.BatchGetProcedures  | anyone                     | everyone                     |
CatalogService.ListFields          | anyone                     | everyone                     |
CatalogService.PutProcedure        | official:admin service:importer,catalog | admin elsewhere service:importer service:catalog |
CatalogService.ImportProcedures    | official:admin service:importer,catalog | admin elsewhere service:importer service:catalog |
CatalogService.QuoteFee            | anyone                     | everyone                     |
CatalogService.ComputeDue          | anyone                     | everyone                     |
CatalogService.CountWorkingDays    | anyone                     | everyone                     |
CatalogService.GetCalendar         | anyone                     | everyone                     |

DossierService.CreateDossier       | citizen official:reception | owner file reception         | NOT_DELEGATED, elsewhere NOT_YOUR_DESK
DossierService.UpdateDossier       | citizen official:reception | owner file                   | DOSSIER_NOT_FOUND, read NOT_ALLOWED
DossierService.UpdateDossier filed at the desk | citizen official:reception | owner file reception | DOSSIER_NOT_FOUND, read NOT_ALLOWED
DossierService.SubmitDossier       | citizen official:reception | owner file                   | DOSSIER_NOT_FOUND, read NOT_ALLOWED
DossierService.SubmitDossier filed at the desk | citizen official:reception | owner file reception | DOSSIER_NOT_FOUND, read NOT_ALLOWED
DossierService.SupplementDossier   | citizen official:reception | owner file                   | DOSSIER_NOT_FOUND, read reception NOT_ALLOWED
DossierService.WithdrawDossier     | citizen official:reception | owner file                   | DOSSIER_NOT_FOUND, read reception NOT_ALLOWED
DossierService.RateDossier         | citizen                    | owner file                   | DOSSIER_NOT_FOUND, read NOT_ALLOWED
DossierService.ReceiveDossier      | official:reception         | reception                    | DOSSIER_NOT_FOUND
DossierService.RejectDossier new   | official:reception,examiner,leader | reception            | DOSSIER_NOT_FOUND, examiner leader WRONG_STATE
DossierService.RejectDossier received | official:reception,examiner,leader | examiner leader   | DOSSIER_NOT_FOUND, reception WRONG_STATE
DossierService.RequestSupplement   | official:reception,examiner,leader | reception examiner leader | DOSSIER_NOT_FOUND
DossierService.RequestPayment      | official:reception,examiner,leader | reception examiner leader | DOSSIER_NOT_FOUND
DossierService.HandOff             | official:reception,examiner,leader | reception examiner leader | DOSSIER_NOT_FOUND
DossierService.CompleteStep        | official:reception,examiner,leader,clerk | examiner       | DOSSIER_NOT_FOUND, reception leader clerk NOT_YOUR_STEP
DossierService.ExtendDeadline      | official:reception,examiner,leader | reception examiner leader | DOSSIER_NOT_FOUND
DossierService.StopDossier         | official:reception,examiner,leader | examiner leader      | DOSSIER_NOT_FOUND, reception WRONG_STATE
DossierService.DeclineWithdrawal   | official:reception,leader  | reception leader             | DOSSIER_NOT_FOUND
DossierService.SignResult          | official:leader            | leader                       | DOSSIER_NOT_FOUND
DossierService.HandOverResult      | official:reception,clerk   | reception clerk              | DOSSIER_NOT_FOUND
DossierService.GetDossier          | citizen official service:payment,notify,gateway | owner file read office service:payment service:notify service:gateway | DOSSIER_NOT_FOUND
DossierService.BatchGetDossiers    | citizen official service:payment,notify,gateway | owner file read office service:payment service:notify service:gateway | OMITTED
DossierService.ListDossiers        | citizen                    | owner file read              | NOT_DELEGATED
DossierService.ListWorklist        | official                   | office                       | NOT_YOUR_AGENCY
DossierService.TrackDossier        | anyone                     | everyone                     |
DossierService.GetStatistics       | official                   | office cashier admin         | NOT_YOUR_AGENCY

VaultService.BeginUpload of a new version | citizen official    | owner vault                  | DOCUMENT_NOT_FOUND
VaultService.BeginUpload of a result | citizen official         | examiner leader clerk        | DOSSIER_NOT_FOUND, owner file read reception NOT_ALLOWED
VaultService.BeginUpload for a vault of one's own | citizen official | citizens                | NO_VAULT
VaultService.GetUpload             | citizen official           | owner                        | UPLOAD_NOT_FOUND
VaultService.AppendUpload          | citizen official           | owner                        | UPLOAD_NOT_FOUND
VaultService.CancelUpload          | citizen official           | owner                        | UPLOAD_NOT_FOUND
VaultService.GetDocument           | citizen official service:notify,gateway | owner vault office service:notify service:gateway | DOCUMENT_NOT_FOUND
VaultService.BatchGetDocuments     | citizen official service:notify,gateway | owner vault office service:notify service:gateway | OMITTED
VaultService.ListDocuments         | citizen                    | owner vault                  | NOT_DELEGATED
VaultService.GetStorage            | citizen                    | owner vault                  | NOT_DELEGATED
VaultService.UpdateDocument        | citizen                    | owner                        | DOCUMENT_NOT_FOUND
VaultService.VerifyDocument        | official:reception,examiner,clerk | reception examiner clerk | DOSSIER_NOT_FOUND
VaultService.CreateDownload        | citizen official           | owner vault office           | DOCUMENT_NOT_FOUND
VaultService.ReadDocument          | anyone                     | everyone                     |
VaultService.ListAccesses          | citizen                    | owner                        | DOCUMENT_NOT_FOUND
VaultService.OpenAccountRecord     | official:reception,examiner,leader,clerk | reception examiner leader clerk | DOSSIER_NOT_FOUND

PaymentService.GetCharge           | citizen official service:dossier,notify,gateway | owner office cashier service:dossier service:notify service:gateway | CHARGE_NOT_FOUND
PaymentService.BatchGetCharges     | citizen official service:dossier,notify,gateway | owner office cashier service:dossier service:notify service:gateway | OMITTED
PaymentService.ListCharges         | citizen official service:dossier,notify,gateway | owner office cashier service:dossier service:notify service:gateway | NOT_YOUR_CHARGES, roleless elsewhere admin OMITTED
PaymentService.BeginPayment        | citizen                    | owner                        | CHARGE_NOT_FOUND
PaymentService.HandleVnpayIpn      | anyone                     | everyone                     |
PaymentService.ReadVnpayReturn     | anyone                     | everyone                     |
PaymentService.HandleTransferNotice | anyone                    | everyone                     |
PaymentService.RefundPayment       | official:cashier           | cashier                      | CHARGE_NOT_FOUND
PaymentService.ReviewPayment       | official:cashier           | cashier                      | CHARGE_NOT_FOUND
PaymentService.BatchGetReceipts    | citizen official service:dossier,notify,gateway | owner office cashier service:dossier service:notify service:gateway | OMITTED
PaymentService.ListReceipts        | citizen official service:dossier,notify,gateway | owner office cashier service:dossier service:notify service:gateway | NOT_YOUR_CHARGES, roleless elsewhere admin OMITTED
PaymentService.Reconcile           | official:cashier,admin service:payment | cashier admin elsewhere service:payment |

NotifyService.ListNotices          | citizen official           | citizens officials           |
NotifyService.BatchGetNotices      | citizen official           | owner                        | OMITTED
NotifyService.GetUnreadCount       | citizen official           | citizens officials           |
NotifyService.MarkNoticesRead      | citizen official           | owner                        | NOTICE_NOT_FOUND
NotifyService.GetPreferences       | citizen official           | citizens officials           |
NotifyService.SetPreferences       | citizen official           | citizens officials           |
"""  # noqa: E501

CITIZENS = "owner stranger file read vault pay"
OFFICE = "reception examiner leader clerk"
OFFICIALS = f"roleless elsewhere {OFFICE} cashier admin"
SERVICES = " ".join(
    f"service:{name}"
    for name in ("identity", "catalog", "dossier", "payment", "notify", "gateway", "importer")
)
GROUPS = {
    "citizens": CITIZENS,
    "delegates": "file read vault pay",
    "office": OFFICE,
    "officials": OFFICIALS,
    "services": SERVICES,
    "everyone": f"nobody {CITIZENS} {OFFICIALS} {SERVICES}",
}
EVERYONE = GROUPS["everyone"].split()
OTHER_NAMES = {  # of handlers that are not named like their RPC
    "SearchProcedures": "search",
    "GetProcedure": "get",
    "BatchGetProcedures": "batch",
    "ListFields": "fields",
    "PutProcedure": "put",
    "ImportProcedures": "import_records",
    "GetCalendar": "calendar_of",
    "BatchGetNotices": "get_notices",
    "GetUnreadCount": "count_unread",
    "MarkNoticesRead": "mark_read",
}
SHORT_OF_OK = {
    "IdentityService.BeginOidcSignIn": "FAILED_PRECONDITION",  # no provider is set here
    "IdentityService.CompleteOidcSignIn": "FAILED_PRECONDITION",
    "IdentityService.CompleteSignIn": "UNAUTHENTICATED",  # everybody's challenge is another one
    "IdentityService.BeginSecondFactor": "INVALID_ARGUMENT",  # nor is any offered here
    "IdentityService.CompleteSecondFactor": "UNAUTHENTICATED",
    "IdentityService.RemoveSecondFactor": "FAILED_PRECONDITION",  # a made-up session has shown none
    "IdentityService.RenewRecoveryCodes": "FAILED_PRECONDITION",
    "IdentityService.ConfirmIdentity": "FAILED_PRECONDITION",  # everybody's code is another one
    "IdentityService.ChangePassword": "INVALID_ARGUMENT",  # everybody's is another one: here all are wrong
    "IdentityService.ResetPassword": "FAILED_PRECONDITION",  # nobody has a link
    "IdentityService.VerifyContact": "INVALID_ARGUMENT",  # of neither e-mail nor phone
    "IdentityService.RequestContactVerification": "INVALID_ARGUMENT",  # nor this
    "IdentityService.IssueOneTimeSecret": "NOT_FOUND",  # nothing was asked for
    "PaymentService.Reconcile": "UNAVAILABLE",  # asks gateways, and none runs here
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    guard: str
    let_in: tuple[str, ...]
    told: str
    told_by_name: dict[str, str]

    @property
    def rpc(self) -> str:
        """`Service.Method`."""
        return self.name.split()[0]


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(GROUPS.get(word, word) for word in text.split()).split())


def _row(line: str) -> Row:
    name, guard, let_in, told = (cell.strip() for cell in line.split("|"))
    default, *exceptions = (each.strip() for each in told.split(","))
    by_name: dict[str, str] = {}
    for exception in exceptions:
        *who, reason = exception.split()
        by_name |= dict.fromkeys(who, reason)
    return Row(name, guard, _names(let_in), default, by_name)


ROWS = [_row(line) for line in TABLE.splitlines() if line]

# --- a request of each, that succeeds for whom is let in ------------------------------------------------

Make = Callable[[World], Awaitable[Message]]


def always(message: Message) -> Make:
    async def make(_: World) -> Message:
        return message

    return make


def of(prepare: str, message: Callable[[Any], Message]) -> Make:
    """Of something new: what the world prepares, put into a request."""

    async def make(world: World) -> Message:
        return message(await getattr(world, prepare)())

    return make


def about(who: str, message: Callable[[str], Message]) -> Make:
    """Of a person's account."""

    async def make(world: World) -> Message:
        return message(world.ids[who])

    return make


_count = iter(range(10**6))


def _citizen(**more: Any) -> dict[str, Any]:
    at = next(_count)
    return {
        "kind": idp.ACCOUNT_KIND_PERSON,
        "name": "Lê Văn Mới",
        "citizen_number": f"056096{at:06d}",
        "phone": f"093{at:07d}",
        **more,
    }


async def sign_up(_: World) -> Message:
    return idp.SignUpRequest(**_citizen(password="một mật khẩu dài"))


_PAPER = idp.Paper(kind=idp.PAPER_KIND_CITIZEN_CARD, number="CC 056095")


async def open_account(_: World) -> Message:
    return idp.OpenAccountRequest(**_citizen(agency="H32.15"), papers=[_PAPER])


async def prove_account(world: World) -> Message:
    signed_up = idp.SignUpRequest(**_citizen(password="một mật khẩu dài"))
    account = (await world.do("IdentityService.SignUp", signed_up, "nobody")).account
    return idp.ProveAccountRequest(
        account_id=account.id,
        name=account.name,
        number=account.citizen_number,
        papers=[_PAPER],
        agency="H32.15",
    )


async def create_official(_: World) -> Message:
    made = idp.CreateOfficialRequest(
        name="Cán Bộ", username=f"moi.{next(_count)}", password="một mật khẩu dài"
    )
    made.roles.add(agency="H32.15", name="clerk")
    return made


async def set_roles(world: World) -> Message:
    official = (
        await world.do("IdentityService.CreateOfficial", await create_official(world), "admin")
    ).account
    made = idp.SetRolesRequest(account_id=official.id)
    made.roles.add(agency="H32.15", name="cashier")
    return made


async def lock(world: World) -> Message:
    official = (
        await world.do("IdentityService.CreateOfficial", await create_official(world), "admin")
    ).account
    return idp.SetAccountStatusRequest(account_id=official.id, status=idp.ACCOUNT_STATUS_LOCKED)


async def reset_second_factors(world: World) -> Message:
    locked = await lock(world)
    assert isinstance(locked, idp.SetAccountStatusRequest)
    return idp.ResetSecondFactorsRequest(account_id=locked.account_id)


async def _session(world: World) -> Any:
    request = idp.SignInRequest(identifier="079090000101", password="Motcua@2026")
    return (await world.do("IdentityService.SignIn", request, "nobody")).tokens


async def refresh(world: World) -> Message:
    return idp.RefreshSessionRequest(refresh_token=(await _session(world)).refresh_token)


async def sign_out(world: World) -> Message:
    return idp.SignOutRequest(refresh_token=(await _session(world)).refresh_token)


def _grant(identifier: str = "") -> Message:
    identifier = identifier or f"056094{next(_count):06d}"  # of nobody: one open request a pair
    made = idp.GrantDelegationRequest(delegate_identifier=identifier, scopes=[idp.DELEGATION_SCOPE_PAY])
    made.expire_time.FromDatetime(datetime.now(UTC) + timedelta(days=3))
    return made


async def grant(_: World) -> Message:
    return _grant()


async def _asked(world: World) -> str:
    """A request of the owner's to the one who may pay for them."""
    made = await world.do("IdentityService.GrantDelegation", _grant("056095000003"), "owner")
    return str(made.delegation.id)


async def revoke(world: World) -> Message:
    id = await _asked(world)
    await world.do("IdentityService.AcceptDelegation", idp.AcceptDelegationRequest(id=id), "pay")
    return idp.RevokeDelegationRequest(id=id)


async def accept(world: World) -> Message:
    return idp.AcceptDelegationRequest(id=await _asked(world))


async def decline(world: World) -> Message:
    return idp.DeclineDelegationRequest(id=await _asked(world))


async def check_delegation(world: World) -> Message:
    sides = {"principal_id": world.ids["owner"], "delegate_id": world.ids["file"]}
    return idp.CheckDelegationRequest(**sides, scope=idp.DELEGATION_SCOPE_FILE)


async def put_agency(_: World) -> Message:
    return idp.PutAgencyRequest(
        agency=idp.Agency(
            code=f"H32.15.{next(_count) + 1}",
            name="Điểm hỗ trợ",
            level=idp.AGENCY_LEVEL_COMMUNE,
            parent="H32.15",
            valid_from="2025-07-01",
        )
    )


async def put_procedure(world: World) -> Message:
    asked = cat.GetProcedureRequest(code="9.900001")
    known = (await world.do("CatalogService.GetProcedure", asked, "nobody")).procedure
    known.code, known.effective_from, known.etag = f"9.9{next(_count):05d}", "", ""
    return cat.PutProcedureRequest(procedure=known)


def _limit() -> cat.ComputeDueRequest:
    made = cat.ComputeDueRequest(limit=cat.TimeLimit(amount=1, unit=cat.TIME_UNIT_WORKING_DAY))
    made.start_time.GetCurrentTime()
    return made


def _days() -> cat.CountWorkingDaysRequest:
    made = cat.CountWorkingDaysRequest()
    made.start_time.GetCurrentTime()
    made.end_time.GetCurrentTime()
    return made


async def create_dossier(world: World) -> Message:
    return dos.CreateDossierRequest(
        procedure_code="9.900001", receiving_agency="H32.15", applicant_id=world.ids["owner"]
    )


def _form() -> Struct:
    made = Struct()
    made.update({"name": "Trần Thị Khác"})
    return made


def at_the_desk(message: Callable[[str], Message]) -> Make:
    """Of a draft that the reception made for the owner."""

    async def make(world: World) -> Message:
        request = dos.CreateDossierRequest(
            procedure_code="9.900001",
            receiving_agency="H32.15",
            applicant_id=world.ids["owner"],
            form=_form(),
        )
        reply = await world.do("DossierService.CreateDossier", request, "reception")
        return message(reply.dossier.id)

    return make


async def hand_off(world: World) -> Message:
    return dos.HandOffRequest(
        id=await world.received(), to_agency="H32.15", to_official_id=world.ids["clerk"]
    )


async def extend(world: World) -> Message:
    made = dos.ExtendDeadlineRequest(id=await world.received(), reason="chờ ý kiến")
    made.new_due_time.FromDatetime(datetime.now(UTC) + timedelta(days=60))
    return made


async def sign_result(world: World) -> Message:
    id, document = await world.examined()
    return dos.SignResultRequest(id=id, document_id=document)


async def track(world: World) -> Message:
    reply = await world.do("DossierService.GetDossier", dos.GetDossierRequest(id=await _one(world)), "owner")
    return dos.TrackDossierRequest(code=reply.dossier.code)


async def _one(world: World) -> str:
    """The dossier that all look at."""
    dossier, _ = await world.used()
    return str(dossier)


async def _its_document(world: World) -> str:
    _, document = await world.used()
    return str(document)


def of_the_one(message: Callable[[str], Message]) -> Make:
    """Of the dossier that all look at."""

    async def make(world: World) -> Message:
        return message(await _one(world))

    return make


def of_its_document(message: Callable[[str], Message]) -> Make:
    """Of the document attached to it."""

    async def make(world: World) -> Message:
        return message(await _its_document(world))

    return make


def of_one_paid(message: Callable[[str], Message]) -> Make:
    """Of a charge that is paid, one for all."""

    async def make(world: World) -> Message:
        if "paid" not in world.kept:
            world.kept["paid"] = await world.paid()
        return message(world.kept["paid"])

    return make


async def doubted_payment(world: World) -> Message:
    charge = await world.paid(vnp_PayDate="")
    known = await world.do("PaymentService.GetCharge", pay.GetChargeRequest(id=charge), "owner")
    (payment,) = known.charge.payments
    return pay.ReviewPaymentRequest(
        charge_id=charge, payment_id=payment.id, accept=True, reason="có trong sao kê"
    )


async def statistics(_: World) -> Message:
    today = datetime.now(UTC).date().isoformat()
    return dos.GetStatisticsRequest(**{"from": today, "to": today, "agency": "H32.15"})


async def result_upload(world: World) -> Message:
    return vlt.BeginUploadRequest(
        purpose=vlt.UPLOAD_PURPOSE_RESULT, size=9, filename="a.pdf", dossier_id=await _one(world)
    )


async def verify(world: World) -> Message:
    return vlt.VerifyDocumentRequest(
        id=await _its_document(world), dossier_id=await _one(world), trust=vlt.TRUST_LEVEL_CERTIFIED_COPY
    )


async def read_document(world: World) -> Message:
    request = vlt.CreateDownloadRequest(document_id=await _its_document(world))
    return vlt.ReadDocumentRequest(
        token=(await world.do("VaultService.CreateDownload", request, "owner")).token
    )


async def receipt_ids(world: World) -> Message:
    request = await of_one_paid(lambda id: pay.GetChargeRequest(id=id))(world)
    async with asyncio.timeout(10):
        while True:
            charge = (await world.do("PaymentService.GetCharge", request, "owner")).charge
            if charge.receipt_id:
                return pay.BatchGetReceiptsRequest(ids=[charge.receipt_id])
            await asyncio.sleep(0.02)


async def notice_ids(world: World) -> list[str]:
    await _one(world)
    async with asyncio.timeout(10):
        while True:
            page = await world.do("NotifyService.ListNotices", ntf.ListNoticesRequest(), "owner")
            if page.notices:
                return [page.notices[0].id]
            await asyncio.sleep(0.02)


async def batch_notices(world: World) -> Message:
    return ntf.BatchGetNoticesRequest(ids=await notice_ids(world))


async def mark_read(world: World) -> Message:
    return ntf.MarkNoticesReadRequest(ids=await notice_ids(world))


def preferences() -> Message:
    one = ntf.Preference(group=ntf.NOTICE_GROUP_DOSSIER, channel=ntf.NOTICE_CHANNEL_EMAIL, enabled=True)
    return ntf.SetPreferencesRequest(preferences=[one])


SAMPLES: dict[str, Make] = {
    "IdentityService.SignUp": sign_up,
    "IdentityService.SignIn": always(idp.SignInRequest(identifier="079090000101", password="Motcua@2026")),
    "IdentityService.CompleteSignIn": always(idp.CompleteSignInRequest(challenge="c", code="123456")),
    "IdentityService.BeginSecondFactor": always(
        idp.BeginSecondFactorRequest(way=idp.SECOND_FACTOR_WAY_TOTP, challenge="c")
    ),
    "IdentityService.CompleteSecondFactor": always(
        idp.CompleteSecondFactorRequest(challenge="c", code="123456")
    ),
    "IdentityService.ListSecondFactors": always(idp.ListSecondFactorsRequest()),
    "IdentityService.RemoveSecondFactor": always(idp.RemoveSecondFactorRequest(id="totp")),
    "IdentityService.RenewRecoveryCodes": always(idp.RenewRecoveryCodesRequest()),
    "IdentityService.ResetSecondFactors": reset_second_factors,
    "IdentityService.RefreshSession": refresh,
    "IdentityService.SignOut": sign_out,
    "IdentityService.ListEndedSessions": always(idp.ListEndedSessionsRequest()),
    "IdentityService.GetJwks": always(idp.GetJwksRequest()),
    "IdentityService.IssueServiceToken": always(
        idp.IssueServiceTokenRequest(service="dossier", secret="secret of dossier")
    ),
    "IdentityService.OpenAccount": open_account,
    "IdentityService.BeginOidcSignIn": always(idp.BeginOidcSignInRequest()),
    "IdentityService.CompleteOidcSignIn": always(idp.CompleteOidcSignInRequest(code="c", state="s")),
    "IdentityService.ProveAccount": prove_account,
    "IdentityService.ConfirmIdentity": always(idp.ConfirmIdentityRequest(activation_code="23456-789AB")),
    "IdentityService.CreateOfficial": create_official,
    "IdentityService.SetRoles": set_roles,
    "IdentityService.UpdateProfile": always(idp.UpdateProfileRequest(locale="vi")),
    "IdentityService.ChangePassword": always(
        idp.ChangePasswordRequest(current_password="không phải", new_password="một mật khẩu khác")
    ),
    "IdentityService.RequestPasswordReset": always(idp.RequestPasswordResetRequest(identifier="0909999999")),
    "IdentityService.ResetPassword": always(
        idp.ResetPasswordRequest(token="x", new_password="một mật khẩu dài")
    ),
    "IdentityService.RequestContactVerification": always(idp.RequestContactVerificationRequest()),
    "IdentityService.VerifyContact": always(idp.VerifyContactRequest(secret="000000")),
    "IdentityService.IssueOneTimeSecret": about(
        "owner",
        lambda id: idp.IssueOneTimeSecretRequest(
            account_id=id,
            purpose=idp.ONE_TIME_PURPOSE_RESET_PASSWORD,
            contact=idp.CONTACT_KIND_EMAIL,
        ),
    ),
    "IdentityService.SetAccountStatus": lock,
    "IdentityService.GetAccount": about("owner", lambda id: idp.GetAccountRequest(id=id)),
    "IdentityService.BatchGetAccounts": about("owner", lambda id: idp.BatchGetAccountsRequest(ids=[id])),
    "IdentityService.FindAccount": always(idp.FindAccountRequest(identifier="079090000101")),
    "IdentityService.PutAgency": put_agency,
    "IdentityService.BatchGetAgencies": always(idp.BatchGetAgenciesRequest(codes=["H32.15"])),
    "IdentityService.ListAgencies": always(idp.ListAgenciesRequest()),
    "IdentityService.GrantDelegation": grant,
    "IdentityService.AcceptDelegation": accept,
    "IdentityService.DeclineDelegation": decline,
    "IdentityService.RevokeDelegation": revoke,
    "IdentityService.ListDelegations": always(idp.ListDelegationsRequest()),
    "IdentityService.CheckDelegation": check_delegation,
    "CatalogService.SearchProcedures": always(cat.SearchProceduresRequest()),
    "CatalogService.GetProcedure": always(cat.GetProcedureRequest(code="9.900001")),
    "CatalogService.BatchGetProcedures": always(cat.BatchGetProceduresRequest(names=["9.900001"])),
    "CatalogService.ListFields": always(cat.ListFieldsRequest()),
    "CatalogService.PutProcedure": put_procedure,
    "CatalogService.ImportProcedures": always(cat.ImportProceduresRequest(records=["not a record"])),
    "CatalogService.QuoteFee": always(cat.QuoteFeeRequest(code="9.900001", channel=cat.CHANNEL_ONLINE)),
    "CatalogService.ComputeDue": always(_limit()),
    "CatalogService.CountWorkingDays": always(_days()),
    "CatalogService.GetCalendar": always(cat.GetCalendarRequest(year=2026)),
    "DossierService.CreateDossier": create_dossier,
    "DossierService.UpdateDossier": of("draft", lambda id: dos.UpdateDossierRequest(id=id, form=_form())),
    "DossierService.UpdateDossier filed at the desk": at_the_desk(
        lambda id: dos.UpdateDossierRequest(id=id, form=_form())
    ),
    "DossierService.SubmitDossier": of("draft", lambda id: dos.SubmitDossierRequest(id=id)),
    "DossierService.SubmitDossier filed at the desk": at_the_desk(lambda id: dos.SubmitDossierRequest(id=id)),
    "DossierService.SupplementDossier": of(
        "lacking", lambda id: dos.SupplementDossierRequest(id=id, note="đây")
    ),
    "DossierService.WithdrawDossier": of(
        "filed", lambda id: dos.WithdrawDossierRequest(id=id, reason="nhầm")
    ),
    "DossierService.RateDossier": of("finished", lambda id: dos.RateDossierRequest(id=id, rating=5)),
    "DossierService.ReceiveDossier": of("filed", lambda id: dos.ReceiveDossierRequest(id=id)),
    "DossierService.RejectDossier new": of(
        "filed", lambda id: dos.RejectDossierRequest(id=id, reason="sai nơi")
    ),
    "DossierService.RejectDossier received": of(
        "received", lambda id: dos.RejectDossierRequest(id=id, reason="không đủ điều kiện")
    ),
    "DossierService.RequestSupplement": of(
        "received", lambda id: dos.RequestSupplementRequest(id=id, defects=["mờ"], reason="mờ")
    ),
    "DossierService.RequestPayment": of("received", lambda id: dos.RequestPaymentRequest(id=id)),
    "DossierService.HandOff": hand_off,
    "DossierService.CompleteStep": of(
        "received", lambda id: dos.CompleteStepRequest(id=id, step_id="examine")
    ),
    "DossierService.ExtendDeadline": extend,
    "DossierService.StopDossier": of(
        "received", lambda id: dos.StopDossierRequest(id=id, reason="hết hạn bổ sung")
    ),
    "DossierService.DeclineWithdrawal": of(
        "asked_back", lambda id: dos.DeclineWithdrawalRequest(id=id, reason="đã ký")
    ),
    "DossierService.SignResult": sign_result,
    "DossierService.HandOverResult": of("finished", lambda id: dos.HandOverResultRequest(id=id)),
    "DossierService.GetDossier": of_the_one(lambda id: dos.GetDossierRequest(id=id)),
    "DossierService.BatchGetDossiers": of_the_one(lambda id: dos.BatchGetDossiersRequest(ids=[id])),
    "DossierService.ListDossiers": about("owner", lambda id: dos.ListDossiersRequest(applicant_id=id)),
    "DossierService.ListWorklist": always(dos.ListWorklistRequest(agency="H32.15")),
    "DossierService.TrackDossier": track,
    "DossierService.GetStatistics": statistics,
    "VaultService.BeginUpload of a new version": of_its_document(
        lambda id: vlt.BeginUploadRequest(
            purpose=vlt.UPLOAD_PURPOSE_VERSION, size=9, filename="a.pdf", document_id=id
        ),
    ),
    "VaultService.BeginUpload of a result": result_upload,
    "VaultService.BeginUpload for a vault of one's own": always(
        vlt.BeginUploadRequest(size=9, filename="a.pdf")
    ),
    "VaultService.GetUpload": of("upload", lambda id: vlt.GetUploadRequest(id=id)),
    "VaultService.AppendUpload": of("upload", lambda id: vlt.AppendUploadRequest(id=id, data=b"%PDF")),
    "VaultService.CancelUpload": of("upload", lambda id: vlt.CancelUploadRequest(id=id)),
    "VaultService.GetDocument": of_its_document(lambda id: vlt.GetDocumentRequest(id=id)),
    "VaultService.BatchGetDocuments": of_its_document(lambda id: vlt.BatchGetDocumentsRequest(ids=[id])),
    "VaultService.GetStorage": about("owner", lambda id: vlt.GetStorageRequest(owner_id=id)),
    "VaultService.ListDocuments": about("owner", lambda id: vlt.ListDocumentsRequest(owner_id=id)),
    "VaultService.UpdateDocument": of_its_document(
        lambda id: vlt.UpdateDocumentRequest(id=id, title="Tên khác", type="birth_notice")
    ),
    "VaultService.VerifyDocument": verify,
    "VaultService.CreateDownload": of_its_document(
        lambda id: vlt.CreateDownloadRequest(document_id=id, purpose="thẩm tra")
    ),
    "VaultService.ReadDocument": read_document,
    "VaultService.ListAccesses": of_its_document(lambda id: vlt.ListAccessesRequest(document_id=id)),
    "VaultService.OpenAccountRecord": of(
        "received", lambda id: vlt.OpenAccountRecordRequest(dossier_id=id, purpose="thẩm tra")
    ),
    "PaymentService.GetCharge": of_one_paid(lambda id: pay.GetChargeRequest(id=id)),
    "PaymentService.BatchGetCharges": of_one_paid(lambda id: pay.BatchGetChargesRequest(ids=[id])),
    "PaymentService.ListCharges": about("owner", lambda id: pay.ListChargesRequest(payer_id=id)),
    "PaymentService.BeginPayment": of(
        "charged", lambda id: pay.BeginPaymentRequest(charge_id=id, method=pay.PAYMENT_METHOD_VIETQR)
    ),
    "PaymentService.HandleVnpayIpn": always(pay.HandleVnpayIpnRequest()),
    "PaymentService.ReadVnpayReturn": always(pay.ReadVnpayReturnRequest()),
    "PaymentService.HandleTransferNotice": always(pay.HandleTransferNoticeRequest(body=b"{}")),
    "PaymentService.RefundPayment": of(
        "paid", lambda id: pay.RefundPaymentRequest(charge_id=id, reason="thu nhầm")
    ),
    "PaymentService.ReviewPayment": doubted_payment,
    "PaymentService.BatchGetReceipts": receipt_ids,
    "PaymentService.ListReceipts": about("owner", lambda id: pay.ListReceiptsRequest(payer_id=id)),
    "PaymentService.Reconcile": always(pay.ReconcileRequest(date="2026-01-05")),
    "NotifyService.ListNotices": always(ntf.ListNoticesRequest()),
    "NotifyService.BatchGetNotices": batch_notices,
    "NotifyService.GetUnreadCount": always(ntf.GetUnreadCountRequest()),
    "NotifyService.MarkNoticesRead": mark_read,
    "NotifyService.GetPreferences": always(ntf.GetPreferencesRequest()),
    "NotifyService.SetPreferences": (always(preferences())),
}

# --- the tests ------------------------------------------------------------------------------------------


def test_every_rpc_of_every_service_has_a_row_and_no_row_is_of_another(world: World) -> None:
    assert {row.rpc for row in ROWS} == set(world.rpcs)
    assert {row.name for row in ROWS} == set(SAMPLES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_handlers_guard_is_the_one_in_the_table(world: World, row: Row) -> None:
    package = world.rpcs[row.rpc].containing_service.full_name.split(".")[1]
    method = row.rpc.partition(".")[2]
    name = OTHER_NAMES.get(method, re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower())
    assert " ".join(map(_written, _guards(package)[name])) == row.guard


@cache
def _guards(package: str) -> dict[str, tuple[Who, ...]]:
    """The guards of a service's handlers by name."""
    root = importlib.import_module(f"{package}.handlers")
    below = [each.name for each in pkgutil.iter_modules(getattr(root, "__path__", []), f"{root.__name__}.")]
    return {
        name: handler.allowed
        for module in (root, *map(importlib.import_module, below))
        for name, handler in vars(module).items()
        if hasattr(handler, "allowed")
    }


def _written(who: Who) -> str:
    return f"{who.kind}:{','.join(who.names)}" if who.names else who.kind


def _admits(guard: str, who: str) -> bool:
    kind = (
        "service"
        if who.startswith("service:")
        else "citizen"
        if who in CITIZENS.split()
        else "official"
        if who in OFFICIALS.split()
        else ""
    )
    names = who.split(":")[1:] if kind == "service" else [who]
    if who == "elsewhere":
        names = [*OFFICE.split(), "cashier", "admin"]
    for part in guard.split():
        wanted, _, some = part.partition(":")
        if wanted == "anyone" or (wanted == kind and (not some or set(names) & set(some.split(",")))):
            return True
    return False


def _expected(row: Row, who: str) -> tuple[str, str]:
    """Code (where it is fixed) and reason."""
    if who in row.let_in:
        return SHORT_OF_OK.get(row.name, "OK"), ""
    if _admits(row.guard, who):
        told = row.told_by_name.get(who, row.told)
        return ("OK" if told == "OMITTED" else "refused"), told
    if who == "nobody":
        return "UNAUTHENTICATED", "SIGN_IN_REQUIRED"
    return "PERMISSION_DENIED", "NOT_ALLOWED"


def _seen(outcome: Any, expected: tuple[str, str]) -> tuple[str, str]:
    """The outcome in the words of the expectation."""
    if outcome.code == "OK":
        lists = [values for field, values in outcome.reply.ListFields() if field.is_repeated]
        return "OK", "OMITTED" if expected[1] == "OMITTED" and not any(lists) else ""
    if expected[0] == "refused" and outcome.code in ("NOT_FOUND", "PERMISSION_DENIED", "FAILED_PRECONDITION"):
        return "refused", str(outcome.reason)
    return outcome.code, "" if outcome.code == expected[0] and not expected[1] else outcome.reason


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_exactly_those_of_the_table_are_let_in(world: World, row: Row) -> None:
    make = SAMPLES[row.name]
    refused = [who for who in EVERYONE if who not in row.let_in]
    request = await make(world)
    answers = await asyncio.gather(*(world.call(row.rpc, request, who) for who in refused))
    # The first one gets what the others were refused, so that it shows when a refusal did something.
    own = [request, *[await make(world) for _ in row.let_in[1:]]]  # what one does is not there for the next
    answers += [await world.call(row.rpc, mine, who) for who, mine in zip(row.let_in, own, strict=True)]
    everyone = [*refused, *row.let_in]
    wanted = {who: _expected(row, who) for who in everyone}
    found = {who: _seen(answer, wanted[who]) for who, answer in zip(everyone, answers, strict=True)}
    assert found == wanted
    if row.told == "OMITTED":
        assert all(any(values for _, values in a.reply.ListFields()) for a in answers[len(refused) :])


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("forged", "TOKEN_INVALID"),
        ("of_another_key", "TOKEN_INVALID"),
        ("unsigned", "TOKEN_INVALID"),
        ("signed_with_the_public_key", "TOKEN_INVALID"),
        ("expired", "TOKEN_EXPIRED"),
    ],
)
async def test_a_token_that_is_not_to_be_believed_opens_nothing_not_even_what_is_open_to_all(
    world: World, token: str, reason: str
) -> None:
    asked = {rpc: GetMessageClass(method.input_type)() for rpc, method in world.rpcs.items()}
    answers = await asyncio.gather(*(world.call(rpc, message, token) for rpc, message in asked.items()))
    assert {(answer.code, answer.reason) for answer in answers} == {("UNAUTHENTICATED", reason)}


# --- the same through GraphQL ----------------------------------------------------------------------------


def _fields(root: str) -> dict[str, Any]:
    found = schema().get_type(root)
    assert isinstance(found, GraphQLObjectType)
    return dict(found.fields)


MUTATIONS = sorted(_fields("Mutation"))
SUBSCRIPTIONS = sorted(_fields("Subscription"))


async def _things(world: World) -> dict[str, str]:
    """Ids of the owner's things by the name of the argument that wants them."""
    if "things" not in world.kept:
        dossier, document = await world.used()
        charge = (await of_one_paid(lambda id: pay.GetChargeRequest(id=id))(world)).id  # type: ignore[attr-defined]
        grant = await world.do("IdentityService.GrantDelegation", _grant(), "owner")
        world.kept["things"] = {
            "dossierId": to_global("Dossier", dossier),
            "documentId": to_global("Document", document),
            "supersededById": to_global("Document", document),
            "chargeId": to_global("Charge", charge),
            "delegationId": to_global("Delegation", grant.delegation.id),
            "applicantId": to_global("Account", world.ids["owner"]),
            "accountId": to_global("Account", world.ids["friend"]),
            "toOfficialId": to_global("Account", world.ids["clerk"]),
            "paymentId": to_global("Payment", charge),
            "id": to_global("Dossier", dossier),
            "ids": to_global("Notice", (await notice_ids(world))[0]),
        }
    return dict(world.kept["things"])


def _value(wanted: Any, name: str, things: dict[str, str]) -> Any:
    """Some value of an input type, the required fields only."""
    if is_non_null_type(wanted):
        return _value(wanted.of_type, name, things)
    if is_list_type(wanted):
        return [_value(wanted.of_type, name, things)]
    if is_enum_type(wanted):
        return next(iter(wanted.values))
    if is_input_object_type(wanted):
        return {
            key: _value(field.type, key, things)
            for key, field in wanted.fields.items()
            if is_required_input_field(field)
        }
    by_type = {"Int": 1, "Long": 1, "Boolean": True, "DateTime": "2030-01-01T00:00:00Z", "Date": "2030-01-01"}
    return things[name] if wanted.name == "ID" else by_type.get(wanted.name, "không có")


@pytest.mark.parametrize("name", MUTATIONS)
async def test_every_mutation_gives_everybody_a_typed_answer(world: World, name: str) -> None:
    field = _fields("Mutation")[name]
    things = await _things(world)
    input = _value(field.args["input"].type, "input", things)
    document = (
        f"mutation($input: {field.args['input'].type}) {{ {name}(input: $input) "
        "{ __typename ... on Problem { reason message } } }"
    )
    rpc = next((rpc for rpc in world.rpcs if rpc.partition(".")[2] == _rpc_of(name)), "")
    row = next((row for row in ROWS if row.rpc == rpc), None)
    for who in ("nobody", "stranger", "roleless"):
        body = (await world.graphql(document, {"input": input}, who=who)).json()
        assert "errors" not in body, (who, body)
        answer = body["data"][name]
        assert answer["__typename"] in {member.name for member in field.type.of_type.types}
        if row is not None and not _admits(row.guard, who):
            stopped = (
                ("Unauthenticated", "SIGN_IN_REQUIRED") if who == "nobody" else ("Forbidden", "NOT_ALLOWED")
            )
            assert (answer["__typename"], answer["reason"]) == stopped, who


def _rpc_of(mutation: str) -> str:
    return {"payCharge": "BeginPayment", "setNoticePreferences": "SetPreferences"}.get(
        mutation, mutation[0].upper() + mutation[1:]
    )


def test_every_mutation_is_an_rpc_of_the_table() -> None:
    assert {_rpc_of(name) for name in MUTATIONS} <= {row.rpc.partition(".")[2] for row in ROWS}


@pytest.mark.parametrize("name", SUBSCRIPTIONS)
async def test_every_subscription_lets_in_whom_it_concerns_and_tells_the_others_why(
    world: World, name: str
) -> None:
    field = _fields("Subscription")[name]
    things = await _things(world)
    if name == "documentChanged":
        things["id"] = things["documentId"]
    arguments = "".join(f'({key}: "{_value(arg.type, key, things)}")' for key, arg in field.args.items())
    query = f"subscription {{ {name}{arguments} {{ id }} }}"
    told = {
        who: await _first(world, query, who) for who in ("nobody", "stranger", "roleless", "owner", "expired")
    }
    assert told["nobody"] == "SIGN_IN_REQUIRED"
    assert told["expired"] == "TOKEN_EXPIRED"
    if name == "dossierChanged":
        assert told["stranger"] == told["roleless"] == "DOSSIER_NOT_FOUND"
    if name == "documentChanged":
        assert told["stranger"] == told["roleless"] == "DOCUMENT_NOT_FOUND"
    assert told["owner"] == ""


async def _first(world: World, query: str, who: str) -> str:
    """The reason with which a stream begins; empty when it gives data, or stays open."""
    token = world.tokens.get(who, "")
    headers = {"accept": "text/event-stream"} | ({"authorization": f"Bearer {token}"} if token else {})
    async with world.http.stream("POST", "/graphql", json={"query": query}, headers=headers) as response:
        if response.headers["content-type"].startswith("text/event-stream"):
            try:
                async with asyncio.timeout(0.5):
                    async for line in response.aiter_lines():
                        if line.startswith("data: "):
                            return _reason(json.loads(line.removeprefix("data: ")))
            except TimeoutError:
                return ""
        return _reason(json.loads(await response.aread()))


def _reason(answer: dict[str, Any]) -> str:
    return str(answer["errors"][0]["extensions"]["reason"]) if answer.get("errors") else ""
