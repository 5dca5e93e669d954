"""Accounts, sessions, agencies and delegations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from gateway.binding import Info, Part, fill
from gateway.context import Context
from gateway.relay import Page, connect
from gateway.schema.base import connection, mutation, rpc
from kit.clock import now
from kit.errors import FieldViolation, Forbidden, InvalidInput, Unauthenticated
from motcua.identity.v1 import identity_pb2 as pb

part = Part('''
extend type Query {
  """The caller's account; null for a stranger."""
  viewer: Account
  agency(code: String!): Agency
  """Agencies valid on a date (today when absent), by code."""
  agencies(level: AgencyLevel, onDate: Date, first: Int! = 50, after: String): AgencyConnection!
}

"""A person, an organisation or an official. Numbers are masked for those who may not see them."""
type Account implements Node {
  id: ID!
  kind: AccountKind!
  status: AccountStatus!
  name: String!
  citizenNumber: String
  taxCode: String
  phone: String
  email: String
  username: String
  locale: String
  roles: [Role!]!
  representative: Account
  createTime: DateTime
  etag: String
  """Given and received, newest first. The owner's only."""
  delegations(first: Int! = 20, after: String): DelegationConnection!
}

"""What an official does in an agency: reception, examiner, leader, clerk, cashier or admin."""
type Role { agency: Agency! name: String! validFrom: Date validTo: Date }

type Agency implements Node {
  id: ID!
  """Such as `H32.15`."""
  code: String!
  name: String!
  nameEn: String
  level: AgencyLevel
  parent: Agency
  validFrom: Date
  validTo: Date
  """Who took over."""
  successor: Agency
  address: String
  phone: String
  """Whether its counter receives dossiers."""
  reception: Boolean!
  etag: String
}

"""One account may act for another."""
type Delegation {
  id: ID!
  principal: Account
  delegate: Account
  scopes: [DelegationScope!]!
  createTime: DateTime
  expireTime: DateTime
  revokeTime: DateTime
  etag: String
}

"""Where the refresh token goes: into the answer, or into an HttpOnly cookie that scripts cannot read."""
enum TokenDelivery { BODY COOKIE }

"""A signed-in session. Send the access token as `Authorization: Bearer …`; renew it with refreshSession."""
type Session {
  account: Account!
  accessToken: String!
  accessExpireTime: DateTime!
  """Null when it went into the cookie."""
  refreshToken: String
  refreshExpireTime: DateTime!
}

type SignedOut { signedOut: Boolean! }

"""An account opened at the counter, with the code by which its owner claims it."""
type OpenedAccount { account: Account! activationCode: String }

