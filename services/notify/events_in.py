"""What other services announce, and what notify makes of it: who is told what, and what it keeps for itself.

Every event of the contexts that it listens to is in a table or in `SILENT`; a test holds it to that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from kit.clock import to_ms, to_text
from kit.consumer import Event, Subscription
from motcua.dossier.v1 import dossier_pb2
from motcua.dossier.v1 import events_pb2 as dossier
from motcua.dossier.v1 import vault_pb2 as dossier_vault
from motcua.identity.v1 import events_pb2 as identity
from motcua.identity.v1 import identity_pb2
from motcua.payment.v1 import events_pb2 as payment
from notify import handlers
from notify.domain.deadline import Deadline
from notify.domain.kinds import About
from notify.domain.people import Post
from notify.handlers import Name, News, Ports, Standing

# What tells nobody anything that they do not know or are not told by another event.
SILENT: Final[Mapping[type[Message], str]] = {
    dossier.DossierRated: "the applicant did it; the agency sees it in its statistics",
    dossier.DocumentVersionAdded: "the owner did it",
    payment.ChargeCreated: "PaymentRequested tells it, naming the officer",
    payment.PaymentFlagged: "cashiers find it in their list, and an alert tells that it is not empty",
    payment.ReceiptVoided: "PaymentRefunded tells it",
}


Reaction = Callable[[Ports, Event], Awaitable[None]]


# --- dossiers --------------------------------------------------------------------------------------------

# Where a publisher that does not tell the deadline yet has its clock running.
_RUNNING = (dossier_pb2.DOSSIER_STATE_RECEIVED, dossier_pb2.DOSSIER_STATE_IN_PROCESS)
_Told = Callable[[Any, Deadline], Sequence[News]]


def _of(
    told: _Told,
    *,
    role: Callable[[Any], str] | None = None,
    holder: Callable[[Any], str] | None = None,
) -> Reaction:
    """Follows the dossier's clock, then tells what `told(message, deadline)` says.

    `role` and `holder` say who has the dossier from now on; without them it is who had it.
    """

    async def react(ports: Ports, event: Event) -> None:
        message = event.message
        ref = message.dossier
        deadline = await handlers.follow(
            ports,
            Standing(
                dossier=ref.dossier_id,
                code=ref.code,
                procedure=ref.procedure_name,
                agency=ref.current_agency or ref.receiving_agency,
                due=_instant(ref, "deadline_time") or _instant(ref, "due_time"),
                running=ref.HasField("deadline_time") or ref.state in _RUNNING,
                role=role(message) if role else None,
                holder=holder(message) if holder else None,
            ),
            event.time,
        )
        for news in told(message, deadline):
            await handlers.tell(ports, event.id, news)

    return react


def _applicant(ref: dossier.DossierRef, kind: str, charge: str = "", **params: str | Name) -> News:
    """News to the applicant, with the code and the procedure that nearly all of them name."""
    params = {"procedure": ref.procedure_name, **params}
    if kind != "dossier_submitted":  # there is no code yet
        params["code"] = ref.code
    return News(kind, About(dossier=ref.dossier_id, charge=charge), params, to=(ref.applicant_id,))


def _desk(ref: dossier.DossierRef, kind: str, deadline: Deadline, **params: str | Name) -> News:
    """News to whoever has the dossier at its agency."""
    return News(
        kind,
        About(dossier=ref.dossier_id),
        {
            "code": ref.code,
            "procedure": ref.procedure_name,
            "agency": Name(agency=deadline.agency),
            **params,
        },
        actor=ref.actor_id,
        **handlers.desk_of(deadline),
    )


def _by(ref: dossier.DossierRef) -> Name:
    """The officer who did it and the agency; for what the applicant's side did, the agency alone."""
    agency = ref.actor_agency or ref.current_agency or ref.receiving_agency
    return Name(account=ref.actor_id if ref.actor_agency else "", agency=agency)


def _at(ref: dossier.DossierRef) -> Name:
    return Name(agency=ref.current_agency or ref.receiving_agency)


