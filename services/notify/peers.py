"""Identity, as notify calls it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Final, TypeVar

from kit.auth import ServiceTokens, TokenVerifier
from kit.errors import NotFound
from kit.grpc_client import connect
from kit.sessions import verifier_of
from kit.status import answered
from kit.tls import Files
from motcua.identity.v1 import identity_pb2, identity_pb2_grpc
from notify.domain.kinds import Channel
from notify.domain.people import Agency, Contact

T = TypeVar("T")
_PURPOSES: Final[Mapping[str, identity_pb2.OneTimePurpose.ValueType]] = {
    "recover": identity_pb2.ONE_TIME_PURPOSE_RESET_PASSWORD,
    "verify_email": identity_pb2.ONE_TIME_PURPOSE_VERIFY_EMAIL,
    "verify_phone": identity_pb2.ONE_TIME_PURPOSE_VERIFY_PHONE,
}
_AT_ONCE = 100  # ids that identity takes in one call


class Identity:
    """Contact data of accounts, names of agencies and the keys of access tokens, asked for as notify."""

    def __init__(self, target: str, secret: str, tls: Files | None = None) -> None:
        self._secret = secret
        own = connect(target, bearer=ServiceTokens(self._token), tls=tls)
        self._channels = connect(target, tls=tls), own
        self._anyone: identity_pb2_grpc.IdentityServiceAsyncStub
        self._own: identity_pb2_grpc.IdentityServiceAsyncStub
        self._anyone, self._own = (identity_pb2_grpc.IdentityServiceStub(one) for one in self._channels)

    def verifier(self) -> TokenVerifier:
        """Turns access tokens into callers by what identity tells."""
        return verifier_of(self._channels[0])

    async def accounts(self, ids: Collection[str]) -> list[Contact]:
        """How accounts are reached; unknown ones are omitted. Raises Unavailable."""
        found: list[Contact] = []
        for some in _parts(ids):
            answer = await answered(
                self._own.BatchGetAccounts(identity_pb2.BatchGetAccountsRequest(ids=some))
            )
            found += [
                Contact(one.id, name=one.name, email=one.email, phone=one.phone, locale=one.locale)
                for one in answer.accounts
            ]
        return found

    async def agencies(self, codes: Collection[str]) -> list[Agency]:
        """What agencies are called; unknown ones are omitted. Raises Unavailable."""
        found: list[Agency] = []
        for some in _parts(codes):
            answer = await answered(
                self._own.BatchGetAgencies(identity_pb2.BatchGetAgenciesRequest(codes=some))
            )
            found += [Agency(one.code, name=one.name, name_en=one.name_en) for one in answer.agencies]
        return found

    async def secret(self, account: str, purpose: str, channel: Channel) -> tuple[str, str] | None:
        """A new secret that serves once, as (address, secret); None when none is to be sent that way.
        Raises Unavailable."""
        contact = (
            identity_pb2.CONTACT_KIND_EMAIL if channel is Channel.EMAIL else identity_pb2.CONTACT_KIND_PHONE
        )
        request = identity_pb2.IssueOneTimeSecretRequest(
            account_id=account, purpose=_PURPOSES[purpose], contact=contact
        )
        try:
            answer = await answered(self._own.IssueOneTimeSecret(request))
        except NotFound:
            return None
        return answer.address, answer.secret

    async def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels:
            await channel.close()

    async def _token(self) -> tuple[str, float]:
        request = identity_pb2.IssueServiceTokenRequest(service="notify", secret=self._secret)
        answer = await answered(self._anyone.IssueServiceToken(request))
        return answer.access_token, answer.expire_time.seconds - time.time()


def _parts(ids: Collection[str]) -> Iterator[list[str]]:
    every = sorted(ids)
    for start in range(0, len(every), _AT_ONCE):
        yield every[start : start + _AT_ONCE]
