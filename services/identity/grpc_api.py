"""The gRPC API of identity: messages in, use cases, messages out."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.message import Message

from identity.domain.accounts import Account
from identity.domain.delegations import Delegation
from identity.domain.identifiers import hints_on
from identity.handlers import (
    accounts,
    agencies,
    delegations,
    oidc,
    proving,
    recovery,
    second_factor,
    sessions,
)
from identity.handlers.ports import Ports
from identity.handlers.sessions import Challenged, SignedIn
from identity.messages import (
    account_message,
    agency_message,
    contact_of,
    delegation_message,
    instant,
    kind_of,
    level_of,
    papers_of,
    purpose_of,
    scope_of,
    status_of,
    timestamp,
    way_message,
    way_of,
)
from kit.errors import FieldViolation, InvalidInput
from kit.grpc_server import current_caller
from kit.mongo import Request
from kit.sessions import digest
from motcua.identity.v1 import identity_pb2 as pb
from motcua.identity.v1 import identity_pb2_grpc as grpc_pb

_SECRETS = ("password", "current_password", "new_password", "activation_code", "client_address")


class IdentityApi(grpc_pb.IdentityServiceServicer):
    """Answers `motcua.identity.v1.IdentityService`."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def SignUp(self, request: pb.SignUpRequest, context: Any) -> pb.SignUpResponse:
        account = await accounts.sign_up(
            self._ports,
            current_caller(),
            kind=kind_of(request.kind),
            name=request.name,
            citizen_number=request.citizen_number,
            tax_code=request.tax_code,
            phone=request.phone,
            email=request.email,
            password=request.password,
            locale=request.locale,
            activation_code=request.activation_code,
            client_address=request.client_address,
            request=_repeatable(request),
        )
        return pb.SignUpResponse(account=account_message(account))

    async def SignIn(self, request: pb.SignInRequest, context: Any) -> pb.SignInResponse:
        signed_in = await sessions.sign_in(
            self._ports,
            current_caller(),
            identifier=request.identifier,
            password=request.password,
            client_address=request.client_address,
            user_agent=request.user_agent,
            device_token=request.device_token,
        )
        if isinstance(signed_in, Challenged):
            return pb.SignInResponse(
                second_factor=pb.SecondFactorRequired(
                    challenge=signed_in.challenge,
                    expire_time=timestamp(signed_in.expires),
                    ways=map(way_message, signed_in.ways),
                    enrol=signed_in.enrol,
                ),
                device_token=signed_in.device_token,
            )
        return pb.SignInResponse(
            tokens=_tokens(signed_in),
            account=account_message(signed_in.account),
            device_token=signed_in.device_token,
        )

    async def CompleteSignIn(
        self, request: pb.CompleteSignInRequest, context: Any
    ) -> pb.CompleteSignInResponse:
        signed_in = await second_factor.complete_sign_in(
            self._ports,
            current_caller(),
            challenge=request.challenge,
            code=request.code,
            recovery_code=request.recovery_code,
            client_address=request.client_address,
            user_agent=request.user_agent,
            device_token=request.device_token,
        )
        return pb.CompleteSignInResponse(
            tokens=_tokens(signed_in),
            account=account_message(signed_in.account),
            device_token=signed_in.device_token,
        )

    async def BeginSecondFactor(
        self, request: pb.BeginSecondFactorRequest, context: Any
    ) -> pb.BeginSecondFactorResponse:
        begun = await second_factor.begin_second_factor(
            self._ports,
            current_caller(),
            way=way_of(request.way),
            name=request.name,
            challenge=request.challenge,
            current_password=request.current_password,
            device_token=request.device_token,
        )
        return pb.BeginSecondFactorResponse(
            challenge=begun.challenge,
            expire_time=timestamp(begun.expires),
            secret=begun.secret,
            address=begun.address,
        )

    async def CompleteSecondFactor(
        self, request: pb.CompleteSecondFactorRequest, context: Any
    ) -> pb.CompleteSecondFactorResponse:
        added = await second_factor.complete_second_factor(
            self._ports,
            current_caller(),
            challenge=request.challenge,
            code=request.code,
            client_address=request.client_address,
            user_agent=request.user_agent,
            device_token=request.device_token,
        )
        return pb.CompleteSecondFactorResponse(
            second_factor=_factor(added.factor),
            recovery_codes=added.recovery_codes,
            tokens=_tokens(added.signed_in) if added.signed_in else None,
            account=account_message(added.account),
            device_token=added.signed_in.device_token if added.signed_in else "",
        )

    async def ListSecondFactors(
        self, request: pb.ListSecondFactorsRequest, context: Any
    ) -> pb.ListSecondFactorsResponse:
        found, left, required = await second_factor.list_second_factors(self._ports, current_caller())
        return pb.ListSecondFactorsResponse(
            second_factors=map(_factor, found), recovery_codes_left=left, required=required
        )

    async def RemoveSecondFactor(
        self, request: pb.RemoveSecondFactorRequest, context: Any
    ) -> pb.RemoveSecondFactorResponse:
        left = await second_factor.remove_second_factor(self._ports, current_caller(), id=request.id)
        return pb.RemoveSecondFactorResponse(second_factors=map(_factor, left))

    async def RenewRecoveryCodes(
        self, request: pb.RenewRecoveryCodesRequest, context: Any
    ) -> pb.RenewRecoveryCodesResponse:
        codes = await second_factor.renew_recovery_codes(self._ports, current_caller())
        return pb.RenewRecoveryCodesResponse(recovery_codes=codes)

    async def ResetSecondFactors(
        self, request: pb.ResetSecondFactorsRequest, context: Any
    ) -> pb.ResetSecondFactorsResponse:
        account = await second_factor.reset_second_factors(
            self._ports, current_caller(), account_id=request.account_id, request=_repeatable(request)
        )
        return pb.ResetSecondFactorsResponse(account=_seen(account))

    async def BeginOidcSignIn(
        self, request: pb.BeginOidcSignInRequest, context: Any
    ) -> pb.BeginOidcSignInResponse:
        begun = await oidc.begin_oidc_sign_in(
            self._ports,
            current_caller(),
            take_over=request.take_over,
            client_address=request.client_address,
        )
        return pb.BeginOidcSignInResponse(
            url=begun.url, binding=begun.binding, expire_time=timestamp(begun.expires)
        )

    async def CompleteOidcSignIn(
        self, request: pb.CompleteOidcSignInRequest, context: Any
    ) -> pb.CompleteOidcSignInResponse:
        signed_in = await oidc.complete_oidc_sign_in(
            self._ports,
            current_caller(),
            code=request.code,
            state=request.state,
            issuer=request.iss,
            binding=request.binding,
            user_agent=request.user_agent,
        )
        return pb.CompleteOidcSignInResponse(
            tokens=_tokens(signed_in), account=account_message(signed_in.account)
        )

    async def RefreshSession(
        self, request: pb.RefreshSessionRequest, context: Any
    ) -> pb.RefreshSessionResponse:
        signed_in = await sessions.refresh_session(
            self._ports, current_caller(), refresh_token=request.refresh_token
        )
        return pb.RefreshSessionResponse(
            tokens=_tokens(signed_in), account=account_message(signed_in.account)
        )

    async def SignOut(self, request: pb.SignOutRequest, context: Any) -> pb.SignOutResponse:
        await sessions.sign_out(
            self._ports,
            current_caller(),
            refresh_token=request.refresh_token,
            everywhere=request.everywhere,
        )
        return pb.SignOutResponse()

    async def ListEndedSessions(
        self, request: pb.ListEndedSessionsRequest, context: Any
    ) -> pb.ListEndedSessionsResponse:
        ended = await sessions.list_ended_sessions(self._ports, current_caller())
        return pb.ListEndedSessionsResponse(
            sessions=[
                pb.EndedSession(
                    session_digest=digest(one.session),
                    account_digest=digest(one.account),
                    epoch=one.epoch,
                    kept_session_digest=digest(one.kept),
                    end_time=timestamp(one.at),
                )
                for one in ended
            ]
        )

    async def GetJwks(self, request: pb.GetJwksRequest, context: Any) -> pb.GetJwksResponse:
        return pb.GetJwksResponse(jwks=json.dumps(await sessions.get_jwks(self._ports, current_caller())))

    async def IssueServiceToken(
        self, request: pb.IssueServiceTokenRequest, context: Any
    ) -> pb.IssueServiceTokenResponse:
        token, expires = await sessions.issue_service_token(
            self._ports, current_caller(), service=request.service, secret=request.secret
        )
        return pb.IssueServiceTokenResponse(access_token=token, expire_time=timestamp(expires))

    async def OpenAccount(self, request: pb.OpenAccountRequest, context: Any) -> pb.OpenAccountResponse:
        account, code = await proving.open_account(
            self._ports,
            current_caller(),
            kind=kind_of(request.kind),
            name=request.name,
            citizen_number=request.citizen_number,
            tax_code=request.tax_code,
            phone=request.phone,
            email=request.email,
            locale=request.locale,
            agency=request.agency,
            papers=papers_of(request.papers),
            take_over=request.take_over,
        )
        return pb.OpenAccountResponse(
            account=_seen(account), activation_code=code, hints=hints_on(account.number_text)
        )

    async def ProveAccount(self, request: pb.ProveAccountRequest, context: Any) -> pb.ProveAccountResponse:
        account, code = await proving.prove_account(
            self._ports,
            current_caller(),
            account_id=request.account_id,
            name=request.name,
            number=request.number,
            papers=papers_of(request.papers),
            agency=request.agency,
        )
        return pb.ProveAccountResponse(
            account=_seen(account), activation_code=code, hints=hints_on(account.number_text)
        )

    async def ConfirmIdentity(
        self, request: pb.ConfirmIdentityRequest, context: Any
    ) -> pb.ConfirmIdentityResponse:
        account = await proving.confirm_identity(
            self._ports, current_caller(), code=request.activation_code, request=_repeatable(request)
        )
        return pb.ConfirmIdentityResponse(account=_seen(account))

    async def CreateOfficial(
        self, request: pb.CreateOfficialRequest, context: Any
    ) -> pb.CreateOfficialResponse:
        account = await accounts.create_official(
            self._ports,
            current_caller(),
            name=request.name,
            username=request.username,
            email=request.email,
            phone=request.phone,
            password=request.password,
            roles=[(role.agency, role.name, role.valid_from, role.valid_to) for role in request.roles],
            request=_repeatable(request),
        )
        return pb.CreateOfficialResponse(account=_seen(account))

    async def SetRoles(self, request: pb.SetRolesRequest, context: Any) -> pb.SetRolesResponse:
        account = await accounts.set_roles(
            self._ports,
            current_caller(),
            account_id=request.account_id,
            roles=[(role.agency, role.name, role.valid_from, role.valid_to) for role in request.roles],
            etag=request.etag,
            request=_repeatable(request),
        )
        return pb.SetRolesResponse(account=_seen(account))

    async def UpdateProfile(self, request: pb.UpdateProfileRequest, context: Any) -> pb.UpdateProfileResponse:
        account = await accounts.update_profile(
            self._ports,
            current_caller(),
            email=request.email,
            phone=request.phone,
            locale=request.locale,
            etag=request.etag,
            request=_repeatable(request),
            current_password=request.current_password,
        )
        return pb.UpdateProfileResponse(account=_seen(account))

    async def ChangePassword(
        self, request: pb.ChangePasswordRequest, context: Any
    ) -> pb.ChangePasswordResponse:
        account = await sessions.change_password(
            self._ports,
            current_caller(),
            current=request.current_password,
            new=request.new_password,
            request=_repeatable(request),
        )
        return pb.ChangePasswordResponse(account=_seen(account))

    async def RequestPasswordReset(
        self, request: pb.RequestPasswordResetRequest, context: Any
    ) -> pb.RequestPasswordResetResponse:
        await recovery.request_password_reset(
            self._ports,
            current_caller(),
            identifier=request.identifier,
            client_address=request.client_address,
        )
        return pb.RequestPasswordResetResponse()

    async def ResetPassword(self, request: pb.ResetPasswordRequest, context: Any) -> pb.ResetPasswordResponse:
        _, device_token = await recovery.reset_password(
            self._ports,
            current_caller(),
            token=request.token,
            new_password=request.new_password,
            client_address=request.client_address,
        )
        return pb.ResetPasswordResponse(device_token=device_token)

    async def RequestContactVerification(
        self, request: pb.RequestContactVerificationRequest, context: Any
    ) -> pb.RequestContactVerificationResponse:
        account = await recovery.request_contact_verification(
            self._ports, current_caller(), contact=contact_of(request.contact)
        )
        return pb.RequestContactVerificationResponse(account=_seen(account))

    async def VerifyContact(self, request: pb.VerifyContactRequest, context: Any) -> pb.VerifyContactResponse:
        account = await recovery.verify_contact(
            self._ports, current_caller(), contact=contact_of(request.contact), secret=request.secret
        )
        return pb.VerifyContactResponse(account=_seen(account))

    async def IssueOneTimeSecret(
        self, request: pb.IssueOneTimeSecretRequest, context: Any
    ) -> pb.IssueOneTimeSecretResponse:
        issued = await recovery.issue_one_time_secret(
            self._ports,
            current_caller(),
            account_id=request.account_id,
            purpose=purpose_of(request.purpose),
            contact=contact_of(request.contact),
        )
        return pb.IssueOneTimeSecretResponse(
            address=issued.address, secret=issued.secret, expire_time=timestamp(issued.expires)
        )

    async def SetAccountStatus(
        self, request: pb.SetAccountStatusRequest, context: Any
    ) -> pb.SetAccountStatusResponse:
        account = await accounts.set_account_status(
            self._ports,
            current_caller(),
            account_id=request.account_id,
            status=status_of(request.status),
            etag=request.etag,
            request=_repeatable(request),
        )
        return pb.SetAccountStatusResponse(account=_seen(account))

    async def GetAccount(self, request: pb.GetAccountRequest, context: Any) -> pb.GetAccountResponse:
        account = await accounts.get_account(self._ports, current_caller(), account_id=request.id)
        return pb.GetAccountResponse(account=_seen(account))

    async def BatchGetAccounts(
        self, request: pb.BatchGetAccountsRequest, context: Any
    ) -> pb.BatchGetAccountsResponse:
        found = await accounts.batch_get_accounts(self._ports, current_caller(), ids=request.ids)
        return pb.BatchGetAccountsResponse(accounts=map(_seen, found))

    async def FindAccount(self, request: pb.FindAccountRequest, context: Any) -> pb.FindAccountResponse:
        account = await accounts.find_account(self._ports, current_caller(), identifier=request.identifier)
        return pb.FindAccountResponse(account=_seen(account))

    async def PutAgency(self, request: pb.PutAgencyRequest, context: Any) -> pb.PutAgencyResponse:
        given = request.agency
        agency = await agencies.put_agency(
            self._ports,
            current_caller(),
            code=given.code,
            name=given.name,
            name_en=given.name_en,
            level=level_of(given.level),
            parent=given.parent,
            valid_from=given.valid_from,
            valid_to=given.valid_to,
            successor=given.successor,
            address=given.address,
            phone=given.phone,
            reception=given.reception,
            etag=given.etag,
            request=_repeatable(request),
        )
        return pb.PutAgencyResponse(agency=agency_message(agency))

    async def BatchGetAgencies(
        self, request: pb.BatchGetAgenciesRequest, context: Any
    ) -> pb.BatchGetAgenciesResponse:
        found = await agencies.batch_get_agencies(self._ports, current_caller(), codes=request.codes)
        return pb.BatchGetAgenciesResponse(agencies=map(agency_message, found))

    async def ListAgencies(self, request: pb.ListAgenciesRequest, context: Any) -> pb.ListAgenciesResponse:
        page = await agencies.list_agencies(
            self._ports,
            current_caller(),
            level=level_of(request.level),
            on_date=request.on_date,
            size=request.page_size,
            token=request.page_token,
        )
        return pb.ListAgenciesResponse(
            agencies=map(agency_message, page.items), next_page_token=page.next_token
        )

    async def GrantDelegation(
        self, request: pb.GrantDelegationRequest, context: Any
    ) -> pb.GrantDelegationResponse:
        scopes = [scope_of(scope) for scope in request.scopes]
        if None in scopes:
            raise InvalidInput(violations=[FieldViolation("scopes", "SCOPE_UNKNOWN")])
        delegation = await delegations.grant_delegation(
            self._ports,
            current_caller(),
            delegate_identifier=request.delegate_identifier,
            scopes=[scope for scope in scopes if scope is not None],
            until=instant(request.expire_time) if request.HasField("expire_time") else None,
            request=_repeatable(request),
        )
        return pb.GrantDelegationResponse(delegation=self._shown(delegation))

    async def AcceptDelegation(
        self, request: pb.AcceptDelegationRequest, context: Any
    ) -> pb.AcceptDelegationResponse:
        delegation = await delegations.accept_delegation(
            self._ports, current_caller(), delegation_id=request.id
        )
        return pb.AcceptDelegationResponse(delegation=self._shown(delegation))

    async def DeclineDelegation(
        self, request: pb.DeclineDelegationRequest, context: Any
    ) -> pb.DeclineDelegationResponse:
        delegation = await delegations.decline_delegation(
            self._ports, current_caller(), delegation_id=request.id
        )
        return pb.DeclineDelegationResponse(delegation=self._shown(delegation))

    async def RevokeDelegation(
        self, request: pb.RevokeDelegationRequest, context: Any
    ) -> pb.RevokeDelegationResponse:
        delegation = await delegations.revoke_delegation(
            self._ports, current_caller(), delegation_id=request.id
        )
        return pb.RevokeDelegationResponse(delegation=self._shown(delegation))

    async def ListDelegations(
        self, request: pb.ListDelegationsRequest, context: Any
    ) -> pb.ListDelegationsResponse:
        found, token = await delegations.list_delegations(
            self._ports, current_caller(), size=request.page_size, token=request.page_token
        )
        return pb.ListDelegationsResponse(delegations=map(self._shown, found), next_page_token=token)

    async def CheckDelegation(
        self, request: pb.CheckDelegationRequest, context: Any
    ) -> pb.CheckDelegationResponse:
        allowing = await delegations.check_delegation(
            self._ports,
            current_caller(),
            principal=request.principal_id,
            delegate=request.delegate_id,
            scope=scope_of(request.scope),
        )
        return pb.CheckDelegationResponse(allowed=allowing is not None, delegation_id=allowing or "")

    def _shown(self, delegation: Delegation) -> pb.Delegation:
        return delegation_message(delegation, self._ports.clock(), current_caller().subject)


def _seen(account: Account) -> pb.Account:
    """The account as the caller may see it."""
    return account_message(accounts.seen_by(current_caller(), account))


def _repeatable(message: Message) -> Request | None:
    """The request to remember. Its fingerprint is a fast hash, so what is secret stays out of it."""
    asked = type(message)()
    asked.CopyFrom(message)
    for field in _SECRETS:
        if field in asked.DESCRIPTOR.fields_by_name:
            asked.ClearField(field)
    request_id = str(getattr(message, "request_id", ""))
    return Request.of(current_caller(), request_id, asked)


def _factor(shown: second_factor.Shown) -> pb.SecondFactor:
    return pb.SecondFactor(
        id=shown.id, way=way_message(shown.way), name=shown.name, create_time=timestamp(shown.created)
    )


def _tokens(signed_in: SignedIn) -> pb.SessionTokens:
    return pb.SessionTokens(
        access_token=signed_in.access_token,
        access_expire_time=timestamp(signed_in.access_expires),
        refresh_token=signed_in.refresh_token,
        refresh_expire_time=timestamp(signed_in.refresh_expires),
        session_id=signed_in.session,
    )
