"""Accounts of persons, organisations and officials, and the roles that officials hold in agencies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from identity.domain.identifiers import (
    FieldCheck,
    Identifier,
    citizen_number_of,
    email_of,
    locale_of,
    masked,
    masked_for_office,
    phone_of,
    tax_code_of,
    tax_rule,
    username_of,
)
from identity.domain.names import organisation_name_of, person_name_of
from identity.domain.one_time import Purpose
from identity.domain.passwords import check_password
from identity.domain.proof import COUNTER, Paper, Proof
from identity.domain.second_factor import Change, SecondFactorChanged, SecondFactors
from kit.clock import VIETNAM
from kit.errors import Conflict, FailedPrecondition, Forbidden
from kit.text import nfc

ROLE_NAMES: Final = ("reception", "examiner", "leader", "clerk", "cashier", "admin")
ACTIVATION_LASTS: Final = timedelta(days=30)
ACTIVATION_TRIES: Final = 5
NUMBERS: Final = ("citizen_number", "tax_code")  # what only one proven account has


class Kind(StrEnum):
    """What an account stands for."""

    PERSON = "person"
    ORGANISATION = "organisation"
    OFFICIAL = "official"


class Status(StrEnum):
    """Whether an account can be used: an unclaimed one has no password yet."""

    ACTIVE = "active"
    UNCLAIMED = "unclaimed"
    LOCKED = "locked"


@dataclass(frozen=True)
class RoleGrant:
    """A role in one agency; the dates are the first and the last day it is held, None: without limit."""

    agency: str
    name: str
    valid_from: date | None = None
    valid_to: date | None = None

    def held_on(self, day: date) -> bool:
        """Whether the role is held on that day."""
        return (self.valid_from is None or self.valid_from <= day) and (
            self.valid_to is None or day <= self.valid_to
        )


@dataclass(frozen=True)
class Activation:
    """The code given out at the counter, as a hash, with the tries left and the instant it stops working."""

    code_hash: str
    until: datetime
    tries_left: int = ACTIVATION_TRIES


@dataclass(frozen=True)
class AwaitedProof:
    """Papers that an official saw for an account whose owner has yet to enter the code given out for it."""

    name: str
    proof: Proof
    code: Activation


@dataclass(frozen=True)
class Registration:
    """What is known of a person or an organisation who gets an account, every field in its stored form."""

    kind: Kind
    name: str
    citizen_number: str = ""
    tax_code: str = ""
    phone: str = ""
    email: str = ""
    locale: str = "vi"

    @property
    def identifiers(self) -> tuple[Identifier, ...]:
        """What names the account; the first is the one it cannot be without."""
        return _identifiers(self.citizen_number, self.tax_code, self.phone, self.email)


@dataclass(frozen=True)
class AccountOpened:
    """An account came to be."""


@dataclass(frozen=True)
class AccountClaimed:
    """Somebody took over the account that an official had opened for them."""


@dataclass(frozen=True)
class ProfileChanged:
    """Contact data, language or name changed."""


@dataclass(frozen=True)
class AccountProven:
    """The account is proven to belong to whom it names."""


@dataclass(frozen=True)
class AccountDetached:
    """The number of the account was proven to be somebody else's, at this agency's counter if at any."""

    agency: str


@dataclass(frozen=True)
class RolesChanged:
    """An official's roles were replaced."""


@dataclass(frozen=True)
class ContactChanged:
    """The account has another e-mail or phone than these, which it had until then."""

    email: str
    phone: str
    at: datetime


@dataclass(frozen=True)
class ContactUsed:
    """Somebody else signed up with the account's e-mail or phone."""

    at: datetime


@dataclass(frozen=True)
class OneTimeSecretRequested:
    """The owner is to be sent a link or a code that serves once."""

    purpose: Purpose
    at: datetime