def _submitted(message: dossier.DossierSubmitted, deadline: Deadline) -> list[News]:
    ref = message.dossier
    to_desk = News(
        "desk_submitted",
        About(dossier=ref.dossier_id),
        {"procedure": ref.procedure_name, "agency": _at(ref)},
        actor=ref.actor_id,
        **handlers.desk_of(deadline),
    )
    return [_applicant(ref, "dossier_submitted", agency=_at(ref)), to_desk]


def _handed_over(message: Any, deadline: Deadline) -> list[News]:
    ref, line = message.dossier, message.hand_over
    moved = line.to_agency and line.to_agency != line.from_agency
    if moved:
        told = [_applicant(ref, "dossier_handed_off", by=_by(ref), agency=Name(agency=line.to_agency))]
    elif isinstance(message, dossier.StepCompleted):
        told = [_applicant(ref, "step_completed", by=_by(ref), step=line.step_name)]
    else:
        told = []  # from one desk of an agency to another
    return [*told, _desk(ref, "desk_arrived", deadline, due=_text(ref, "due_time"))]


def _extended(message: dossier.DeadlineExtended, deadline: Deadline) -> list[News]:
    apology = message.apology
    return [
        _applicant(
            message.dossier,
            "deadline_extended",
            by=_by(message.dossier),
            due=_text(apology, "original_due_time"),
            new_due=_text(apology, "new_due_time"),
            reason=apology.reason,
        )
    ]


def _closed(kind: str) -> _Told:
    return lambda message, deadline: [
        _applicant(message.dossier, kind, by=_by(message.dossier), reason=message.reason)
    ]


def _actor(message: Any) -> str:
    return str(message.dossier.actor_id)


def _reception(message: Any) -> str:
    return "reception"


def _nobody(message: Any) -> str:
    return ""


async def _document_added(ports: Ports, event: Event) -> None:
    message: dossier.DocumentAdded = event.message
    if not message.dossier_id:
        return  # the owner put it there
    about = About(dossier=message.dossier_id, document=message.document_id)
    await handlers.tell(
        ports,
        event.id,
        News("document_deposited", about, {"document": message.title}, to=(message.owner_id,)),
    )


async def _document_verified(ports: Ports, event: Event) -> None:
    message: dossier.DocumentVerified = event.message
    params: dict[str, str | Name] = {"document": message.title, "agency": Name(agency=message.agency)}
    await handlers.tell(
        ports,
        event.id,
        News("document_verified", About(document=message.document_id), params, to=(message.owner_id,)),
    )


async def _document_checked(ports: Ports, event: Event) -> None:
    """What the antivirus refuses is told to its owner and to whoever uploaded it; what is clean goes on."""
    message: dossier.DocumentChecked = event.message
    if message.check != dossier_vault.FILE_CHECK_REFUSED:
        return
    # A result belongs to an agency until it is signed, and a refused one never is.
    people = [message.added_by_id] if message.dossier_id else [message.owner_id, message.added_by_id]
    await handlers.tell(
        ports,
        event.id,
        News(
            "file_refused",
            About(document=message.document_id),
            {"document": message.title},
            to=tuple(dict.fromkeys(filter(None, people))),
        ),
    )


