"""Catalog and identity, as this service calls them: with its own token and a deadline on every call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import grpc
from google.protobuf.json_format import MessageToDict

from dossier import wire
from dossier.domain.records import (
    Channel,
    Component,
    FeeLine,
    FeeNeededBy,
    Limit,
    Procedure,
    Step,
    TimeUnit,
)
from dossier.handlers import Account, Quote
from kit.auth import ServiceTokens, TokenVerifier
from kit.clock import Clock, vietnam_day
from kit.errors import NotFound
from kit.grpc_client import connect
from kit.money import CURRENCY
from kit.sessions import verifier_of
from kit.status import answered
from kit.tls import Files
from motcua.catalog.v1 import catalog_pb2 as cat
from motcua.catalog.v1.catalog_pb2_grpc import CatalogServiceStub
from motcua.identity.v1 import identity_pb2 as idp
from motcua.identity.v1.identity_pb2_grpc import IdentityServiceStub

T = TypeVar("T")
_DEADLINE = 5.0  # seconds
_CACHED = 512  # versions of procedures; a version never changes
_UNITS = {
    cat.TIME_UNIT_WORKING_DAY: TimeUnit.WORKING_DAY,
    cat.TIME_UNIT_DAY: TimeUnit.DAY,
    cat.TIME_UNIT_HOUR: TimeUnit.HOUR,
}
_UNITS_OUT = {unit: number for number, unit in _UNITS.items()}
_SCOPES = {
    "FILE": idp.DELEGATION_SCOPE_FILE,
    "READ": idp.DELEGATION_SCOPE_READ,
    "VAULT": idp.DELEGATION_SCOPE_VAULT,
}
_FEE_NEEDED_BY = {
    cat.FEE_NEEDED_BY_EXAMINATION: FeeNeededBy.EXAMINATION,
    cat.FEE_NEEDED_BY_NEVER: FeeNeededBy.NEVER,
}


class GrpcCatalog:
    """Procedures, fees and the working calendar."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = CatalogServiceStub(channel)
        self._versions: OrderedDict[str, Procedure] = OrderedDict()

    async def procedure(self, code: str, version: int = 0) -> Procedure:
        """That version, or for 0 the one in force. Raises NotFound."""
        key = f"{code}@{version}"
        if version and key in self._versions:
            self._versions.move_to_end(key)
            return self._versions[key]
        answer = await answered(self._stub.GetProcedure(cat.GetProcedureRequest(code=code, version=version)))
        found = read_procedure(answer.procedure)
        self._versions[found.key] = found
        if len(self._versions) > _CACHED:
            self._versions.popitem(last=False)
        return found

    async def due(self, start: datetime, limit: Limit) -> datetime:
        """When a limit that starts with something received at `start` is over."""
        asked = cat.ComputeDueRequest(
            start_time=wire.stamp(start),
            limit=cat.TimeLimit(amount=limit.amount, unit=_UNITS_OUT[limit.unit]),
        )
        answer = await answered(self._stub.ComputeDue(asked))
        return answer.due_time.ToDatetime(UTC)

    async def working_days(self, start: datetime, end: datetime) -> int:
        """Working days between two instants, the day of the first not counted."""
        asked = cat.CountWorkingDaysRequest(start_time=wire.stamp(start), end_time=wire.stamp(end))
        return (await answered(self._stub.CountWorkingDays(asked))).days

    async def quote(
        self, procedure: str, version: int, channel: Channel, quantities: Mapping[str, int]
    ) -> Quote:
        """What a filing costs today."""
        asked = cat.QuoteFeeRequest(
            code=procedure,
            version=version,
            channel=cat.Channel.ValueType(channel.value),
            quantities=quantities,
        )
        answer = await answered(self._stub.QuoteFee(asked))
        lines = [
            FeeLine(line.name, line.amount, max(line.quantity, 1), line.currency or CURRENCY)
            for line in answer.lines
        ]
        return Quote(lines, answer.known, answer.refundable_on_rejection)