@dataclass(frozen=True)
class SessionsEnded:
    """All sessions of earlier epochs are over but the kept one: `reason` is SIGNED_OUT, PASSWORD_CHANGED,
    PASSWORD_RESET, LOCKED, DETACHED, SECOND_FACTOR_ADDED or SECOND_FACTOR_RESET."""

    reason: str


@dataclass
class Account:
    """One person, organisation or official, the same everywhere.

    The citizen number is stored in full: dossiers and the calls to the population database need it.
    The passwords and activation codes are argon2id hashes. `mark` names the request that made the account,
    so that its repeat is told from somebody else's attempt to register the same person; `claimed_by` names
    the request that claimed it, `password_mark` the one that changed the password, `proven_by` the one that
    proved it.

    Who nobody proved has a number by their own word only: others may claim the same, and the account may do
    nothing in the name of that number. When the number is proven to be somebody else's, it is taken from the
    account, at `detached`; all else stays with it.

    `links` are what identity providers call the owner, as `issuer|subject`.

    `verified_email` and `verified_phone` are the contacts that the owner has shown to reach them. Only while
    they are the account's e-mail and phone do these name it, and only one account has one of them. Others are
    where notices go, name nobody and are nobody's alone. Accounts of a release that knew no verification have
    none: their owners sign in by their number until they verify.

    What ends all sessions raises `epoch`, at `ended`: sessions of an earlier one are over from that write on,
    but for `kept_session`, from which the password was changed.
    """

    id: str
    kind: Kind
    name: str
    status: Status
    created: datetime
    citizen_number: str = ""
    tax_code: str = ""
    phone: str = ""
    email: str = ""
    username: str = ""
    locale: str = "vi"
    password_hash: str = ""
    activation: Activation | None = None
    roles: tuple[RoleGrant, ...] = ()
    representative: str = ""
    opened_by: str = ""
    opened_at: str = ""
    mark: str = ""
    claimed_by: str = ""
    password_mark: str = ""
    epoch: int = 0
    kept_session: str = ""
    verified_email: str = ""
    verified_phone: str = ""
    ended: datetime | None = None
    proof: Proof | None = None
    proven_by: str = ""
    awaited: AwaitedProof | None = None
    links: tuple[str, ...] = ()
    detached: datetime | None = None
    second: SecondFactors = field(default_factory=SecondFactors)
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    @classmethod
    def signed_up(
        cls,
        account_id: str,
        who: Registration,
        *,
        password_hash: str,
        representative: str,
        mark: str,
        now: datetime,
        proof: Proof | None = None,
        link: str = "",
        contacts_verified: bool = False,
    ) -> Account:
        """A new account of somebody who registered themselves, unproven unless an identity provider or the
        demo's seed speaks for it, which does for the contacts, too."""
        return cls._of(
            account_id,
            who,
            now,
            status=Status.ACTIVE,
            password_hash=password_hash,
            representative=representative,
            mark=mark,
            verified_email=who.email if contacts_verified else "",
            verified_phone=who.phone if contacts_verified else "",
            proof=proof,
            links=(link,) if link else (),
        )

    @classmethod
    def opened_at_counter(
        cls,
        account_id: str,
        who: Registration,
        *,
        code_hash: str,
        official: str,
        agency: str,
        mark: str,
        now: datetime,
        papers: tuple[Paper, ...] = (),
    ) -> Account:
        """A new account for somebody at the counter, proven by the papers that the official saw; its owner
        claims it later with the activation code."""
        activation = Activation(code_hash, now + ACTIVATION_LASTS)
        return cls._of(
            account_id,
            who,
            now,
            status=Status.UNCLAIMED,
            activation=activation,
            opened_by=official,
            opened_at=agency,
            mark=mark,
            proof=Proof(COUNTER, now, official, agency, papers),
        )

    @classmethod
    def of_official(
        cls,
        account_id: str,
        *,
        name: str,
        username: str,
        email: str,
        phone: str,
        roles: tuple[RoleGrant, ...],
        password_hash: str,
        mark: str,
        now: datetime,
    ) -> Account:
        """A new account for an official, made by an admin."""
        return cls(
            id=account_id,
            kind=Kind.OFFICIAL,
            name=name,
            status=Status.ACTIVE,
            created=now,
            username=username,
            email=email,
            phone=phone,
            roles=roles,
            password_hash=password_hash,
            mark=mark,
            events=[AccountOpened(), RolesChanged()],
        )

    @classmethod
    def _of(
        cls, account_id: str, who: Registration, now: datetime, *, status: Status, **more: Any
    ) -> Account:
        return cls(
            id=account_id,
            kind=who.kind,
            name=who.name,
            status=status,
            created=now,
            citizen_number=who.citizen_number,
            tax_code=who.tax_code,
            phone=who.phone,
            email=who.email,
            locale=who.locale,
            events=[AccountOpened()],
            **more,
        )

    @property
    def identifiers(self) -> tuple[Identifier, ...]:
        """Everything that names this account: of its contacts those that are verified.

        An official is named by the username alone: the phone and the address may be those of the same
        person's own account.
        """
        if self.official:
            return (Identifier("username", self.username),)
        phone = self.phone if self.phone_verified else ""
        email = self.email if self.email_verified else ""
        named = _identifiers(self.citizen_number, self.tax_code, phone, email)
        return (*named, *(Identifier("oidc", link) for link in self.links))

    @property
    def known_by(self) -> tuple[Identifier, ...]:
        """Everything that its owner is known by, verified or not: no password may hold it."""
        named = _identifiers(self.citizen_number, self.tax_code, self.phone, self.email)
        return (Identifier("username", self.username), *named) if self.official else named

    @property
    def email_verified(self) -> bool:
        """Whether its owner has shown that its e-mail reaches them."""
        return self.email != "" and self.email == self.verified_email

    @property
    def phone_verified(self) -> bool:
        """Whether its owner has shown that its phone reaches them."""
        return self.phone != "" and self.phone == self.verified_phone

    @property
    def official(self) -> bool:
        """Whether this is an official, not a person or an organisation."""
        return self.kind is Kind.OFFICIAL

    @property
    def verified(self) -> bool:
        """Whether somebody proved that the account belongs to whom it names.

        Officials are made by admins. What a counter opened before papers were recorded counts as proven.
        """
        return self.official or (self.detached is None and (self.proof is not None or bool(self.opened_at)))

    @property
    def unproven_number(self) -> Identifier | None:
        """The number that the account has by its own word only; None when it is proven or has none."""
        return None if self.verified else self.number

    @property
    def number(self) -> Identifier | None:
        """The citizen number of a person, the tax code of an organisation; None when there is none."""
        return next((it for it in self.identifiers if it.type in NUMBERS), None)

    @property
    def number_text(self) -> str:
        """The digits of `number`; empty for none."""
        return self.number.value if self.number else ""

    def tax_number(self, on: date) -> str:
        """The tax code on a day: an organisation's own; a person's citizen number, once it is proven, where
        the rule of that day says so. Empty for none."""
        if self.kind is Kind.PERSON and self.verified and tax_rule(on).citizen_number:
            return self.citizen_number if self.citizen_number.isdecimal() else ""  # not of a masked one
        return self.tax_code

    def for_others(self) -> Account:
        """What a citizen may see of somebody else: the name, an official's roles, no way to reach them."""
        return Account(
            id=self.id,
            kind=self.kind,
            name=self.name,
            status=self.status,
            created=self.created,
            citizen_number=masked(self.citizen_number),
            roles=self.roles,
            proof=Proof("", self.created) if self.verified else None,
            revision=self.revision,
        )

    def for_office(self, *, admin: bool) -> Account:
        """What an official may see without a need to know: of persons and organisations no identifier whole,
        but the tax code of an organisation, which its own papers show to everybody, if that is not a person's
        number; of an official nothing that reaches or names them for signing in, unless an admin asks, who
        keeps these accounts."""
        if self.official:
            return self if admin else replace(self, phone="", email="", username="", events=[])
        shown = {it.type: masked_for_office(it) for it in self.known_by}
        return replace(
            self,
            citizen_number=shown.get("citizen_number", ""),
            tax_code=self.tax_code if len(self.tax_code) != 12 else shown.get("tax_code", ""),
            phone=shown.get("phone", ""),
            email=shown.get("email", ""),
            events=[],
        )

    def roles_on(self, day: date) -> tuple[RoleGrant, ...]:
        """The roles held on that day."""
        return tuple(role for role in self.roles if role.held_on(day))

    def admits(self, session_id: str, epoch: int) -> bool:
        """Whether a session that began in that epoch may go on."""
        return epoch == self.epoch or session_id == self.kept_session

    def check_can_be_claimed(self, now: datetime) -> None:
        """Raises FailedPrecondition when no activation code can open this account."""
        if self.status is not Status.UNCLAIMED or self.activation is None:
            raise FailedPrecondition("NOT_CLAIMABLE", "no account waits for an activation code here")
        if self.activation.tries_left <= 0 or now >= self.activation.until:
            raise FailedPrecondition(
                "ACTIVATION_EXPIRED", "the code is used up or too old; ask for a new one"
            )

    def try_code(self, now: datetime) -> None:
        """Uses up one try of the activation code, before it is compared: parallel guesses count too."""
        self.check_can_be_claimed(now)
        if self.activation is not None:
            code = self.activation
            self.activation = Activation(code.code_hash, code.until, code.tries_left - 1)

    def claim(self, *, password_hash: str, phone: str, email: str, locale: str, mark: str) -> None:
        """The owner, whose code was right, takes the account over.

        What they give replaces what the counter knew; the name, read from the identity card there, stays.
        """
        if self.status is not Status.UNCLAIMED:
            raise FailedPrecondition("NOT_CLAIMABLE", "the account has been claimed")
        self.status = Status.ACTIVE
        self.activation = None
        self.password_hash = password_hash
        self.phone = phone or self.phone
        self.email = email or self.email
        self.locale = locale or self.locale
        self.claimed_by = mark
        self.events.append(AccountClaimed())

    def renew_activation(self, *, code_hash: str, now: datetime) -> None:
        """A new activation code, in place of one that was lost or used up. The account must be unclaimed."""
        if self.status is not Status.UNCLAIMED:
            raise FailedPrecondition("NOT_CLAIMABLE", "the account has been claimed")
        self.activation = Activation(code_hash, now + ACTIVATION_LASTS)

    def await_proof(self, *, name: str, proof: Proof, code_hash: str) -> None:
        """An official saw papers in this name; the proof holds once the owner enters the code.

        The code, and not the official's word, tells that the account is that of the person at the counter
        and not of somebody who signed up in their name.
        """
        if self.official or self.status is not Status.ACTIVE:
            raise FailedPrecondition("NOT_PROVABLE", "only accounts in use are proven in this way")
        self.awaited = AwaitedProof(name, proof, Activation(code_hash, proof.at + ACTIVATION_LASTS))

    def check_awaits_proof(self, now: datetime) -> AwaitedProof:
        """What awaits the owner's code. Raises FailedPrecondition when no code can prove this account."""
        if self.awaited is None:
            raise FailedPrecondition("NO_PROOF_AWAITED", "no counter gave out a code for this account")
        if self.awaited.code.tries_left <= 0 or now >= self.awaited.code.until:
            raise FailedPrecondition(
                "ACTIVATION_EXPIRED", "the code is used up or too old; ask for a new one"
            )
        return self.awaited

    def try_proof(self, now: datetime) -> None:
        """Uses up one try of the code that proves the account, before it is compared."""
        waiting = self.check_awaits_proof(now)
        code = Activation(waiting.code.code_hash, waiting.code.until, waiting.code.tries_left - 1)
        self.awaited = AwaitedProof(waiting.name, waiting.proof, code)

    def prove(self, proof: Proof, name: str, mark: str = "") -> None:
        """The account is proven to be of the one who has this name; `mark` is that of the request."""
        if self.detached is not None:
            raise FailedPrecondition("NUMBER_LOST", "the number was proven to be somebody else's")
        before, self.name = self.name, name
        self.proof, self.awaited, self.proven_by = proof, None, mark
        self.events.append(AccountProven())
        if name != before:
            self.events.append(ProfileChanged())

    def link(self, link: str) -> None:
        """The owner signs in with an identity provider, too; an account that nobody had claimed is theirs."""
        if link not in self.links:
            self.links = (*self.links, link)
        if self.status is Status.UNCLAIMED:
            self.status, self.activation = Status.ACTIVE, None
            self.events.append(AccountClaimed())

    def detach(self, *, agency: str, proven_too: bool, now: datetime) -> None:
        """The number is somebody else's: the account loses it and all that it may do in its name.

        Its sessions are over. Its dossiers and documents stay with it; doing it again changes nothing.
        Raises Conflict (LOST_RACE) when it was proven meanwhile and only an unproven one may lose it.
        """
        if self.detached is not None:
            return
        if self.verified and not proven_too:
            raise Conflict("LOST_RACE", "the account was proven just now", accounts=self.id)
        self.citizen_number = self.tax_code = ""
        self.links = ()
        self.proof = self.awaited = self.activation = None
        self.detached = now
        self.end_sessions("DETACHED", now)
        self.events.append(AccountDetached(agency))

    def end_sessions(self, reason: str, now: datetime, *, kept: str = "") -> None:
        """Every session that has begun is over from this write on, but the kept one; it is announced."""
        self.epoch += 1
        self.kept_session = kept
        self.ended = now
        self.events.append(SessionsEnded(reason))

    def change_password(
        self, *, verified: str, password_hash: str, session: str, mark: str, now: datetime
    ) -> None:
        """A new password. `verified` is the hash that the owner's present password fitted; the session that
        asks goes on, all others are over. Raises Forbidden (ACCOUNT_LOCKED), Conflict (LOST_RACE)."""
        if self.status is Status.LOCKED:
            raise Forbidden("ACCOUNT_LOCKED", "the account is locked")
        if self.password_hash != verified:
            raise Conflict("LOST_RACE", "the password was changed just now")
        self.password_hash = password_hash
        self.password_mark = mark
        self.end_sessions("PASSWORD_CHANGED", now, kept=session)

    def request_secret(self, purpose: Purpose, now: datetime) -> None:
        """The owner is to be sent a secret for that purpose."""
        self.events.append(OneTimeSecretRequested(purpose, now))

    def recovery_address(self, contact: str) -> str:
        """Where a link to set a new password goes by `email` or `phone`; empty for nowhere. By phone only
        when no e-mail is verified, so that one request sends one link."""
        if self.status is not Status.ACTIVE:
            return ""
        if contact == "email":
            return self.email if self.email_verified else ""
        return self.phone if self.phone_verified and not self.email_verified else ""

    def verify_contact(self, contact: str, address: str) -> None:
        """The owner has shown that this `email` or `phone` reaches them. Raises FailedPrecondition
        (CONTACT_CODE_WRONG) when it is not the account's any more."""
        if not address or address != getattr(self, contact):
            raise FailedPrecondition("CONTACT_CODE_WRONG", "the contact is another one now")
        if contact == "email":
            self.verified_email = address
        else:
            self.verified_phone = address

    def reset_password(self, *, password_hash: str, now: datetime) -> None:
        """A new password by a link that was sent to the owner; all sessions are over. Raises Forbidden
        (ACCOUNT_LOCKED)."""
        if self.status is not Status.ACTIVE:
            raise Forbidden("ACCOUNT_LOCKED", "the account is locked")
        self.password_hash = password_hash
        self.password_mark = ""
        self.end_sessions("PASSWORD_RESET", now)

    def set_second(
        self, second: SecondFactors, changed: SecondFactorChanged | None = None, *, session: str = ""
    ) -> None:
        """These are the account's second factors now, of which the owner is told if something changed.

        The first one ends the sessions that began without, and a reset ends all; `session` goes on. Raises
        Forbidden (ACCOUNT_LOCKED).
        """
        reset = changed is not None and changed.change is Change.RESET
        if self.status is Status.LOCKED and not reset:
            raise Forbidden("ACCOUNT_LOCKED", "the account is locked")
        before, self.second = self.second, second
        if changed is None:
            return
        self.events.append(changed)
        if before.there != second.there and changed.change in (Change.ADDED, Change.RESET):
            self.end_sessions(f"SECOND_FACTOR_{changed.change.name}", changed.at, kept=session)

    def renew_hash(self, *, verified: str, password_hash: str) -> None:
        """The same password hashed anew, unless it has been changed since it was verified."""
        if self.password_hash == verified:
            self.password_hash = password_hash

    def lock(self, now: datetime) -> None:
        """Nobody signs in or claims the account any more, and its sessions are over."""
        if self.status is not Status.LOCKED:
            self.status = Status.LOCKED
            self.end_sessions("LOCKED", now)

    def unlock(self) -> None:
        """Takes the lock off: who had a password signs in again, else the account awaits its code."""
        if self.status is Status.UNCLAIMED:
            raise FailedPrecondition("ACTIVATION_REQUIRED", "nobody has claimed the account yet")
        self.status = Status.ACTIVE if self.password_hash else Status.UNCLAIMED

    def set_roles(self, roles: tuple[RoleGrant, ...]) -> None:
        """Replaces an official's roles."""
        if self.kind is not Kind.OFFICIAL:
            raise FailedPrecondition("NOT_AN_OFFICIAL", "only officials hold roles")
        if roles != self.roles:
            self.roles = roles
            self.events.append(RolesChanged())

    def note_use(self, now: datetime) -> None:
        """Somebody signed up with the phone or e-mail of this account."""
        self.events.append(ContactUsed(now))

    def changes_contact(self, *, phone: str, email: str) -> bool:
        """Whether these are other than the account's; empty means that it stays."""
        return phone not in ("", self.phone) or email not in ("", self.email)

    def update_profile(self, *, phone: str, email: str, locale: str, now: datetime) -> None:
        """Changes contact data and language; what is empty stays."""
        before = (self.phone, self.email, self.locale)
        if self.changes_contact(phone=phone, email=email):
            self.events.append(ContactChanged(self.email, self.phone, now))
        self.phone = phone or self.phone
        self.email = email or self.email
        self.locale = locale or self.locale
        if not self.phone_verified:
            self.verified_phone = ""
        if not self.email_verified:
            self.verified_email = ""
        if before != (self.phone, self.email, self.locale):
            self.events.append(ProfileChanged())


