"""The kinds of notices there are, what they are about and the ways they go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Channel(StrEnum):
    """A way to reach a person. The app shows every notice by itself and needs no delivery."""

    APP = "app"
    EMAIL = "email"
    SMS = "sms"
    ZALO = "zalo"


class Group(StrEnum):
    """What a person chooses channels for."""

    DOSSIER = "dossier"
    PAYMENT = "payment"
    DOCUMENT = "document"
    WORK = "work"  # an official's tasks
    ACCOUNT = "account"


@dataclass(frozen=True)
class Kind:
    """A kind of notice: its group, the parameters that its templates take (all of them, no others), and
    whether it stays in the app whatever a person chose, because it would be a nuisance elsewhere.

    What is sent with a secret for a `purpose` (a key of SECRETS) goes by these `channels` whatever a person
    chose, for they have asked for it. Identity makes the secret and says where it goes when it is sent; the
    notice and the app never show it.
    """

    group: Group
    params: frozenset[str]
    app_only: bool = False
    purpose: str = ""
    channels: tuple[Channel, ...] = ()


@dataclass(frozen=True)
class Secret:
    """A secret that serves once, to be sent: where to, and the page that takes it (`{secret}` is its place);
    without a page people type it."""

    address: str
    text: str
    page: str = ""


# What identity makes, and the page of the portal that takes it. It is in the fragment, which no server logs.
SECRETS: Final[Mapping[str, str]] = {
    "recover": "quen-mat-khau#{secret}",
    "verify_email": "xac-nhan-lien-he#{secret}",
    "verify_phone": "",
}


def _kind(group: Group, *params: str, app_only: bool = False) -> Kind:
    return Kind(group, frozenset(params), app_only)


# `by` names the officer and the agency that acted; `cause` is a code that the templates put into words.
KINDS: Final[Mapping[str, Kind]] = {
    "dossier_submitted": _kind(Group.DOSSIER, "procedure", "agency"),
    "dossier_received": _kind(Group.DOSSIER, "code", "procedure", "due", "by"),
    "dossier_rejected": _kind(Group.DOSSIER, "code", "procedure", "reason", "by"),
    "supplement_requested": _kind(Group.DOSSIER, "code", "procedure", "defects", "reason", "guidance", "by"),
    "dossier_supplemented": _kind(Group.DOSSIER, "code", "procedure", "due", "agency"),
    "step_completed": _kind(Group.DOSSIER, "code", "procedure", "step", "by", app_only=True),
    "dossier_handed_off": _kind(Group.DOSSIER, "code", "procedure", "agency", "by"),
    "deadline_extended": _kind(Group.DOSSIER, "code", "procedure", "due", "new_due", "reason", "by"),
    "withdrawal_requested": _kind(Group.DOSSIER, "code", "procedure", "agency"),
    "withdrawal_declined": _kind(Group.DOSSIER, "code", "procedure", "reason", "by"),
    "dossier_withdrawn": _kind(Group.DOSSIER, "code", "procedure", "agency"),
    "dossier_stopped": _kind(Group.DOSSIER, "code", "procedure", "reason", "by"),
    "result_ready": _kind(Group.DOSSIER, "code", "procedure", "by"),
    "result_handed_over": _kind(Group.DOSSIER, "code", "procedure", "by"),
    "payment_requested": _kind(Group.PAYMENT, "code", "procedure", "amount", "by"),
    "charge_paid": _kind(Group.PAYMENT, "code", "procedure", "amount"),
    "charge_cancelled": _kind(Group.PAYMENT, "code", "procedure", "amount", "cause"),
    "payment_failed": _kind(Group.PAYMENT, "code", "procedure", "amount"),
    "receipt_issued": _kind(Group.PAYMENT, "code", "procedure", "amount", "number", "agency"),
    "refund_requested": _kind(Group.PAYMENT, "code", "procedure", "amount", "cause", "agency"),
    "fee_needed_again": _kind(Group.PAYMENT, "code", "procedure", "amount", "agency"),
    "payment_refunded": _kind(Group.PAYMENT, "code", "procedure", "amount", "cause", "agency"),
    "document_deposited": _kind(Group.DOCUMENT, "document"),
    "document_verified": _kind(Group.DOCUMENT, "document", "agency"),
    "file_refused": _kind(Group.DOCUMENT, "document"),
    "account_opened": _kind(Group.ACCOUNT, "agency"),
    "account_proven": _kind(Group.ACCOUNT, "agency"),
    "account_detached": _kind(Group.ACCOUNT, "agency"),
    "delegation_requested": _kind(Group.ACCOUNT, "until"),  # and nothing that the one who asks has written
    "delegation_declined": _kind(Group.ACCOUNT),
    "delegation_granted": _kind(Group.ACCOUNT, "until"),
    "delegation_revoked": _kind(Group.ACCOUNT),
    "session_reused": _kind(Group.ACCOUNT, "at"),
    "contact_changed": _kind(Group.ACCOUNT, "at"),
    "contact_used": _kind(Group.ACCOUNT, "at"),
    "password_changed": _kind(Group.ACCOUNT, "at"),
    "password_reset": Kind(
        Group.ACCOUNT,
        frozenset({"at"}),
        purpose="recover",
        channels=(Channel.EMAIL, Channel.SMS),
    ),
    "email_verification": Kind(
        Group.ACCOUNT, frozenset({"at"}), purpose="verify_email", channels=(Channel.EMAIL,)
    ),
    "phone_verification": Kind(
        Group.ACCOUNT, frozenset({"at"}), purpose="verify_phone", channels=(Channel.SMS,)
    ),
    "second_factor_added": _kind(Group.ACCOUNT, "at"),
    "second_factor_removed": _kind(Group.ACCOUNT, "at"),
    "second_factor_reset": _kind(Group.ACCOUNT, "at"),
    "recovery_code_used": _kind(Group.ACCOUNT, "at", "left"),
    "recovery_codes_renewed": _kind(Group.ACCOUNT, "at"),
    "desk_submitted": _kind(Group.WORK, "procedure", "agency"),
    "desk_arrived": _kind(Group.WORK, "code", "procedure", "due", "agency"),
    "desk_result": _kind(Group.WORK, "code", "procedure", "agency"),
    "desk_supplemented": _kind(Group.WORK, "code", "procedure", "due", "agency"),
    "desk_paid": _kind(Group.WORK, "code", "procedure", "due", "agency"),
    "desk_fee_given_back": _kind(Group.WORK, "code", "procedure", "amount", "agency"),
    "desk_withdrawal": _kind(Group.WORK, "code", "procedure", "reason", "agency"),
    "desk_due_soon": _kind(Group.WORK, "code", "procedure", "due", "agency"),
    "desk_overdue": _kind(Group.WORK, "code", "procedure", "due", "agency"),
    "desk_unreceived_soon": _kind(Group.WORK, "procedure", "due", "agency"),
    "desk_unreceived": _kind(Group.WORK, "procedure", "due", "agency"),
}


@dataclass(frozen=True)
class About:
    """What a notice is about; an id is empty when there is none of that type."""

    dossier: str = ""
    charge: str = ""
    document: str = ""