class GrpcIdentity:
    """Accounts, agencies and delegations."""

    def __init__(self, channel: grpc.aio.Channel, now: Clock) -> None:
        self._stub = IdentityServiceStub(channel)
        self._now = now

    async def may_act(self, principal: str, delegate: str, scope: str) -> bool:
        """Whether a delegation with the scope holds now. Asked each time: it may have been revoked."""
        if not principal or not delegate:
            return False
        asked = idp.CheckDelegationRequest(principal_id=principal, delegate_id=delegate, scope=_SCOPES[scope])
        return (await answered(self._stub.CheckDelegation(asked))).allowed

    async def receives(self, agency: str) -> bool:
        """Whether the agency exists today and has a reception."""
        found = await self._agency(agency)
        return found is not None and found.reception

    async def exists(self, agency: str) -> bool:
        """Whether the agency exists today."""
        return await self._agency(agency) is not None

    async def account(self, id: str) -> Account | None:
        """An account, or None; roles that hold today."""
        answer = await answered(self._stub.BatchGetAccounts(idp.BatchGetAccountsRequest(ids=[id])))
        return next((self._read(found) for found in answer.accounts), None)

    async def account_named(self, identifier: str) -> Account | None:
        """The account with this citizen number, tax code, phone or e-mail address, or None."""
        try:
            answer = await answered(self._stub.FindAccount(idp.FindAccountRequest(identifier=identifier)))
        except NotFound:
            return None
        return self._read(answer.account)

    def _read(self, found: idp.Account) -> Account:
        today = vietnam_day(self._now()).isoformat()
        held = [
            (role.agency, role.name)
            for role in found.roles
            if role.valid_from <= today and (not role.valid_to or today <= role.valid_to)
        ]
        return Account(
            found.id,
            found.kind == idp.ACCOUNT_KIND_OFFICIAL,
            tuple(held),
            verified=found.verified,
            organisation=found.kind == idp.ACCOUNT_KIND_ORGANISATION,
            name=found.name,
            citizen_number=found.citizen_number,
            tax_code=found.tax_code,
            phone=found.phone,
            email=found.email,
        )

    async def _agency(self, code: str) -> idp.Agency | None:
        answer = await answered(self._stub.BatchGetAgencies(idp.BatchGetAgenciesRequest(codes=[code])))
        today = vietnam_day(self._now()).isoformat()
        for found in answer.agencies:  # successors may follow
            if found.code == code:
                there = found.valid_from <= today and (not found.valid_to or today <= found.valid_to)
                return found if there else None
        return None


class Keys:
    """Identity's public keys and our own tokens, for which no token is needed."""

    def __init__(self, target: str, secret: str, now: Clock, tls: Files | None = None) -> None:
        self._channel = connect(target, timeout=_DEADLINE, tls=tls)
        self._stub = IdentityServiceStub(self._channel)
        self._secret = secret
        self._now = now
        self.tokens = ServiceTokens(self._token)

    def verifier(self) -> TokenVerifier:
        """Turns access tokens into callers by what identity tells."""
        return verifier_of(self._channel)

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    async def _token(self) -> tuple[str, float]:
        asked = idp.IssueServiceTokenRequest(service="dossier", secret=self._secret)
        answer = await answered(self._stub.IssueServiceToken(asked))
        return answer.access_token, (answer.expire_time.ToDatetime(UTC) - self._now()).total_seconds()


def read_procedure(message: cat.Procedure) -> Procedure:
    """What a dossier needs of a version."""
    cases: dict[str, tuple[Component, ...]] = {}
    for case in message.cases:
        components = tuple(
            Component(c.id, c.name, c.required, tuple(c.document_types)) for c in case.components
        )
        cases[case.id] = cases.get(case.id, ()) + components
    result = message.results[0] if message.results else cat.ProcedureResult()
    return Procedure(
        code=message.code,
        version=message.version,
        name=message.name,
        fileable=message.curated,
        schema=_whole(MessageToDict(message.form)),
        cases=cases,
        steps=tuple(Step(s.id, s.name, s.role, s.agency, s.working_hours) for s in message.steps),
        limits={
            Channel(mode.channel): Limit(mode.time_limit.amount, _UNITS[mode.time_limit.unit])
            for mode in message.modes
            if mode.channel and mode.HasField("time_limit") and mode.time_limit.unit in _UNITS
        },
        channels=frozenset(Channel(mode.channel) for mode in message.modes if mode.channel),
        result_type=result.document_type,
        result_name=result.name,
        refundable=message.refundable_on_rejection,
        fee_needed_by=_FEE_NEEDED_BY.get(message.fee_needed_by, FeeNeededBy.RESULT),
    )


def _whole(value: Any) -> Any:
    """Whole numbers as such: protobuf's Struct knows only floats."""
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