DOSSIER: Final[Mapping[type[Message], Reaction]] = {
    dossier.DossierSubmitted: _of(_submitted, role=_reception, holder=_nobody),
    dossier.DossierReceived: _of(
        lambda message, deadline: [
            _applicant(
                message.dossier,
                "dossier_received",
                by=_by(message.dossier),
                due=_text(message.receipt, "due_time") or _text(message.dossier, "due_time"),
            )
        ],
        role=_reception,
        holder=_actor,
    ),
    dossier.DossierRejected: _of(_closed("dossier_rejected")),
    dossier.SupplementRequested: _of(
        lambda message, deadline: [
            _applicant(
                message.dossier,
                "supplement_requested",
                by=_by(message.dossier),
                defects="; ".join(message.supplement.defects),
                reason=message.supplement.reason,
                guidance=message.supplement.guidance,
            )
        ],
        holder=_actor,
    ),
    dossier.DossierSupplemented: _of(
        lambda message, deadline: [
            _applicant(
                message.dossier,
                "dossier_supplemented",
                agency=_at(message.dossier),
                due=_text(message.dossier, "due_time"),
            ),
            _desk(message.dossier, "desk_supplemented", deadline, due=_text(message.dossier, "due_time")),
        ]
    ),
    dossier.PaymentRequested: _of(
        lambda message, deadline: [
            _applicant(
                message.dossier,
                "payment_requested",
                charge=message.charge_id,
                by=_by(message.dossier),
                amount=str(message.total),
            )
        ],
        holder=_actor,
    ),
    # The applicant learns of the payment from ChargePaid.
    dossier.PaymentSettled: _of(
        lambda message, deadline: [
            _desk(message.dossier, "desk_paid", deadline, due=_text(message.dossier, "due_time"))
        ]
    ),
    # That money went back the applicant learns from PaymentRefunded, whatever it means for the dossier.
    dossier.FeeGivenBack: _of(
        lambda message, deadline: [
            *(
                [
                    _applicant(
                        message.dossier,
                        "fee_needed_again",
                        charge=message.charge_id,
                        amount=str(message.amount),
                        agency=_at(message.dossier),
                    )
                ]
                if message.needed
                else []
            ),
            _desk(message.dossier, "desk_fee_given_back", deadline, amount=str(message.amount)),
        ]
    ),
    dossier.DossierHandedOff: _of(
        _handed_over,
        role=lambda message: message.hand_over.to_role,
        holder=lambda message: message.hand_over.to_official_id,
    ),
    dossier.StepCompleted: _of(
        _handed_over,
        role=lambda message: message.hand_over.to_role,
        holder=lambda message: message.hand_over.to_official_id,
    ),
    dossier.DeadlineExtended: _of(_extended),
    dossier.WithdrawalRequested: _of(
        lambda message, deadline: [
            _applicant(message.dossier, "withdrawal_requested", agency=_at(message.dossier)),
            _desk(message.dossier, "desk_withdrawal", deadline, reason=message.reason),
        ]
    ),
    dossier.WithdrawalDeclined: _of(_closed("withdrawal_declined")),
    dossier.DossierWithdrawn: _of(
        lambda message, deadline: [
            _applicant(message.dossier, "dossier_withdrawn", agency=_at(message.dossier))
        ]
    ),
    dossier.DossierStopped: _of(_closed("dossier_stopped")),
    dossier.ResultSigned: _of(
        lambda message, deadline: [
            _applicant(message.dossier, "result_ready", by=_by(message.dossier)),
            _desk(message.dossier, "desk_result", deadline),
        ],
        role=_reception,
        holder=_nobody,
    ),
    dossier.ResultHandedOver: _of(
        lambda message, deadline: [_applicant(message.dossier, "result_handed_over", by=_by(message.dossier))]
    ),
    dossier.DocumentAdded: _document_added,
    dossier.DocumentVerified: _document_verified,
    dossier.DocumentChecked: _document_checked,
}


# --- payments --------------------------------------------------------------------------------------------


def _payer(kind: str, more: Callable[[Any], Mapping[str, str | Name]] = lambda message: {}) -> Reaction:
    """Tells the payer of a charge, with the dossier, the procedure and the amount that all of them name."""

    async def react(ports: Ports, event: Event) -> None:
        charge = event.message.charge
        params: dict[str, str | Name] = {
            "code": charge.dossier_code,
            "procedure": charge.procedure_name,
            "amount": str(charge.amount),
            **more(event.message),
        }
        about = About(dossier=charge.dossier_id, charge=charge.charge_id)
        await handlers.tell(ports, event.id, News(kind, about, params, to=(charge.payer_id,)))

    return react


def _refund(message: Any) -> dict[str, str | Name]:
    return {
        "amount": str(message.amount),
        "cause": message.reason,
        "agency": Name(agency=message.charge.agency),
    }