input SignUpInput {
  requestId: String
  kind: AccountKind! = PERSON
  name: String!
  citizenNumber: String
  taxCode: String
  phone: String
  email: String
  password: String!
  locale: String
  """Claims an account that was opened at the counter."""
  activationCode: String
}
input SignInInput {
  requestId: String
  """Citizen number, tax code, phone, e-mail or username."""
  identifier: String!
  password: String!
  delivery: TokenDelivery! = BODY
}
input RefreshSessionInput {
  requestId: String
  """Absent: the one in the cookie, which is then replaced."""
  refreshToken: String
}
input SignOutInput {
  requestId: String
  refreshToken: String
  """Ends every session of the caller."""
  everywhere: Boolean! = false
}
input OpenAccountInput {
  requestId: String
  kind: AccountKind! = PERSON
  name: String!
  citizenNumber: String
  taxCode: String
  phone: String
  email: String
  locale: String
  """The agency whose counter opens it."""
  agency: String!
}
input UpdateProfileInput { requestId: String email: String phone: String locale: String etag: String }
input GrantDelegationInput {
  requestId: String
  """The delegate's citizen number, tax code, phone or e-mail."""
  delegateIdentifier: String!
  scopes: [DelegationScope!]!
  expireTime: DateTime
}
input RevokeDelegationInput { requestId: String delegationId: ID! }
''')
part.enum("AccountKind", pb.AccountKind, "Kinds of accounts.")
part.enum("AccountStatus", pb.AccountStatus, "UNCLAIMED was opened at the counter and has no password yet.")
part.enum("AgencyLevel", pb.AgencyLevel, "Levels of the administration.")
part.enum("DelegationScope", pb.DelegationScope, "What a delegate may do.")
part.type("Account", pb.Account, key="id")
part.type("Agency", pb.Agency, key="code")
part.type("Role", pb.Role)
part.type("Delegation", pb.Delegation, key="id")
connection(part, "Agency")
connection(part, "Delegation")


@dataclass(frozen=True)
class Session:
    """A session as the client gets it."""

    account: pb.Account
    access_token: str
    access_expire_time: Timestamp
    refresh_token: str | None
    refresh_expire_time: Timestamp


@dataclass(frozen=True)
class SignedOut:
    signed_out: bool = True


part.type("Session", Session)
part.type("SignedOut", SignedOut)
part.type("OpenedAccount", pb.OpenAccountResponse)


@part.resolve("Query.viewer")
async def viewer(_root: None, info: Info) -> Any:
    context: Context = info.context
    if context.caller.kind not in ("citizen", "official"):
        return None
    reply = await context.call(context.services.identity.GetAccount, pb.GetAccountRequest())
    context.accounts.prime(reply.account.id, reply.account)
    context.wanted_locale = context.wanted_locale or reply.account.locale
    return reply.account


@part.resolve("Query.agency")
def agency(_root: None, info: Info, code: str) -> Any:
    return info.context.agencies.load(code)


@part.resolve("Query.agencies")
async def agencies(
    _root: None,
    info: Info,
    first: int,
    level: int | None = None,
    on_date: str | None = None,
    after: str | None = None,
) -> Page:
    context: Context = info.context

    async def fetch(size: int, token: str) -> Any:
        request = pb.ListAgenciesRequest(
            level=level or 0, on_date=on_date or "", page_size=size, page_token=token
        )
        reply = await context.call(context.services.identity.ListAgencies, request)
        return reply.agencies, reply.next_page_token, None

    return await connect(first, after, fetch)


@part.resolve("Account.delegations")
async def delegations(account: pb.Account, info: Info, first: int, after: str | None = None) -> Page:
    context: Context = info.context
    own(context, account)

    async def fetch(size: int, token: str) -> Any:
        request = pb.ListDelegationsRequest(page_size=size, page_token=token)
        reply = await context.call(context.services.identity.ListDelegations, request)
        return reply.delegations, reply.next_page_token, None

    return await connect(first, after, fetch)


def own(context: Context, account: pb.Account) -> None:
    """Raises Forbidden unless the account is the caller's: for lists that services answer for the caller only."""
    if account.id != context.caller.subject:
        raise Forbidden("NOT_YOUR_ACCOUNT", "only the owner may list this")


part.resolve("Account.representative")(lambda a, info: info.context.accounts.load(a.representative_id))
part.resolve("Role.agency")(lambda role, info: info.context.agencies.load(role.agency))
part.resolve("Agency.parent")(lambda agency, info: info.context.agencies.load(agency.parent))
part.resolve("Agency.successor")(lambda agency, info: info.context.agencies.load(agency.successor))
part.resolve("Delegation.principal")(lambda d, info: info.context.accounts.load(d.principal_id))
part.resolve("Delegation.delegate")(lambda d, info: info.context.accounts.load(d.delegate_id))


@mutation(
    part,
    "signUp",
    "Account",
    "Registers a person or organisation, or claims an account opened at the counter.",
)
async def sign_up(context: Context, input: Mapping[str, Any]) -> Any:
    request = fill(pb.SignUpRequest(client_address=context.client_address), input)
    if not request.locale:
        request.locale = context.wanted_locale or "vi"
    return (await context.call(context.services.identity.SignUp, request)).account


@mutation(part, "signIn", "Session", "Opens a session.")
async def sign_in(context: Context, input: Mapping[str, Any]) -> Any:
    cookie = input["delivery"] == "COOKIE"
    if cookie and not context.session.possible:
        raise InvalidInput(
            violations=[
                FieldViolation("delivery", "COOKIE_IMPOSSIBLE", "no cookie can be set on this transport")
            ]
        )
    request = pb.SignInRequest(
        identifier=input["identifier"],
        password=input["password"],
        client_address=context.client_address,
        user_agent=context.user_agent[:200],
    )
    reply = await context.call(context.services.identity.SignIn, request)
    return _session(context, reply, cookie=cookie)


@mutation(part, "refreshSession", "Session", "Renews a session; the old refresh token ends.")
async def refresh_session(context: Context, input: Mapping[str, Any]) -> Any:
    given = input.get("refreshToken")
    token = given or context.session.received
    if not token:
        raise Unauthenticated("SIGN_IN_REQUIRED", "no refresh token, neither in the input nor in a cookie")
    request = pb.RefreshSessionRequest(refresh_token=token, client_address=context.client_address)
    try:
        reply = await context.call(context.services.identity.RefreshSession, request)
    except Unauthenticated:
        if not given:
            context.session.set = ("", 0)
        raise
    return _session(context, reply, cookie=not given)


@mutation(part, "signOut", "SignedOut", "Ends the session of the refresh token, or the caller's own.")
async def sign_out(context: Context, input: Mapping[str, Any]) -> Any:
    token = input.get("refreshToken") or context.session.received
    request = pb.SignOutRequest(refresh_token=token, everywhere=input["everywhere"])
    if context.session.received:
        context.session.set = ("", 0)
    await context.call(context.services.identity.SignOut, request)
    return SignedOut()


def _session(context: Context, reply: Any, *, cookie: bool) -> Session:
    tokens = reply.tokens
    if cookie:
        seconds = tokens.refresh_expire_time.seconds - now().timestamp()
        context.session.set = (tokens.refresh_token, seconds)
    context.accounts.prime(reply.account.id, reply.account)
    return Session(
        reply.account,
        tokens.access_token,
        tokens.access_expire_time,
        None if cookie else tokens.refresh_token,
        tokens.refresh_expire_time,
    )


rpc(
    part,
    "openAccount",
    "OpenedAccount",
    "Opens an account for somebody who files for the first time.",
    method=lambda context: context.services.identity.OpenAccount,
    request=pb.OpenAccountRequest,
    answer=lambda reply: reply,
)
rpc(
    part,
    "updateProfile",
    "Account",
    "Changes the caller's contact data and language.",
    method=lambda context: context.services.identity.UpdateProfile,
    request=pb.UpdateProfileRequest,
    answer=lambda reply: reply.account,
)
rpc(
    part,
    "grantDelegation",
    "Delegation",
    "Lets another account act for the caller.",
    method=lambda context: context.services.identity.GrantDelegation,
    request=pb.GrantDelegationRequest,
    answer=lambda reply: reply.delegation,
)
rpc(
    part,
    "revokeDelegation",
    "Delegation",
    "Ends a delegation.",
    method=lambda context: context.services.identity.RevokeDelegation,
    request=pb.RevokeDelegationRequest,
    answer=lambda reply: reply.delegation,
    subject="delegationId",
)