def _identifiers(citizen_number: str, tax_code: str, phone: str, email: str) -> tuple[Identifier, ...]:
    values = {
        "citizen_number": citizen_number,
        "tax_code": tax_code,
        "phone": phone,
        "email": email,
    }
    return tuple(Identifier(kind, value) for kind, value in values.items() if value)


def name_rule(kind: Kind) -> Callable[[str], str]:
    """What makes the name of such an account from what somebody typed, or raises Malformed."""
    return organisation_name_of if kind is Kind.ORGANISATION else person_name_of


def registration(
    *,
    kind: Kind | None,
    name: str,
    citizen_number: str,
    tax_code: str,
    phone: str,
    email: str,
    locale: str,
    now: datetime,
    contact_required: bool,
    password: str | None,
    check: FieldCheck | None = None,
) -> Registration:
    """Checks what was given for a new account of a person or an organisation.

    A person is known by the citizen number, an organisation by the tax code. Who registers alone needs
    a phone or an e-mail address; at the counter neither is asked for, nor a password (None). Raises
    InvalidInput naming every wrong field, together with what `check` has noted already.
    """
    check = check or FieldCheck()
    year = now.astimezone(VIETNAM).year
    person = kind is Kind.PERSON
    if kind not in (Kind.PERSON, Kind.ORGANISATION):
        check.wrong("kind", "KIND_NOT_ALLOWED", "a person or an organisation")
    if not person and citizen_number.strip():
        check.wrong("citizen_number", "NOT_FOR_ORGANISATIONS", "an organisation is known by its tax code")
    if person and tax_code.strip():
        check.wrong("tax_code", "NOT_FOR_PERSONS", "a person is known by the citizen number")
    if contact_required and not phone.strip() and not email.strip():
        check.wrong("phone", "CONTACT_REQUIRED", "a phone number or an e-mail address")
    who = Registration(
        kind=kind or Kind.PERSON,
        name=check.read("name", name, name_rule(kind or Kind.PERSON), required=True),
        citizen_number=check.read(
            "citizen_number", citizen_number, lambda text: citizen_number_of(text, year=year), required=person
        ),
        tax_code=check.read(
            "tax_code",
            tax_code,
            lambda text: tax_code_of(text, on=now.astimezone(VIETNAM).date()),
            required=kind is Kind.ORGANISATION,
        ),
        phone=check.read("phone", phone, phone_of),
        email=check.read("email", email, email_of),
        locale=check.read("locale", locale, locale_of) or "vi",
    )
    if password is not None:
        check_password(check, password, identifiers=who.identifiers, name=who.name)
    check.done()
    return who