PAYMENT: Final[Mapping[type[Message], Reaction]] = {
    payment.ChargePaid: _payer("charge_paid"),
    payment.ChargeCancelled: _payer("charge_cancelled", lambda message: {"cause": message.reason}),
    payment.PaymentFailed: _payer("payment_failed"),
    payment.ReceiptIssued: _payer(
        "receipt_issued",
        lambda message: {
            "number": f"{message.series}/{message.number}",
            "agency": Name(agency=message.charge.agency),
        },
    ),
    payment.RefundRequested: _payer("refund_requested", _refund),
    payment.PaymentRefunded: _payer("payment_refunded", _refund),
}


# --- accounts --------------------------------------------------------------------------------------------


async def _opened(ports: Ports, event: Event) -> None:
    await _profile(ports, event)
    message: identity.AccountOpened = event.message
    if message.at_counter:
        news = News("account_opened", About(), {"agency": Name(agency=message.agency)}, (message.account_id,))
        await handlers.tell(ports, event.id, news)


async def _proven(ports: Ports, event: Event) -> None:
    message: identity.AccountProven = event.message
    params = {"agency": Name(agency=message.agency)}
    await handlers.tell(ports, event.id, News("account_proven", About(), params, to=(message.account_id,)))


async def _detached(ports: Ports, event: Event) -> None:
    message: identity.AccountDetached = event.message
    params = {"agency": Name(agency=message.agency)}
    await handlers.tell(ports, event.id, News("account_detached", About(), params, to=(message.account_id,)))


async def _profile(ports: Ports, event: Event) -> None:
    message = event.message
    await handlers.reach(
        ports,
        message.account_id,
        at=event.time,
        email=message.email,
        phone=message.phone,
        locale=message.locale,
        name=message.name if "name" in message.DESCRIPTOR.fields_by_name else None,
    )


async def _roles(ports: Ports, event: Event) -> None:
    posts = [Post(role.agency, role.name, role.valid_from, role.valid_to) for role in event.message.roles]
    await handlers.post(ports, event.message.account_id, posts, event.time)


async def _agency(ports: Ports, event: Event) -> None:
    agency = event.message.agency
    await handlers.name_agency(ports, agency.code, agency.name, agency.name_en, event.time)


async def _delegation_requested(ports: Ports, event: Event) -> None:
    """Tells who is asked, and nothing of who asks: a stranger may have written that."""
    delegation = event.message.delegation
    params: dict[str, str | Name] = {"until": _text(delegation, "request_expire_time")}
    news = News("delegation_requested", About(), params, to=(delegation.delegate_id,))
    await handlers.tell(ports, event.id, news)


async def _delegation_declined(ports: Ports, event: Event) -> None:
    principal = event.message.delegation.principal_id
    await handlers.tell(ports, event.id, News("delegation_declined", About(), {}, to=(principal,)))


async def _delegation_granted(ports: Ports, event: Event) -> None:
    delegation = event.message.delegation
    params: dict[str, str | Name] = {"until": _text(delegation, "expire_time")}
    news = News("delegation_granted", About(), params, to=(delegation.principal_id,))
    await handlers.tell(ports, event.id, news)


async def _delegation_revoked(ports: Ports, event: Event) -> None:
    delegation = event.message.delegation
    sides = (delegation.principal_id, delegation.delegate_id)  # one of them did it
    await handlers.tell(ports, event.id, News("delegation_revoked", About(), {}, to=sides))


async def _session_revoked(ports: Ports, event: Event) -> None:
    message: identity.SessionRevoked = event.message
    if message.reason != "REUSED":
        return
    params = {"at": _text(message, "revoke_time") or to_text(event.time)}
    await handlers.tell(ports, event.id, News("session_reused", About(), params, to=(message.account_id,)))


async def _contact_changed(ports: Ports, event: Event) -> None:
    message: identity.ContactChanged = event.message
    params = {"at": _text(message, "change_time") or to_text(event.time)}
    old = (message.old_email, message.old_phone)
    news = News("contact_changed", About(), params, to=(message.account_id,), instead=old)
    await handlers.tell(ports, event.id, news)


async def _contact_used(ports: Ports, event: Event) -> None:
    message: identity.ContactUsed = event.message
    params = {"at": _text(message, "use_time") or to_text(event.time)}
    await handlers.tell(ports, event.id, News("contact_used", About(), params, to=(message.account_id,)))


