"""What one request knows: who calls, in which language, what it has loaded, and how to call the services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import grpc

from gateway.live import Live
from gateway.loaders import Loader
from gateway.services import Services
from kit.auth import ANONYMOUS, Caller
from kit.errors import DomainError, Forbidden, InvalidInput, NotFound
from kit.status import answered
from motcua.catalog.v1 import catalog_pb2 as catalog
from motcua.dossier.v1 import dossier_pb2 as dossier
from motcua.dossier.v1 import vault_pb2 as vault
from motcua.identity.v1 import identity_pb2 as identity
from motcua.notify.v1 import notify_pb2 as notify
from motcua.payment.v1 import payment_pb2 as payment

_MOST_FORMS = 8 * 1024 * 1024  # letters of forms in one answer

RPC_TIMEOUT = 10.0  # seconds


@dataclass
class Session:
    """What may happen to the caller's refresh cookie: `received` came with the request, `set` goes with the
    answer.

    `device` is what came in the cookie of a device that signed in before, `known` what it is to keep.
    `set` is (value, seconds to live); an empty value deletes the cookie. `possible` is False where there is
    no HTTP answer to put it on.
    """

    received: str = ""
    device: str = ""
    known: str = ""
    set: tuple[str, float] | None = None
    possible: bool = False


@dataclass
class Context:
    """One request of one caller."""

    services: Services
    live: Live
    caller: Caller = ANONYMOUS
    token: str = ""
    wanted_locale: str = ""
    client_address: str = ""
    user_agent: str = ""
    public_url: str = ""
    session: Session = field(default_factory=Session)
    rpcs: int = 0

    @cached_property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What travels with each call: the access token, if any."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    async def call(self, method: Any, request: Any) -> Any:
        """Calls a unary RPC as the caller. Raises its DomainError, or AioRpcError for what nobody
        expected."""
        self.rpcs += 1
        return await answered(method(request, metadata=self.metadata, timeout=RPC_TIMEOUT))

    async def locale(self) -> str:
        """`vi` or `en`: what the request asks for, else what the account prefers, else Vietnamese."""
        if self.wanted_locale:
            return self.wanted_locale
        if self.caller.kind in ("citizen", "official"):
            try:
                reply = await self.call(self.services.identity.GetAccount, identity.GetAccountRequest())
            except (DomainError, grpc.aio.AioRpcError):
                return "vi"
            self.wanted_locale = reply.account.locale
        return self.wanted_locale or "vi"

    def again(self) -> Context:
        """The same caller with nothing loaded yet: for the next event of a stream."""
        return replace(self, session=Session(), rpcs=0)

    # Loaders: one a type.

    @cached_property
    def uploads(self) -> Loader[vault.Upload]:
        """One at a time: nothing lists uploads."""

        async def fetch(ids: list[str]) -> Mapping[str, vault.Upload]:
            found = {}
            for id in ids:
                try:
                    reply = await self.call(self.services.vault.GetUpload, vault.GetUploadRequest(id=id))
                except (NotFound, Forbidden):
                    continue
                found[id] = reply.upload
            return found

        return Loader(fetch)

    @cached_property
    def accounts(self) -> Loader[identity.Account]:
        async def fetch(ids: list[str]) -> Mapping[str, identity.Account]:
            request = identity.BatchGetAccountsRequest(ids=ids)
            reply = await self.call(self.services.identity.BatchGetAccounts, request)
            return {account.id: account for account in reply.accounts}

        return Loader(fetch)

    @cached_property
    def agencies(self) -> Loader[identity.Agency]:
        async def fetch(codes: list[str]) -> Mapping[str, identity.Agency]:
            request = identity.BatchGetAgenciesRequest(codes=codes)
            reply = await self.call(self.services.identity.BatchGetAgencies, request)
            return {agency.code: agency for agency in reply.agencies}

        return Loader(fetch)

    @cached_property
    def procedures(self) -> Loader[catalog.Procedure]:
        """By `code@version`, or `code` for the one in force."""

        async def fetch(names: list[str]) -> Mapping[str, catalog.Procedure]:
            request = catalog.BatchGetProceduresRequest(names=names)
            reply = await self.call(self.services.catalog.BatchGetProcedures, request)
            return _by_name(names, reply.procedures)

        return Loader(fetch)

    @cached_property
    def procedure_summaries(self) -> Loader[catalog.ProcedureSummary]:
        """By `code@version`; what lists show, so that no forms travel for it."""

        async def fetch(names: list[str]) -> Mapping[str, catalog.ProcedureSummary]:
            request = catalog.BatchGetProceduresRequest(names=names, summary_only=True)
            reply = await self.call(self.services.catalog.BatchGetProcedures, request)
            return {name: _summary(found) for name, found in _by_name(names, reply.procedures).items()}

        return Loader(fetch)

    @cached_property
    def dossiers(self) -> Loader[dossier.Dossier]:
        async def fetch(ids: list[str]) -> Mapping[str, dossier.Dossier]:
            reply = await self.call(
                self.services.dossier.BatchGetDossiers, dossier.BatchGetDossiersRequest(ids=ids)
            )
            return {item.id: item for item in reply.dossiers}

        return Loader(fetch)

    @cached_property
    def forms(self) -> Loader[str]:
        """The forms of dossiers as JSON text, by the dossier's id: lists and batches come without."""
        had = 0

        async def fetch(ids: list[str]) -> Mapping[str, str]:
            nonlocal had
            found: dict[str, str] = {}
            wanted = ids
            while wanted:
                request = dossier.BatchGetDossiersRequest(ids=wanted, with_forms=True)
                reply = await self.call(self.services.dossier.BatchGetDossiers, request)
                found |= {item.id: item.form_json for item in reply.dossiers if item.HasField("form_json")}
                had += sum(len(item.form_json) for item in reply.dossiers)
                wanted = list(reply.left_out_ids)
                if wanted and had > _MOST_FORMS:
                    raise InvalidInput("ANSWER_TOO_LARGE", "ask for fewer forms at once")
            return found

        return Loader(fetch)

    @cached_property
    def documents(self) -> Loader[vault.Document]:
        async def fetch(ids: list[str]) -> Mapping[str, vault.Document]:
            reply = await self.call(
                self.services.vault.BatchGetDocuments, vault.BatchGetDocumentsRequest(ids=ids)
            )
            return {item.id: item for item in reply.documents}

        return Loader(fetch)

    @cached_property
    def charges(self) -> Loader[payment.Charge]:
        async def fetch(ids: list[str]) -> Mapping[str, payment.Charge]:
            reply = await self.call(
                self.services.payment.BatchGetCharges, payment.BatchGetChargesRequest(ids=ids)
            )
            return {item.id: item for item in reply.charges}

        return Loader(fetch)

    @cached_property
    def receipts(self) -> Loader[payment.Receipt]:
        async def fetch(ids: list[str]) -> Mapping[str, payment.Receipt]:
            reply = await self.call(
                self.services.payment.BatchGetReceipts, payment.BatchGetReceiptsRequest(ids=ids)
            )
            return {item.id: item for item in reply.receipts}

        return Loader(fetch)

    @cached_property
    def notices(self) -> Loader[notify.Notice]:
        async def fetch(ids: list[str]) -> Mapping[str, notify.Notice]:
            reply = await self.call(
                self.services.notify.BatchGetNotices, notify.BatchGetNoticesRequest(ids=ids)
            )
            return {item.id: item for item in reply.notices}

        return Loader(fetch)


def _by_name(names: list[str], procedures: Any) -> dict[str, Any]:
    """Found procedures under the names they were asked by: with their version or without."""
    asked = set(names)
    found: dict[str, Any] = {}
    for procedure in procedures:
        for name in (f"{procedure.code}@{procedure.version}", procedure.code):
            if name in asked:
                found[name] = procedure
    return found


def _summary(procedure: catalog.Procedure) -> catalog.ProcedureSummary:
    return catalog.ProcedureSummary(
        code=procedure.code,
        version=procedure.version,
        name=procedure.name,
        field=procedure.field,
        levels=procedure.levels,
        audience=procedure.audience,
        curated=procedure.curated,
    )