def contact(*, phone: str, email: str, locale: str) -> tuple[str, str, str]:
    """Checks changed contact data; empty fields stay empty. Raises InvalidInput."""
    check = FieldCheck()
    checked = (
        check.read("phone", phone, phone_of),
        check.read("email", email, email_of),
        check.read("locale", locale, locale_of),
    )
    check.done()
    return checked


def check_new_password(account: Account, *, current: str, new: str) -> None:
    """Checks the password that is to replace the present one. Raises InvalidInput."""
    check = FieldCheck()
    check_password(check, new, identifiers=account.known_by, name=account.name, path="new_password")
    if nfc(new) == nfc(current):
        check.wrong("new_password", "PASSWORD_UNCHANGED", "it is the present password")
    check.done()


def check_reset_password(account: Account, new: str) -> None:
    """Checks the password that is to replace a forgotten one. Raises InvalidInput."""
    check = FieldCheck()
    check_password(check, new, identifiers=account.known_by, name=account.name, path="new_password")
    check.done()


def official_details(
    *, name: str, username: str, phone: str, email: str, password: str
) -> tuple[str, str, str, str]:
    """Checks what was given for an official's account. Raises InvalidInput."""
    check = FieldCheck()
    checked = (
        check.read("name", name, person_name_of, required=True),
        check.read("username", username, username_of, required=True),
        check.read("phone", phone, phone_of),
        check.read("email", email, email_of),
    )
    check_password(check, password, identifiers=[Identifier("username", checked[1])], name=checked[0])
    check.done()
    return checked


def role_grants(given: Sequence[tuple[str, str, str, str]]) -> tuple[RoleGrant, ...]:
    """Checks roles given as (agency, name, first day, last day), the days as ISO dates or empty.

    Answers them without repetitions. Raises InvalidInput.
    """
    check = FieldCheck()
    roles: dict[RoleGrant, None] = {}
    for at, (agency, name, first, last) in enumerate(given):
        path = f"roles[{at}]"
        if name not in ROLE_NAMES:
            check.wrong(f"{path}.name", "ROLE_UNKNOWN", "one of " + ", ".join(ROLE_NAMES))
        valid_from = check.day(f"{path}.valid_from", first)
        valid_to = check.day(f"{path}.valid_to", last)
        if valid_from and valid_to and valid_to < valid_from:
            check.wrong(f"{path}.valid_to", "BEFORE_START", "the last day comes before the first")
        roles[RoleGrant(agency, name, valid_from, valid_to)] = None
    check.done()
    return tuple(roles)