async def _secret_requested(ports: Ports, event: Event) -> None:
    message: identity.OneTimeSecretRequested = event.message
    kind = _SECRETS.get(message.purpose)
    if kind is None:
        return  # of a newer identity; it has long run out when we know it
    params = {"at": _text(message, "request_time") or to_text(event.time)}
    await handlers.tell(ports, event.id, News(kind, About(), params, to=(message.account_id,)))


_SECRETS: Final[Mapping[int, str]] = {
    identity_pb2.ONE_TIME_PURPOSE_RESET_PASSWORD: "password_reset",
    identity_pb2.ONE_TIME_PURPOSE_VERIFY_EMAIL: "email_verification",
    identity_pb2.ONE_TIME_PURPOSE_VERIFY_PHONE: "phone_verification",
}


async def _sessions_ended(ports: Ports, event: Event) -> None:
    message: identity.SessionsEnded = event.message
    if message.reason not in ("PASSWORD_CHANGED", "PASSWORD_RESET"):
        return  # the owner signed out, or another event tells
    params = {"at": _text(message, "end_time") or to_text(event.time)}
    await handlers.tell(ports, event.id, News("password_changed", About(), params, to=(message.account_id,)))


_SECOND_FACTOR: Final = {
    identity.SECOND_FACTOR_CHANGE_ADDED: "second_factor_added",
    identity.SECOND_FACTOR_CHANGE_REMOVED: "second_factor_removed",
    identity.SECOND_FACTOR_CHANGE_RESET: "second_factor_reset",
    identity.SECOND_FACTOR_CHANGE_CODE_USED: "recovery_code_used",
    identity.SECOND_FACTOR_CHANGE_CODES_RENEWED: "recovery_codes_renewed",
}


async def _second_factor_changed(ports: Ports, event: Event) -> None:
    message: identity.SecondFactorChanged = event.message
    kind = _SECOND_FACTOR.get(message.change)
    if kind is None:
        return  # of a newer release, and without words here
    params = {"at": _text(message, "change_time") or to_text(event.time)}
    if kind == "recovery_code_used":
        params["left"] = str(message.recovery_codes_left)
    await handlers.tell(ports, event.id, News(kind, About(), params, to=(message.account_id,)))


IDENTITY: Final[Mapping[type[Message], Reaction]] = {
    identity.AccountOpened: _opened,
    identity.AccountClaimed: _profile,
    identity.ProfileChanged: _profile,
    identity.AccountProven: _proven,
    identity.AccountDetached: _detached,
    identity.RolesChanged: _roles,
    identity.AgencyChanged: _agency,
    identity.DelegationRequested: _delegation_requested,
    identity.DelegationDeclined: _delegation_declined,
    identity.DelegationGranted: _delegation_granted,
    identity.DelegationRevoked: _delegation_revoked,
    identity.SessionRevoked: _session_revoked,
    identity.ContactChanged: _contact_changed,
    identity.SessionsEnded: _sessions_ended,
    identity.ContactUsed: _contact_used,
    identity.OneTimeSecretRequested: _secret_requested,
    identity.SecondFactorChanged: _second_factor_changed,
}


def _instant(message: Any, field: str) -> datetime | None:
    stamp: Timestamp = getattr(message, field)
    return to_ms(stamp.ToDatetime(tzinfo=UTC)) if message.HasField(field) else None


def _text(message: Any, field: str) -> str:
    instant = _instant(message, field)
    return "" if instant is None else to_text(instant)


# --- all of it -------------------------------------------------------------------------------------------

# One a context; the events of one dossier, charge or account are handled in order.
SUBSCRIPTIONS: Final = (
    Subscription("notify-dossier", "dossier", DOSSIER),
    Subscription("notify-payment", "payment", PAYMENT),
    Subscription("notify-identity", "identity", IDENTITY),
)


def subscriptions(ports: Ports) -> list[Subscription]:
    """What this service subscribes to, with its handlers."""
    return [wanted.bound(ports) for wanted in SUBSCRIPTIONS]
