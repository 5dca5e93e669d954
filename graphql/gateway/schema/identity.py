"""Accounts, sessions, agencies and delegations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any

import strawberry
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.binding import enum, fill, view
from gateway.messages import text
from gateway.relay import connect
from gateway.scalars import Date, DateTime
from gateway.schema.base import Connection, Info, Node, mutation, one, own, plain, resolver, rpc
from gateway.schema.dossier import AccountDossiers
from gateway.schema.notify import AccountNotices
from gateway.schema.payment import AccountPayments
from gateway.schema.vault import AccountVault
from kit.clock import now
from kit.errors import FieldViolation, InvalidInput, Unauthenticated
from motcua.identity.v1 import identity_pb2 as pb

if TYPE_CHECKING:
    from gateway.context import Context


@dataclass(frozen=True)
class OpenSession:
    """A session as the client gets it."""

    account: pb.Account
    access_token: str
    access_expire_time: Timestamp
    refresh_token: str | None
    refresh_expire_time: Timestamp
    device_token: str | None = None


@dataclass(frozen=True)
class Ended:
    """What signOut answers."""

    signed_out: bool = True


@dataclass(frozen=True)
class Asked:
    """What requestPasswordReset answers."""

    requested: bool = True


@strawberry.enum(
    description=(
        "Where the refresh token goes: into the answer, or into an HttpOnly cookie that scripts cannot read."
    )
)
class TokenDelivery(Enum):
    BODY = 0
    COOKIE = 1


@enum(pb.AccountKind, "ACCOUNT_KIND_")
class AccountKind(IntEnum):
    """Kinds of accounts."""

    PERSON = 1
    ORGANISATION = 2
    OFFICIAL = 3


@enum(pb.AccountStatus, "ACCOUNT_STATUS_")
class AccountStatus(IntEnum):
    """UNCLAIMED was opened at the counter and has no password yet."""

    ACTIVE = 1
    UNCLAIMED = 2
    LOCKED = 3


@enum(pb.ProofKind, "PROOF_KIND_")
class ProofKind(IntEnum):
    """How an account was proven. COUNTER: opened by an official who saw the papers. CODE: papers seen at a
    counter, and its code entered by the owner. PROVIDER: stated by an identity provider."""

    COUNTER = 1
    CODE = 2
    PROVIDER = 3
    DEMO = 4


@enum(pb.PaperKind, "PAPER_KIND_")
class PaperKind(IntEnum):
    """Kinds of papers that an official sees. ELECTRONIC_IDENTITY is shown by the citizen's phone;
    AUTHORISATION is the letter by which an organisation sends somebody."""

    CITIZEN_CARD = 1
    ELECTRONIC_IDENTITY = 2
    PASSPORT = 3
    BIRTH_CERTIFICATE = 4
    BUSINESS_REGISTRATION = 5
    ESTABLISHMENT_DECISION = 6
    AUTHORISATION = 7
    OTHER = 8


@enum(pb.AgencyLevel, "AGENCY_LEVEL_")
class AgencyLevel(IntEnum):
    """Levels of the administration."""

    MINISTRY = 1
    PROVINCE = 2
    COMMUNE = 3


@enum(pb.DelegationScope, "DELEGATION_SCOPE_")
class DelegationScope(IntEnum):
    """What a delegate may do."""

    FILE = 1
    READ = 2
    VAULT = 3
    PAY = 4


@enum(pb.DelegationState, "DELEGATION_STATE_")
class DelegationState(IntEnum):
    """REQUESTED waits for the delegate's answer; WITHDRAWN was taken back and LAPSED not answered in time.
    IN_FORCE was accepted; REVOKED was ended by one of the sides and EXPIRED ran out."""

    REQUESTED = 1
    IN_FORCE = 2
    DECLINED = 3
    WITHDRAWN = 4
    LAPSED = 5
    REVOKED = 6
    EXPIRED = 7


@enum(pb.ContactKind, "CONTACT_KIND_")
class ContactKind(IntEnum):
    """Ways to reach the owner of an account, which they can verify."""

    EMAIL = 1
    PHONE = 2


@enum(pb.SecondFactorWay, "SECOND_FACTOR_WAY_")
class SecondFactorWay(IntEnum):
    """How an official shows a second factor. TOTP is a code of an authenticator app, WEBAUTHN a security key
    or passkey."""

    TOTP = 1
    WEBAUTHN = 2
    RECOVERY_CODE = 3


@dataclass(frozen=True)
class MoreAsked:
    """The second factor that a sign-in asks for."""

    challenge: str
    expire_time: Timestamp
    ways: Sequence[int]
    enrol: bool
    device_token: str | None


@view(MoreAsked)
class SecondFactorRequired:
    """The password was right, and a second factor is asked for: bring the challenge to completeSignIn. With
    `enrol` the account must have one and has none: bring it to beginSecondFactor."""

    challenge: str = strawberry.field(
        description="Serves once, from this device, and a few times after wrong tries."
    )
    expire_time: DateTime
    ways: list[SecondFactorWay] = strawberry.field(
        description="How the account can go on; with `enrol` what it can add."
    )
    enrol: bool
    device_token: str | None = strawberry.field(
        description="Bring it along with the challenge. Null when it went into a cookie."
    )


@view(pb.SecondFactor)
class SecondFactor:
    """Something that an official signs in with beside the password."""

    key: str = plain(lambda factor: factor.id, description="For removeSecondFactor.")
    way: SecondFactorWay | None
    name: str | None
    create_time: DateTime | None


@view(pb.ListSecondFactorsResponse)
class SecondFactors:
    """What an official signs in with beside the password."""

    second_factors: list[SecondFactor]
    recovery_codes_left: int
    required: bool = strawberry.field(description="Whether there must be one.")


@view(pb.BeginSecondFactorResponse)
class SecondFactorBeginning:
    """A second factor that is about to be added."""

    challenge: str = strawberry.field(description="For completeSecondFactor.")
    expire_time: DateTime
    secret: str | None = strawberry.field(description="What is typed into the app; shown once.")
    address: str | None = strawberry.field(description="The same as an `otpauth:` address, for a QR code.")


@view(pb.RemoveSecondFactorResponse)
class LeftSecondFactors:
    """The second factors that are left."""

    second_factors: list[SecondFactor]


@view(pb.RenewRecoveryCodesResponse)
class RecoveryCodes:
    """Codes that sign in in place of the second factor, once each. They are shown once."""

    recovery_codes: list[str]


@view(pb.Delegation, key="id")
class Delegation:
    """One account may act for another, from the other's acceptance on. Until then neither learns who the
    other is."""

    id: strawberry.ID
    state: DelegationState | None
    principal: Account | None = one(
        "accounts", "principal_id", description="Null for the delegate as long as it was not accepted."
    )
    delegate: Account | None = one(
        "accounts", "delegate_id", description="Null for the principal as long as it was not accepted."
    )
    principal_hint: str | None = strawberry.field(
        description="The last digits of the principal's number, for the delegate."
    )
    delegate_hint: str | None = strawberry.field(
        description="The end of the identifier that was asked, for the principal."
    )
    accept_time: DateTime | None
    request_expire_time: DateTime | None = strawberry.field(description="When a request lapses.")
    scopes: list[DelegationScope]
    create_time: DateTime | None
    expire_time: DateTime | None
    revoke_time: DateTime | None
    etag: str | None


@view(pb.Account, key="id")
class Account(Node, AccountVault, AccountDossiers, AccountPayments, AccountNotices):
    """A person, an organisation or an official. To all but the owner identifiers are masked; officials see
    them whole by `openAccountRecord`."""

    kind: AccountKind
    status: AccountStatus
    name: str
    citizen_number: str | None
    tax_code: str | None
    phone: str | None
    email: str | None
    username: str | None
    locale: str | None
    roles: list[Role]
    representative: Account | None = one("accounts", "representative_id")
    create_time: DateTime | None
    etag: str | None
    verified: bool = strawberry.field(
        description="Whether somebody proved that the account belongs to whom it names, as for officials. "
        "Others may claim the number of one that is not verified."
    )
    proof: Proof | None = strawberry.field(description="How; null for those who may not know.")
    detach_time: DateTime | None = strawberry.field(
        description="When its number was proven to be somebody else's and taken from it."
    )
    email_verified: bool = strawberry.field(
        description="Whether the owner has shown that the e-mail reaches them. Before that it does not serve "
        "for signing in or a forgotten password. For the owner only."
    )
    phone_verified: bool = strawberry.field(description="The same of the phone.")

    @resolver(Connection[Delegation], description="Given and received, newest first. The owner's only.")
    async def delegations(self: Any, info: Info, first: int = 20, after: str | None = None) -> Any:
        context: Context = info.context
        own(context, self)

        async def fetch(size: int, token: str) -> Any:
            request = pb.ListDelegationsRequest(page_size=size, page_token=token)
            reply = await context.call(context.services.identity.ListDelegations, request)
            return reply.delegations, reply.next_page_token, None

        return await connect(first, after, fetch)


@view(pb.Proof)
class Proof:
    """How an account was proven to belong to whom it names."""

    kind: ProofKind | None
    create_time: DateTime | None
    official: Account | None = one("accounts", "official_id", description="Who saw the papers.")
    agency: Agency | None = one("agencies", "agency", description="Whose counter it was.")
    papers: list[PaperKind]
    issuer: str | None = strawberry.field(description="The identity provider.")


@view(pb.Role)
class Role:
    """What an official does in an agency: reception, examiner, leader, clerk, cashier or admin."""

    agency: Agency = one("agencies", "agency")
    name: str
    valid_from: Date | None
    valid_to: Date | None


@view(pb.Agency, key="code")
class Agency(Node):
    code: str = strawberry.field(description="Such as `H32.15`.")
    name: str
    name_en: str | None
    level: AgencyLevel | None
    parent: Agency | None = one("agencies", "parent")
    valid_from: Date | None
    valid_to: Date | None
    successor: Agency | None = one("agencies", "successor", description="Who took over.")
    address: str | None
    phone: str | None
    reception: bool = strawberry.field(description="Whether its counter receives dossiers.")
    etag: str | None


@view(OpenSession)
class Session:
    """A signed-in session. Send the access token as `Authorization: Bearer …`; renew it with
    refreshSession."""

    account: Account
    access_token: str
    access_expire_time: DateTime
    refresh_token: str | None = strawberry.field(description="Null when it went into the cookie.")
    refresh_expire_time: DateTime
    device_token: str | None = strawberry.field(
        description="What this device sends with its next sign-in, so that the wrong tries of others do not "
        "slow it down. Null when it went into a cookie, and from refreshSession."
    )


@dataclass(frozen=True)
class Added:
    """A second factor that was added, and the session if a sign-in waited for it."""

    second_factor: pb.SecondFactor
    recovery_codes: list[str]
    session: OpenSession | None


@view(Added)
class AddedSecondFactor:
    """A second factor that was added."""

    second_factor: SecondFactor
    recovery_codes: list[str] = strawberry.field(
        description="With the first second factor: they sign in in its place, once each. Shown once."
    )
    session: Session | None = strawberry.field(description="When a sign-in waited for it.")


@view(pb.BeginOidcSignInResponse)
class OidcSignIn:
    """A sign-in with the identity provider that has begun."""

    url: str = strawberry.field(description="Where the browser goes.")
    binding: str = strawberry.field(
        description="Keep it in the browser (`sessionStorage`) and bring it to completeOidcSignIn."
    )
    expire_time: DateTime


@view(Ended)
class SignedOut:
    signed_out: bool


@view(Asked)
class PasswordResetRequested:
    """The same whether or not there is such an account."""

    requested: bool


@view(pb.ResetPasswordResponse)
class PasswordReset:
    """The password is set and all sessions have ended. Sign in with it now, and with the device token:
    however many wrong tries others have made, it succeeds."""

    device_token: str | None = strawberry.field(description="Null when it went into a cookie.")


@dataclass(frozen=True)
class HintText:
    """A hint as people read it."""

    code: str
    message: str


@view(HintText)
class Hint:
    """What an official shall look at twice; it keeps nobody from anything."""

    code: str = strawberry.field(description="Stable, such as `CITIZEN_NUMBER_PLACE`.")
    message: str = strawberry.field(description="For people, in the caller's language.")


def _hints(self: Any, info: Info) -> Any:
    locale = info.context.locale
    return [HintText(code, text(code, locale)) for code in self.hints]


@view(pb.OpenAccountResponse)
class OpenedAccount:
    """An account opened at the counter, with the code by which its owner claims it."""

    account: Account
    activation_code: str | None
    hints: list[Hint] = strawberry.field(resolver=_hints)


@view(pb.ProveAccountResponse)
class AwaitedProof:
    """Papers recorded for an account, with the code by which its owner confirms that it is theirs."""

    account: Account
    activation_code: str | None = strawberry.field(
        description="Null when the account is proven in this name already."
    )
    hints: list[Hint] = strawberry.field(resolver=_hints)


@strawberry.input
class PaperInput:
    kind: PaperKind
    number: str = strawberry.field(
        description="As printed on it: 2 to 40 letters, digits, spaces, dots, dashes or slashes."
    )


@strawberry.input
class SignUpInput:
    request_id: str | None = None
    kind: AccountKind = AccountKind.PERSON
    name: str
    citizen_number: str | None = None
    tax_code: str | None = None
    phone: str | None = None
    email: str | None = None
    password: str
    locale: str | None = None
    activation_code: str | None = strawberry.field(
        default=None, description="Claims an account that was opened at the counter."
    )


@strawberry.input
class SignInInput:
    request_id: str | None = None
    identifier: str = strawberry.field(description="Citizen number, tax code, phone, e-mail or username.")
    password: str
    device_token: str | None = strawberry.field(
        default=None, description="From an earlier sign-in. Absent: the one in the cookie."
    )
    delivery: TokenDelivery = TokenDelivery.BODY


@strawberry.input
class CompleteSignInInput:
    request_id: str | None = None
    challenge: str = strawberry.field(description="From signIn.")
    code: str | None = strawberry.field(default=None, description="Of the authenticator app.")
    recovery_code: str | None = None
    device_token: str | None = strawberry.field(
        default=None, description="From signIn. Absent: the one in the cookie."
    )
    delivery: TokenDelivery = TokenDelivery.BODY


@strawberry.input
class BeginSecondFactorInput:
    request_id: str | None = None
    way: SecondFactorWay
    name: str | None = strawberry.field(default=None, description="What the owner calls it.")
    challenge: str | None = strawberry.field(
        default=None, description="From signIn, when the account must have one. Absent: for the caller."
    )
    current_password: str | None = strawberry.field(
        default=None, description="Needed by a caller who has no second factor yet."
    )
    device_token: str | None = strawberry.field(
        default=None, description="From signIn. Absent: the one in the cookie."
    )


@strawberry.input
class CompleteSecondFactorInput:
    request_id: str | None = None
    challenge: str = strawberry.field(description="From beginSecondFactor.")
    code: str | None = strawberry.field(default=None, description="That the app shows.")
    device_token: str | None = strawberry.field(
        default=None, description="From signIn. Absent: the one in the cookie."
    )
    delivery: TokenDelivery = TokenDelivery.BODY


@strawberry.input
class RemoveSecondFactorInput:
    request_id: str | None = None
    key: str = strawberry.field(description="Of the second factor.")


@strawberry.input
class RenewRecoveryCodesInput:
    request_id: str | None = None


@strawberry.input
class ResetSecondFactorsInput:
    request_id: str | None = None
    account_id: strawberry.ID


@strawberry.input
class BeginOidcSignInInput:
    request_id: str | None = None
    take_over: bool = strawberry.field(
        default=False,
        description="Accounts that somebody registered with the caller's number are not the caller's and "
        "shall lose it.",
    )


@strawberry.input
class CompleteOidcSignInInput:
    request_id: str | None = None
    code: str = strawberry.field(description="From the address to which the provider sent the browser.")
    state: str
    iss: str | None = strawberry.field(default=None, description="From that address, when it is there.")
    binding: str = strawberry.field(description="What beginOidcSignIn answered in this browser.")
    delivery: TokenDelivery = TokenDelivery.BODY


@strawberry.input
class RefreshSessionInput:
    request_id: str | None = None
    refresh_token: str | None = strawberry.field(
        default=None, description="Absent: the one in the cookie, which is then replaced."
    )


@strawberry.input
class SignOutInput:
    request_id: str | None = None
    refresh_token: str | None = None
    everywhere: bool = strawberry.field(default=False, description="Ends every session of the caller.")


@strawberry.input
class OpenAccountInput:
    request_id: str | None = None
    kind: AccountKind = AccountKind.PERSON
    name: str
    citizen_number: str | None = None
    tax_code: str | None = None
    phone: str | None = None
    email: str | None = None
    locale: str | None = None
    agency: str = strawberry.field(description="The agency whose counter opens it.")
    papers: list[PaperInput] = strawberry.field(description="What the official saw; at least one.")
    take_over: bool = strawberry.field(
        default=False,
        description="Takes the number from the accounts that have it so far and opens a new one. Where such "
        "an account is proven, the official must also be an admin of the agency.",
    )


@strawberry.input
class ProveAccountInput:
    request_id: str | None = None
    account_id: strawberry.ID
    name: str = strawberry.field(description="As on the papers; replaces what the owner had typed.")
    number: str = strawberry.field(
        description="As on the papers: a person's citizen number, an organisation's tax code."
    )
    papers: list[PaperInput] = strawberry.field(description="What the official saw; at least one.")
    agency: str = strawberry.field(description="The agency of the counter.")


@strawberry.input
class ConfirmIdentityInput:
    request_id: str | None = None
    activation_code: str = strawberry.field(description="From the counter.")


@strawberry.input
class UpdateProfileInput:
    request_id: str | None = None
    email: str | None = None
    phone: str | None = None
    locale: str | None = None
    etag: str | None = None
    current_password: str | None = strawberry.field(
        default=None, description="Needed for another e-mail or phone, whose old ones are told."
    )


@strawberry.input
class ChangePasswordInput:
    request_id: str | None = None
    current_password: str
    new_password: str


@strawberry.input
class RequestPasswordResetInput:
    request_id: str | None = None
    identifier: str = strawberry.field(
        description="Citizen number, tax code or username, or a verified phone or e-mail."
    )


@strawberry.input
class ResetPasswordInput:
    request_id: str | None = None
    token: str = strawberry.field(description="From the link: what follows `#`.")
    new_password: str
    delivery: TokenDelivery = strawberry.field(
        default=TokenDelivery.BODY, description="Where the device token goes."
    )


@strawberry.input
class RequestContactVerificationInput:
    request_id: str | None = None
    contact: ContactKind


@strawberry.input
class VerifyContactInput:
    request_id: str | None = None
    contact: ContactKind
    secret: str = strawberry.field(
        description="From the link in the mail (what follows `#`), or the digits sent to the phone."
    )


@strawberry.input
class SetAccountStatusInput:
    request_id: str | None = None
    account_id: strawberry.ID
    status: AccountStatus = strawberry.field(description="LOCKED, or ACTIVE to unlock.")
    etag: str | None = None


@strawberry.input
class GrantDelegationInput:
    request_id: str | None = None
    delegate_identifier: str = strawberry.field(
        description="The delegate's citizen number, tax code, phone or e-mail."
    )
    scopes: list[DelegationScope]
    expire_time: DateTime | None = None


@strawberry.input
class RevokeDelegationInput:
    request_id: str | None = None
    delegation_id: strawberry.ID


@strawberry.input
class AcceptDelegationInput:
    request_id: str | None = None
    delegation_id: strawberry.ID


@strawberry.input
class DeclineDelegationInput:
    request_id: str | None = None
    delegation_id: strawberry.ID


@strawberry.type
class IdentityQuery:
    """Queries of accounts and agencies."""

    @resolver(Account | None, description="The caller's account; null for a stranger.")
    async def viewer(self, info: Info) -> Any:
        context: Context = info.context
        if context.caller.kind not in ("citizen", "official"):
            return None
        reply = await context.call(context.services.identity.GetAccount, pb.GetAccountRequest())
        context.accounts.prime(reply.account.id, reply.account)
        context.wanted_locale = context.wanted_locale or reply.account.locale
        return reply.account

    @resolver(
        SecondFactors | None,
        description="What the caller, an official, signs in with beside the password; null for others.",
    )
    async def second_factors(self, info: Info) -> Any:
        context: Context = info.context
        if context.caller.kind != "official":
            return None
        return await context.call(context.services.identity.ListSecondFactors, pb.ListSecondFactorsRequest())

    @resolver(Agency | None)
    def agency(self, info: Info, code: str) -> Any:
        return info.context.agencies.load(code)

    @resolver(Connection[Agency], description="Agencies valid on a date (today when absent), by code.")
    async def agencies(
        self,
        info: Info,
        level: AgencyLevel | None = None,
        on_date: Date | None = None,
        first: int = 50,
        after: str | None = None,
    ) -> Any:
        context: Context = info.context

        async def fetch(size: int, token: str) -> Any:
            request = pb.ListAgenciesRequest(
                level=level or 0,  # type: ignore[arg-type]
                on_date=on_date or "",
                page_size=size,
                page_token=token,
            )
            reply = await context.call(context.services.identity.ListAgencies, request)
            return reply.agencies, reply.next_page_token, None

        return await connect(first, after, fetch)


def _cookie_possible(context: Context, field: str) -> None:
    """Raises InvalidInput of the field on a transport whose answers have no headers: sockets and streams."""
    if not context.session.possible:
        raise InvalidInput(
            violations=[FieldViolation(field, "COOKIE_IMPOSSIBLE", "no cookie can be set on this transport")]
        )


def _session(context: Context, reply: Any, *, cookie: bool) -> OpenSession:
    tokens = reply.tokens
    if cookie:
        seconds = tokens.refresh_expire_time.seconds - now().timestamp()
        context.session.set = (tokens.refresh_token, seconds)
    context.accounts.prime(reply.account.id, reply.account)
    return OpenSession(
        reply.account,
        tokens.access_token,
        tokens.access_expire_time,
        None if cookie else tokens.refresh_token,
        tokens.refresh_expire_time,
    )


def _session_on_device(context: Context, reply: Any, *, cookie: bool) -> OpenSession:
    """The session of a reply, which also makes the device a known one."""
    if cookie:
        context.session.known = reply.device_token
    device = None if cookie else reply.device_token
    return replace(_session(context, reply, cookie=cookie), device_token=device)


@strawberry.type
class IdentityMutation:
    """Mutations of accounts and sessions."""

    @mutation(Account, "Registers a person or organisation, or claims an account opened at the counter.")
    async def sign_up(self, info: Info, input: SignUpInput) -> Any:
        context: Context = info.context
        request = fill(pb.SignUpRequest(client_address=context.client_address), input)
        if not request.locale:
            request.locale = context.wanted_locale or "vi"
        return (await context.call(context.services.identity.SignUp, request)).account

    @mutation(
        (Session, SecondFactorRequired),
        "Opens a session, or asks for a second factor where the account has one or must have one.",
    )
    async def sign_in(self, info: Info, input: SignInInput) -> Any:
        context: Context = info.context
        cookie = input.delivery is TokenDelivery.COOKIE
        if cookie:
            _cookie_possible(context, "delivery")
        request = pb.SignInRequest(
            identifier=input.identifier,
            password=input.password,
            client_address=context.client_address,
            user_agent=context.user_agent[:200],
            device_token=input.device_token or context.session.device,
        )
        reply = await context.call(context.services.identity.SignIn, request)
        if reply.HasField("second_factor"):
            if cookie:
                context.session.known = reply.device_token
            asked = reply.second_factor
            device = None if cookie else reply.device_token
            return MoreAsked(asked.challenge, asked.expire_time, asked.ways, asked.enrol, device)
        return _session_on_device(context, reply, cookie=cookie)

    @mutation(Session, "Completes a sign-in with a second factor.")
    async def complete_sign_in(self, info: Info, input: CompleteSignInInput) -> Any:
        context: Context = info.context
        cookie = input.delivery is TokenDelivery.COOKIE
        if cookie:
            _cookie_possible(context, "delivery")
        request = pb.CompleteSignInRequest(
            challenge=input.challenge,
            code=input.code or "",
            recovery_code=input.recovery_code or "",
            client_address=context.client_address,
            user_agent=context.user_agent[:200],
            device_token=input.device_token or context.session.device,
        )
        reply = await context.call(context.services.identity.CompleteSignIn, request)
        return _session_on_device(context, reply, cookie=cookie)

    @mutation(
        SecondFactorBeginning,
        "Begins to add a second factor. A caller who has one must have signed in with it in the last ten "
        "minutes.",
    )
    async def begin_second_factor(self, info: Info, input: BeginSecondFactorInput) -> Any:
        context: Context = info.context
        request = fill(pb.BeginSecondFactorRequest(device_token=context.session.device), input)
        return await context.call(context.services.identity.BeginSecondFactor, request)

    @mutation(
        AddedSecondFactor,
        "Adds the second factor that was begun. The first one ends all other sessions; a new authenticator "
        "app replaces the one before.",
    )
    async def complete_second_factor(self, info: Info, input: CompleteSecondFactorInput) -> Any:
        context: Context = info.context
        cookie = input.delivery is TokenDelivery.COOKIE
        if cookie:
            _cookie_possible(context, "delivery")
        request = pb.CompleteSecondFactorRequest(
            challenge=input.challenge,
            code=input.code or "",
            client_address=context.client_address,
            user_agent=context.user_agent[:200],
            device_token=input.device_token or context.session.device,
        )
        reply = await context.call(context.services.identity.CompleteSecondFactor, request)
        opened = _session_on_device(context, reply, cookie=cookie) if reply.HasField("tokens") else None
        return Added(reply.second_factor, reply.recovery_codes, opened)

    remove_second_factor = rpc(
        "identity",
        pb.RemoveSecondFactorRequest,
        RemoveSecondFactorInput,
        LeftSecondFactors,
        "Removes a second factor of the caller, who signed in with one in the last ten minutes.",
        subject="key",
    )
    renew_recovery_codes = rpc(
        "identity",
        pb.RenewRecoveryCodesRequest,
        RenewRecoveryCodesInput,
        RecoveryCodes,
        "New recovery codes in place of all old ones, for a caller who signed in with a second factor in the "
        "last ten minutes.",
    )
    reset_second_factors = rpc(
        "identity",
        pb.ResetSecondFactorsRequest,
        ResetSecondFactorsInput,
        Account,
        "Takes all second factors of an official away, who lost them, and ends the sessions: for admins of "
        "their agencies.",
        answer="account",
    )

    @mutation(
        OidcSignIn,
        "Begins to sign in with the identity provider; signed in, to link one's account with it. Somebody "
        "whom the provider has proven is verified.",
    )
    async def begin_oidc_sign_in(self, info: Info, input: BeginOidcSignInInput) -> Any:
        context: Context = info.context
        request = fill(pb.BeginOidcSignInRequest(client_address=context.client_address), input)
        return await context.call(context.services.identity.BeginOidcSignIn, request)

    @mutation(Session, "Opens a session for whoever the identity provider states.")
    async def complete_oidc_sign_in(self, info: Info, input: CompleteOidcSignInInput) -> Any:
        context: Context = info.context
        cookie = input.delivery is TokenDelivery.COOKIE
        if cookie:
            _cookie_possible(context, "delivery")
        request = pb.CompleteOidcSignInRequest(
            code=input.code,
            state=input.state,
            iss=input.iss or "",
            binding=input.binding,
            client_address=context.client_address,
            user_agent=context.user_agent[:200],
        )
        reply = await context.call(context.services.identity.CompleteOidcSignIn, request)
        return _session(context, reply, cookie=cookie)

    @mutation(Session, "Renews a session; the old refresh token ends.")
    async def refresh_session(self, info: Info, input: RefreshSessionInput) -> Any:
        context: Context = info.context
        token = input.refresh_token or context.session.received
        if not token:
            raise Unauthenticated(
                "SIGN_IN_REQUIRED", "no refresh token, neither in the input nor in a cookie"
            )
        if not input.refresh_token:
            _cookie_possible(context, "refreshToken")  # else the new token is lost, and the session with it
        request = pb.RefreshSessionRequest(refresh_token=token, client_address=context.client_address)
        try:
            reply = await context.call(context.services.identity.RefreshSession, request)
        except Unauthenticated:
            if not input.refresh_token:
                context.session.set = ("", 0)
            raise
        return _session(context, reply, cookie=not input.refresh_token)

    @mutation(SignedOut, "Ends the session of the refresh token, or the caller's own.")
    async def sign_out(self, info: Info, input: SignOutInput) -> Any:
        context: Context = info.context
        token = input.refresh_token or context.session.received
        request = pb.SignOutRequest(refresh_token=token, everywhere=input.everywhere)
        if context.session.received:
            context.session.set = ("", 0)
        await context.call(context.services.identity.SignOut, request)
        return Ended()

    open_account = rpc(
        "identity",
        pb.OpenAccountRequest,
        OpenAccountInput,
        OpenedAccount,
        "Opens an account for somebody whose papers the official saw. Another account with the number is a "
        "Conflict: prove that one, or take the number over.",
    )
    prove_account = rpc(
        "identity",
        pb.ProveAccountRequest,
        ProveAccountInput,
        AwaitedProof,
        "Records papers seen for an account in use. The proof holds once its owner enters the code.",
    )
    confirm_identity = rpc(
        "identity",
        pb.ConfirmIdentityRequest,
        ConfirmIdentityInput,
        Account,
        "Enters the code from the counter. Refresh the session then: its tokens tell who is verified.",
        answer="account",
    )
    update_profile = rpc(
        "identity",
        pb.UpdateProfileRequest,
        UpdateProfileInput,
        Account,
        "Changes the caller's contact data and language.",
        answer="account",
    )
    change_password = rpc(
        "identity",
        pb.ChangePasswordRequest,
        ChangePasswordInput,
        Account,
        "Replaces the caller's password and ends all their other sessions.",
        answer="account",
    )

    @mutation(
        PasswordResetRequested,
        "Has a link sent to the verified e-mail or phone of the account, with which its owner sets a new "
        "password.",
    )
    async def request_password_reset(self, info: Info, input: RequestPasswordResetInput) -> Any:
        context: Context = info.context
        request = pb.RequestPasswordResetRequest(
            identifier=input.identifier, client_address=context.client_address
        )
        await context.call(context.services.identity.RequestPasswordReset, request)
        return Asked()

    @mutation(PasswordReset, "Sets a new password with the link, once, and ends all sessions. Sign in then.")
    async def reset_password(self, info: Info, input: ResetPasswordInput) -> Any:
        context: Context = info.context
        cookie = input.delivery is TokenDelivery.COOKIE
        if cookie:
            _cookie_possible(context, "delivery")
        request = pb.ResetPasswordRequest(
            token=input.token, new_password=input.new_password, client_address=context.client_address
        )
        reply = await context.call(context.services.identity.ResetPassword, request)
        if not cookie:
            return reply
        context.session.known = reply.device_token
        return pb.ResetPasswordResponse()

    request_contact_verification = rpc(
        "identity",
        pb.RequestContactVerificationRequest,
        RequestContactVerificationInput,
        Account,
        "Has a link sent to the caller's e-mail, or a code to their phone, that verifies it. At sign-up and "
        "after a change that happens by itself.",
        answer="account",
    )
    verify_contact = rpc(
        "identity",
        pb.VerifyContactRequest,
        VerifyContactInput,
        Account,
        "Verifies the caller's e-mail or phone by what was sent there: from then on it serves for signing in "
        "and for a forgotten password.",
        answer="account",
    )
    set_account_status = rpc(
        "identity",
        pb.SetAccountStatusRequest,
        SetAccountStatusInput,
        Account,
        "Locks an account, which ends its sessions, or unlocks it: for admins of its agency or one above.",
        answer="account",
    )
    grant_delegation = rpc(
        "identity",
        pb.GrantDelegationRequest,
        GrantDelegationInput,
        Delegation,
        "Asks another account to act for the caller; begins when it accepts. The answer does not tell "
        "whether anybody has the identifier.",
        answer="delegation",
    )
    accept_delegation = rpc(
        "identity",
        pb.AcceptDelegationRequest,
        AcceptDelegationInput,
        Delegation,
        "Agrees to act for whoever asked.",
        answer="delegation",
        subject="delegation_id",
    )
    decline_delegation = rpc(
        "identity",
        pb.DeclineDelegationRequest,
        DeclineDelegationInput,
        Delegation,
        "Declines to act for whoever asked.",
        answer="delegation",
        subject="delegation_id",
    )
    revoke_delegation = rpc(
        "identity",
        pb.RevokeDelegationRequest,
        RevokeDelegationInput,
        Delegation,
        "Ends a delegation, by either side, or takes a request back.",
        answer="delegation",
        subject="delegation_id",
    )
