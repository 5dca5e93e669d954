"""Identity's types as protobuf messages and back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from identity.domain import proof
from identity.domain.accounts import Account, Kind, RoleGrant, Status
from identity.domain.agencies import Agency, Level
from identity.domain.delegations import Delegation, Scope, State
from identity.domain.one_time import Purpose
from identity.domain.second_factor import Change, Way
from kit.clock import VIETNAM, now, to_ms
from kit.errors import FieldViolation, InvalidInput
from kit.mongo import etag
from motcua.identity.v1 import events_pb2 as announced
from motcua.identity.v1 import identity_pb2 as pb

_KINDS = {
    Kind.PERSON: pb.ACCOUNT_KIND_PERSON,
    Kind.ORGANISATION: pb.ACCOUNT_KIND_ORGANISATION,
    Kind.OFFICIAL: pb.ACCOUNT_KIND_OFFICIAL,
}
_STATUSES = {
    Status.ACTIVE: pb.ACCOUNT_STATUS_ACTIVE,
    Status.UNCLAIMED: pb.ACCOUNT_STATUS_UNCLAIMED,
    Status.LOCKED: pb.ACCOUNT_STATUS_LOCKED,
}
_LEVELS = {
    Level.MINISTRY: pb.AGENCY_LEVEL_MINISTRY,
    Level.PROVINCE: pb.AGENCY_LEVEL_PROVINCE,
    Level.COMMUNE: pb.AGENCY_LEVEL_COMMUNE,
}
_SCOPES = {
    Scope.FILE: pb.DELEGATION_SCOPE_FILE,
    Scope.READ: pb.DELEGATION_SCOPE_READ,
    Scope.VAULT: pb.DELEGATION_SCOPE_VAULT,
    Scope.PAY: pb.DELEGATION_SCOPE_PAY,
}
_STATES = {
    State.REQUESTED: pb.DELEGATION_STATE_REQUESTED,
    State.IN_FORCE: pb.DELEGATION_STATE_IN_FORCE,
    State.DECLINED: pb.DELEGATION_STATE_DECLINED,
    State.WITHDRAWN: pb.DELEGATION_STATE_WITHDRAWN,
    State.LAPSED: pb.DELEGATION_STATE_LAPSED,
    State.REVOKED: pb.DELEGATION_STATE_REVOKED,
    State.EXPIRED: pb.DELEGATION_STATE_EXPIRED,
}
_PROOFS = {
    proof.COUNTER: pb.PROOF_KIND_COUNTER,
    proof.CODE: pb.PROOF_KIND_CODE,
    proof.PROVIDER: pb.PROOF_KIND_PROVIDER,
    proof.DEMO: pb.PROOF_KIND_DEMO,
}
_PURPOSES = {
    Purpose.RECOVER: pb.ONE_TIME_PURPOSE_RESET_PASSWORD,
    Purpose.VERIFY_EMAIL: pb.ONE_TIME_PURPOSE_VERIFY_EMAIL,
    Purpose.VERIFY_PHONE: pb.ONE_TIME_PURPOSE_VERIFY_PHONE,
}
_CONTACTS: dict[int, str] = {pb.CONTACT_KIND_EMAIL: "email", pb.CONTACT_KIND_PHONE: "phone"}
_PAPERS = {
    pb.PAPER_KIND_CITIZEN_CARD: "citizen_card",
    pb.PAPER_KIND_ELECTRONIC_IDENTITY: "electronic_identity",
    pb.PAPER_KIND_PASSPORT: "passport",
    pb.PAPER_KIND_BIRTH_CERTIFICATE: "birth_certificate",
    pb.PAPER_KIND_BUSINESS_REGISTRATION: "business_registration",
    pb.PAPER_KIND_ESTABLISHMENT_DECISION: "establishment_decision",
    pb.PAPER_KIND_AUTHORISATION: "authorisation",
    pb.PAPER_KIND_OTHER: "other",
}
_PAPER_OUT = {name: value for value, name in _PAPERS.items()}
_PURPOSE_OF = {value: purpose for purpose, value in _PURPOSES.items()}
_WAYS = {
    Way.TOTP: pb.SECOND_FACTOR_WAY_TOTP,
    Way.WEBAUTHN: pb.SECOND_FACTOR_WAY_WEBAUTHN,
    Way.RECOVERY_CODE: pb.SECOND_FACTOR_WAY_RECOVERY_CODE,
}
_WAY_OF = {value: way for way, value in _WAYS.items()}
_CHANGES = {
    Change.ADDED: announced.SECOND_FACTOR_CHANGE_ADDED,
    Change.REMOVED: announced.SECOND_FACTOR_CHANGE_REMOVED,
    Change.RESET: announced.SECOND_FACTOR_CHANGE_RESET,
    Change.CODE_USED: announced.SECOND_FACTOR_CHANGE_CODE_USED,
    Change.CODES_RENEWED: announced.SECOND_FACTOR_CHANGE_CODES_RENEWED,
}
_KIND_OF = {value: kind for kind, value in _KINDS.items()}
_STATUS_OF = {value: status for status, value in _STATUSES.items()}
_LEVEL_OF = {value: level for level, value in _LEVELS.items()}
_SCOPE_OF = {value: scope for scope, value in _SCOPES.items()}


def account_message(account: Account) -> pb.Account:
    """Everything of an account but its secrets."""
    return pb.Account(
        id=account.id,
        kind=_KINDS[account.kind],
        status=_STATUSES[account.status],
        name=account.name,
        citizen_number=account.citizen_number,
        tax_code=account.tax_number(now().astimezone(VIETNAM).date()),
        phone=account.phone,
        email=account.email,
        username=account.username,
        locale=account.locale,
        roles=role_messages(account.roles),
        representative_id=account.representative,
        create_time=timestamp(account.created),
        etag=etag(account),
        verified=account.verified,
        proof=_proof_message(account.proof),
        detach_time=timestamp(account.detached) if account.detached else None,
        email_verified=account.email_verified,
        phone_verified=account.phone_verified,
    )


def _proof_message(proven: proof.Proof | None) -> pb.Proof | None:
    """What is recorded of a proof but the numbers of the papers; None where others may not see it."""
    if proven is None or not proven.kind:
        return None
    return pb.Proof(
        kind=proof_kind_message(proven.kind),
        create_time=timestamp(proven.at),
        official_id=proven.by if proven.agency else "",
        issuer="" if proven.agency else proven.by,
        agency=proven.agency,
        papers=[_PAPER_OUT.get(paper.kind, pb.PAPER_KIND_UNSPECIFIED) for paper in proven.papers],
    )


def proof_kind_message(kind: str) -> pb.ProofKind.ValueType:
    """The kind of a proof; unspecified for one that a newer release knows."""
    return _PROOFS.get(kind, pb.PROOF_KIND_UNSPECIFIED)


def papers_of(papers: Iterable[pb.Paper]) -> list[tuple[str, str]]:
    """Papers as (kind, number); the kind is empty when it is unspecified or unknown."""
    return [(_PAPERS.get(paper.kind, ""), paper.number) for paper in papers]


def kind_message(kind: Kind) -> pb.AccountKind.ValueType:
    """The kind of an account."""
    return _KINDS[kind]


def role_messages(roles: Iterable[RoleGrant]) -> list[pb.Role]:
    """Roles with the days they are held."""
    return [
        pb.Role(
            agency=role.agency,
            name=role.name,
            valid_from=_day(role.valid_from),
            valid_to=_day(role.valid_to),
        )
        for role in roles
    ]


def agency_message(agency: Agency) -> pb.Agency:
    """An agency."""
    details = agency.details
    return pb.Agency(
        code=agency.id,
        name=details.name,
        name_en=details.name_en,
        level=_LEVELS[details.level],
        parent=details.parent,
        valid_from=_day(details.valid_from),
        valid_to=_day(details.valid_to),
        successor=details.successor,
        address=details.address,
        phone=details.phone,
        etag=etag(agency),
        reception=details.reception,
    )


def delegation_message(delegation: Delegation, now: datetime, viewer: str | None = None) -> pb.Delegation:
    """A delegation as its two sides may see it: who the other one is when it was accepted. Without a viewer
    all of it, for our own services."""
    met = viewer is None or delegation.accepted is not None
    return pb.Delegation(
        id=delegation.id,
        principal_id=delegation.principal if met or viewer == delegation.principal else "",
        delegate_id=delegation.delegate if met or viewer == delegation.delegate else "",
        scopes=[_SCOPES[scope] for scope in delegation.scopes],
        create_time=timestamp(delegation.created),
        expire_time=timestamp(delegation.until),
        revoke_time=timestamp(delegation.revoked) if delegation.revoked else None,
        etag=etag(delegation),
        state=_STATES[delegation.state(now)],
        accept_time=timestamp(delegation.accepted) if delegation.accepted else None,
        request_expire_time=timestamp(delegation.request_until) if delegation.request_until else None,
        principal_hint=delegation.principal_shown if viewer != delegation.principal else "",
        delegate_hint=delegation.target_shown if viewer != delegation.delegate else "",
    )


def timestamp(instant: datetime) -> Timestamp:
    """An instant."""
    message = Timestamp()
    message.FromDatetime(instant)
    return message


def instant(message: Timestamp) -> datetime:
    """A timestamp, cut to milliseconds. Raises InvalidInput when no calendar has it."""
    try:
        return to_ms(message.ToDatetime(UTC))
    except (ValueError, OverflowError):
        raise InvalidInput(violations=[FieldViolation("expire_time", "TIME_OUT_OF_RANGE")]) from None


def purpose_message(purpose: Purpose) -> pb.OneTimePurpose.ValueType:
    """What a secret that serves once is for."""
    return _PURPOSES[purpose]


def purpose_of(value: pb.OneTimePurpose.ValueType) -> Purpose | None:
    """The purpose that the enum names; None for unspecified or unknown."""
    return _PURPOSE_OF.get(value)


def contact_of(value: pb.ContactKind.ValueType) -> str:
    """`email` or `phone`; empty for unspecified or unknown."""
    return _CONTACTS.get(value, "")


def way_message(way: Way | None) -> pb.SecondFactorWay.ValueType:
    """The way of a second factor; unspecified for none."""
    return _WAYS[way] if way is not None else pb.SECOND_FACTOR_WAY_UNSPECIFIED


def way_of(value: pb.SecondFactorWay.ValueType) -> Way | None:
    """The way that the enum names; None for unspecified or unknown."""
    return _WAY_OF.get(value)


def change_message(change: Change) -> announced.SecondFactorChange.ValueType:
    """What happened to second factors."""
    return _CHANGES[change]


def kind_of(value: pb.AccountKind.ValueType) -> Kind | None:
    """The kind that the enum names; None for unspecified or unknown."""
    return _KIND_OF.get(value)


def status_of(value: pb.AccountStatus.ValueType) -> Status | None:
    """The status that the enum names; None for unspecified or unknown."""
    return _STATUS_OF.get(value)


def level_of(value: pb.AgencyLevel.ValueType) -> Level | None:
    """The level that the enum names; None for unspecified or unknown."""
    return _LEVEL_OF.get(value)


def scope_of(value: pb.DelegationScope.ValueType) -> Scope | None:
    """The scope that the enum names; None for unspecified or unknown."""
    return _SCOPE_OF.get(value)


def _day(day: date | None) -> str:
    return day.isoformat() if day else ""
