"""The five services and the gateway in this process, on real NATS and store, and people with tokens."""

from __future__ import annotations

import asyncio
import email
import email.policy
import importlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
import nats
import pytest
import uvicorn
from aiosmtpd.smtp import SMTP, Envelope
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from nats.js import JetStreamContext
from pydantic import SecretStr
from pymongo import MongoClient

import catalog.bootstrap
import dossier.bootstrap
import gateway.app
import identity.bootstrap
import notify.bootstrap
import payment.bootstrap
import payment.settings
from gateway.settings import GatewaySettings
from identity.tokens import load_keys
from kit import clock
from kit.auth import Caller, Role
from kit.errors import DomainError
from kit.ids import uuid7
from kit.service import Service
from kit.status import from_rpc
from motcua.catalog.v1 import catalog_pb2 as cat
from motcua.dossier.v1 import dossier_pb2 as dos
from motcua.dossier.v1 import vault_pb2 as vault
from motcua.identity.v1 import identity_pb2 as idp
from motcua.payment.v1 import payment_pb2 as pay
from payment import vnpay
from tests import papers

ROOT = Path(__file__).parents[2]
WARD, ELSEWHERE, PROVINCE = "H32.15", "H32.09", "H32"
PASSWORD = "Motcua@2026"
PROCEDURE = "9.900001"
PDF = papers.pdf()
ROLES = ("reception", "examiner", "leader", "clerk", "cashier")
SCOPES = {
    "file": idp.DELEGATION_SCOPE_FILE,
    "read": idp.DELEGATION_SCOPE_READ,
    "vault": idp.DELEGATION_SCOPE_VAULT,
    "pay": idp.DELEGATION_SCOPE_PAY,
}
CITIZENS = ("owner", "stranger", *SCOPES)
OFFICIALS = ("roleless", "elsewhere", *ROLES, "admin")
SERVICES = ("identity", "catalog", "dossier", "payment", "notify", "gateway", "importer")
KNOWN = ("nobody", *CITIZENS, *OFFICIALS, *(f"service:{name}" for name in SERVICES))
BROKEN = ("forged", "of_another_key", "unsigned", "signed_with_the_public_key", "expired")
HIDDEN = ("notify", "requests", "counters")  # what changes by itself, or counts


def _rpcs() -> dict[str, MethodDescriptor]:
    found: dict[str, MethodDescriptor] = {}
    for file in sorted((ROOT / "protos").glob("motcua/*/v1/*.proto")):
        module = importlib.import_module(f"motcua.{file.parts[-3]}.v1.{file.stem}_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            found |= {f"{service.name}.{method.name}": method for method in service.methods}
    return found


RPCS = _rpcs()


@dataclass(frozen=True)
class Issuer:
    """Makes tokens with identity's own key."""

    kid: str
    key: Ed25519PrivateKey

    def __call__(self, caller: Caller, *, seconds: float = 3600) -> str:
        """A token that names the caller for so long."""
        return jwt.encode(_claims(caller, seconds), self.key, algorithm="EdDSA", headers={"kid": self.kid})


def _claims(caller: Caller, seconds: float) -> dict[str, Any]:
    now = int(time.time())
    return {
        "sub": caller.subject,
        "kind": caller.kind,
        "roles": [[role.agency, role.name] for role in caller.roles],
        "sid": caller.session,
        "ver": caller.verified,
        "iat": now - 100,
        "exp": now + int(seconds),
        "iss": "motcua",
        "aud": "motcua",
        "jti": uuid7(),
    }


@dataclass(frozen=True)
class Outcome:
    """What a call came to: `OK` with the reply, or a code with the reason."""

    code: str
    reason: str = ""
    reply: Any = None
    error: DomainError | None = None


@dataclass
class World:
    """The running services, those who call them, and what these have."""

    channels: Mapping[str, grpc.aio.Channel]
    tokens: dict[str, str]
    ids: dict[str, str]
    http: httpx.AsyncClient
    mongo: MongoClient[dict[str, Any]]
    databases: Sequence[str]
    merchant: vnpay.Merchant
    issue: Issuer
    jetstream: JetStreamContext
    mails: dict[str, EmailMessage] = field(default_factory=dict)  # by the local part of their Message-ID
    kept: dict[str, Any] = field(default_factory=dict)
    rpcs: Mapping[str, MethodDescriptor] = field(default_factory=lambda: RPCS)

    # Calling

    async def call(self, rpc: str, message: Message, who: str) -> Outcome:
        """What the RPC (`Service.Method`) answers to somebody; a stream's replies are counted as one."""
        method = RPCS[rpc]
        service = method.containing_service
        channel = self.channels[service.full_name.split(".")[1]]
        kind = f"{'stream' if method.client_streaming else 'unary'}_" + (
            "stream" if method.server_streaming else "unary"
        )
        call = getattr(channel, kind)(
            f"/{service.full_name}/{method.name}",
            request_serializer=type(message).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        token = self.tokens.get(who, "")
        metadata = [("authorization", f"Bearer {token}")] if token else []
        asked = iter([message]) if method.client_streaming else message
        try:
            answer = call(asked, metadata=metadata, timeout=30)
            if method.server_streaming:
                replies = [reply async for reply in answer]
                return Outcome("OK", reply=replies[0] if replies else None)
            return Outcome("OK", reply=await answer)
        except grpc.aio.AioRpcError as error:
            meant = from_rpc(error)
            if isinstance(meant, DomainError):
                return Outcome(error.code().name, meant.reason, error=meant)
            return Outcome(error.code().name, error.details() or "")

    async def do(self, rpc: str, message: Message, who: str) -> Any:
        """The reply of a call that must not fail."""
        outcome = await self.call(rpc, message, who)
        assert outcome.code == "OK", (rpc, who, outcome)
        return outcome.reply

    async def graphql(
        self, query: str, variables: Mapping[str, Any] | None = None, *, who: str = "", locale: str = "vi"
    ) -> httpx.Response:
        """The gateway's answer to a document."""
        headers = {"accept-language": locale}
        if token := self.tokens.get(who, ""):
            headers["authorization"] = f"Bearer {token}"
        return await self.http.post(
            "/graphql", json={"query": query, "variables": variables}, headers=headers
        )

    # What is stored

    def stored(self) -> dict[str, Any]:
        """Every document by database, collection and id. Compare it from a quiet moment on."""
        found = {}
        for name in self.databases:
            if name.split("_")[1] in HIDDEN:
                continue
            database = self.mongo[name]
            for collection in database.list_collection_names():
                if collection in HIDDEN or collection == "attempts":
                    continue
                for document in database[collection].find({}):
                    found[f"{name}/{collection}/{document['_id']}"] = document
        return found

    async def quiet(self) -> None:
        """Returns when no event is under way: what is stored then changes only by what a test does."""
        async with asyncio.timeout(20):
            calm = 0
            while calm < 2:
                calm = calm + 1 if await self._calm() else 0
                await asyncio.sleep(0.01)

    async def _calm(self) -> bool:
        for name in self.databases:
            database = self.mongo[name]
            for collection in database.list_collection_names():
                if database[collection].find_one({"outbox_pending": 1}):
                    return False
        for stream in await self.jetstream.streams_info():
            for consumer in await self.jetstream.consumers_info(str(stream.config.name)):
                if consumer.num_pending or consumer.num_ack_pending:
                    return False
        return True

    # What people have. Each makes something new of the owner's.

    async def document(self, who: str = "owner", **more: Any) -> str:
        """A document in the vault of `who`."""
        wanted = {"filename": "giấy chứng sinh.pdf", "type": "birth_notice", "title": "Chứng sinh", **more}
        begun = await self.do(
            "VaultService.BeginUpload", vault.BeginUploadRequest(size=len(PDF), **wanted), who
        )
        appended = await self.do(
            "VaultService.AppendUpload", vault.AppendUploadRequest(id=begun.upload.id, data=PDF), who
        )
        return str(appended.document.id)

    async def upload(self) -> str:
        """An upload of which no byte is there."""
        request = vault.BeginUploadRequest(size=len(PDF), filename="a.pdf")
        return str((await self.do("VaultService.BeginUpload", request, "owner")).upload.id)

    async def used(self) -> tuple[str, str]:
        """A received dossier and the document that is attached to it; the same ones each time."""
        if "used" not in self.kept:
            document = await self.document()
            self.kept["used"] = await self.received(document), document
        dossier, document = self.kept["used"]
        return dossier, document

    async def draft(self, document: str = "") -> str:
        """A complete draft."""
        request = dos.CreateDossierRequest(procedure_code=PROCEDURE, receiving_agency=WARD)
        request.form.update({"name": "Nguyễn Thị An"})
        if document:
            request.attachments.add(component_id="proof", document_id=document)
        return str((await self.do("DossierService.CreateDossier", request, "owner")).dossier.id)

    async def filed(self, document: str = "") -> str:
        """A dossier that the owner has filed."""
        id = await self.draft(document)
        await self.do("DossierService.SubmitDossier", dos.SubmitDossierRequest(id=id), "owner")
        return id

    async def received(self, document: str = "") -> str:
        """A dossier that the ward has received."""
        id = await self.filed(document)
        await self.do("DossierService.ReceiveDossier", dos.ReceiveDossierRequest(id=id), "reception")
        return id

    async def lacking(self) -> str:
        """A dossier with a supplement request."""
        id = await self.received()
        request = dos.RequestSupplementRequest(id=id, defects=["mờ"], reason="không đọc được")
        await self.do("DossierService.RequestSupplement", request, "examiner")
        return id

    async def asked_back(self) -> str:
        """A dossier with a request to withdraw it."""
        id = await self.received()
        await self.do(
            "DossierService.WithdrawDossier", dos.WithdrawDossierRequest(id=id, reason="nhầm"), "owner"
        )
        return id

    async def examined(self) -> tuple[str, str]:
        """A dossier at its last step, and the uploaded result."""
        id = await self.received()
        step = dos.CompleteStepRequest(id=id, step_id="examine")
        await self.do("DossierService.CompleteStep", step, "examiner")
        result = await self.document("leader", purpose=vault.UPLOAD_PURPOSE_RESULT, dossier_id=id)
        return id, result

    async def finished(self) -> str:
        """A dossier with a signed result."""
        id, result = await self.examined()
        request = dos.SignResultRequest(id=id, document_id=result)
        await self.do("DossierService.SignResult", request, "leader")
        return id

    async def charged(self) -> str:
        """A charge that is due."""
        id = await self.received()
        reply = await self.do("DossierService.RequestPayment", dos.RequestPaymentRequest(id=id), "examiner")
        charge = str(reply.dossier.charge_ids[0])
        await self._until_there(charge)
        return charge

    async def paid(self, **more: str) -> str:
        """A charge that is paid, by a notice that the gateway signed; or not, as `more` in it has it."""
        charge = await self.charged()
        request = pay.BeginPaymentRequest(charge_id=charge, method=pay.PAYMENT_METHOD_VNPAY)
        begun = await self.do("PaymentService.BeginPayment", request, "owner")
        parameters = self.notice(begun.payment.reference, begun.payment.amount, **more)
        reply = await self.do(
            "PaymentService.HandleVnpayIpn", pay.HandleVnpayIpnRequest(parameters=parameters), "nobody"
        )
        assert reply.rsp_code == "00", reply
        return charge

    def notice(self, reference: str, amount: int, **more: str) -> dict[str, str]:
        """A gateway's signed notice of a payment."""
        parameters = {
            "vnp_TmnCode": self.merchant.tmn_code,
            "vnp_TxnRef": reference,
            "vnp_Amount": str(amount * 100),
            "vnp_ResponseCode": "00",
            "vnp_TransactionStatus": "00",
            "vnp_TransactionNo": str(time.time_ns())[-14:],
            "vnp_BankCode": "NCB",
            "vnp_PayDate": vnpay.stamp(clock.now()),
            **more,
        }
        return parameters | {"vnp_SecureHash": vnpay.sign(parameters, self.merchant.secret)}

    async def unpriced(self, code: str) -> None:
        """A procedure of that code whose fee the catalogue does not know."""
        made = _procedure()
        made.code = code
        del made.fees[:]
        request = cat.PutProcedureRequest(procedure=made)
        await self.do("CatalogService.PutProcedure", request, "service:importer")

    async def _until_there(self, charge: str) -> None:
        deadline = time.monotonic() + 10
        request = pay.GetChargeRequest(id=charge)
        while (await self.call("PaymentService.GetCharge", request, "owner")).code != "OK":
            assert time.monotonic() < deadline, "no charge came of the request"
            await asyncio.sleep(0.02)


# --- who calls -----------------------------------------------------------------------------------------


def _broken(kid: str, public: bytes, subject: str) -> dict[str, str]:
    """Tokens that name the owner and are not to be believed."""
    claims, other = _claims(Caller(subject, "citizen"), 300), Ed25519PrivateKey.generate()
    return {
        "forged": jwt.encode(claims, other, algorithm="EdDSA", headers={"kid": kid}),
        "of_another_key": jwt.encode(claims, other, algorithm="EdDSA", headers={"kid": "another"}),
        "unsigned": jwt.encode(claims, "", algorithm="none", headers={"kid": kid}),
        "signed_with_the_public_key": jwt.encode(claims, public, algorithm="HS256", headers={"kid": kid}),
    }


async def _prove(world: World, who: str, request: idp.SignUpRequest) -> None:
    """The reception of the ward sees the papers, and the owner enters its code."""
    world.tokens["desk"] = world.issue(Caller("desk", "official", (Role(WARD, "reception"),)))
    prove = idp.ProveAccountRequest(
        account_id=world.ids[who],
        name=request.name,
        number=request.citizen_number,
        papers=[idp.Paper(kind=idp.PAPER_KIND_CITIZEN_CARD, number=request.citizen_number)],
        agency=WARD,
    )
    code = (await world.do("IdentityService.ProveAccount", prove, "desk")).activation_code
    await world.do("IdentityService.ConfirmIdentity", idp.ConfirmIdentityRequest(activation_code=code), who)
    del world.tokens["desk"]


async def _people(world: World) -> None:
    """Citizens with delegations of the owner's, and officials with one role each."""
    tokens, ids = world.tokens, world.ids

    def enter(who: str, account: str, kind: str, *roles: tuple[str, str]) -> None:
        ids[who] = account
        held = tuple(Role(agency, role) for agency, role in roles)
        tokens[who] = world.issue(Caller(account, kind, held, verified=kind == "citizen"))

    for name in SERVICES:
        tokens[f"service:{name}"] = world.issue(Caller(name, "service"))
    for who, number in (("owner", "079090000101"), ("stranger", "001085000202"), ("admin", "quantri")):
        found = await world.do(
            "IdentityService.FindAccount", idp.FindAccountRequest(identifier=number), "service:gateway"
        )
        kind, roles = ("official", [(PROVINCE, "admin")]) if who == "admin" else ("citizen", [])
        enter(who, found.account.id, kind, *roles)
    for at, who in enumerate((*SCOPES, "friend")):
        request = idp.SignUpRequest(
            kind=idp.ACCOUNT_KIND_PERSON,
            name="Lê Văn Ủy",
            citizen_number=f"05609500000{at}",
            phone=f"090200000{at}",
            password="một mật khẩu dài",
        )
        enter(who, (await world.do("IdentityService.SignUp", request, "nobody")).account.id, "citizen")
        await _prove(world, who, request)
    for at, scope in enumerate(SCOPES.values()):
        grant = idp.GrantDelegationRequest(delegate_identifier=f"05609500000{at}", scopes=[scope])
        grant.expire_time.FromDatetime(datetime.now(UTC) + timedelta(days=30))
        asked = (await world.do("IdentityService.GrantDelegation", grant, "owner")).delegation
        who = list(SCOPES)[at]
        await world.do("IdentityService.AcceptDelegation", idp.AcceptDelegationRequest(id=asked.id), who)
    offices = {role: [(WARD, role)] for role in ROLES}
    offices |= {"roleless": [], "elsewhere": [(ELSEWHERE, role) for role in (*ROLES, "admin")]}
    for who, roles in offices.items():
        official = idp.CreateOfficialRequest(
            name="Cán Bộ", username=f"can.bo.{who}", password="một mật khẩu dài"
        )
        for agency, role in roles:
            official.roles.add(agency=agency, name=role)
        reply = await world.do("IdentityService.CreateOfficial", official, "admin")
        enter(who, reply.account.id, "official", *roles)


def _procedure() -> cat.Procedure:
    limit = cat.TimeLimit(amount=10, unit=cat.TIME_UNIT_WORKING_DAY)
    online_and_counter = (cat.CHANNEL_ONLINE, cat.CHANNEL_COUNTER)
    made = cat.Procedure(
        code=PROCEDURE,
        name="Thủ tục để thử quyền",
        field="Thử",
        levels=[cat.PROCEDURE_LEVEL_COMMUNE],
        curated=True,
        modes=[cat.FilingMode(channel=each, time_limit=limit) for each in online_and_counter],
        fees=[cat.FeeRule(name="Lệ phí", amount=8000)],
        cases=[cat.ComponentCase(components=[cat.Component(id="proof", name="Giấy tờ", originals=1)])],
        steps=[
            cat.ProcessingStep(id="examine", name="Thẩm tra", name_en="Examine", role="examiner"),
            cat.ProcessingStep(id="sign", name="Ký", name_en="Sign", role="leader"),
        ],
        results=[cat.ProcedureResult(name="Kết quả", document_type="result")],
    )
    made.form.update(
        {
            "type": "object",
            "required": ["name"],
            "additionalProperties": False,
            "properties": {
                "name": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 100,
                    "title": "Tên",
                    "x-title-en": "Name",
                },
                "copies": {"type": "integer", "minimum": 1, "title": "Số bản", "x-title-en": "Copies"},
            },
        }
    )
    return made


class Mailbox:
    """An SMTP server that keeps the mails it gets in `mails`."""

    def __init__(self, mails: dict[str, EmailMessage]) -> None:
        self.mails = mails

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.mails[mail["Message-ID"].strip("<>").partition("@")[0]] = mail
        return "250 kept"


@asynccontextmanager
async def _post_office(mails: dict[str, EmailMessage]) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(Mailbox(mails), enable_SMTPUTF8=True, hostname="post.example"), "127.0.0.1", 0
    )
    yield server.sockets[0].getsockname()[1]
    server.close()


# --- the stack ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def _running(service: Service) -> AsyncIterator[str]:
    await service.start()
    yield f"127.0.0.1:{service.port}"
    await service.stop()


@asynccontextmanager
async def _serving(settings: GatewaySettings) -> AsyncIterator[str]:
    config = uvicorn.Config(
        gateway.app.build(settings),
        port=0,
        log_config=None,
        ws="websockets-sansio",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await running


@pytest.fixture(scope="session")
async def world(
    mongo_url: str, other_nats_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """All of it, once."""
    home, run = tmp_path_factory.mktemp("contract"), uuid7()[-12:]
    keys = home / "keys.json"
    secrets = {name: SecretStr(f"secret of {name}") for name in SERVICES}
    targets: dict[str, str] = {}

    def common(name: str) -> dict[str, Any]:
        return {
            "environment": "test",
            "mongodb_url": mongo_url,
            "mongodb_database": f"contract_{name}_{run}",
            "nats_url": other_nats_url,
            "grace": 0.5,
            "service_secret": secrets[name],
            **targets,
        }

    async with AsyncExitStack() as stack:
        start = stack.enter_async_context
        targets["identity_target"] = await start(
            _running(
                identity.bootstrap.build(
                    identity.bootstrap.IdentitySettings(
                        **common("identity"),
                        identity_seed=str(ROOT / "services/identity/seed.json"),
                        identity_signing_keys=str(keys),
                        service_secrets=secrets,
                        sign_in_tries=10_000,
                        sign_in_tries_address=10_000,
                        sign_up_tries_address=10_000,
                        argon2_memory_kib=64,
                        argon2_passes=1,
                    )
                )
            )
        )
        targets["catalog_target"] = await start(
            _running(catalog.bootstrap.build(catalog.bootstrap.CatalogSettings(**common("catalog"))))
        )
        filing = dossier.bootstrap.DossierSettings(
            **common("dossier"),
            object_store_url=(home / "objects").as_uri(),
            upload_open=10_000,
            track_tries=100_000,
        )
        targets["dossier_target"] = await start(_running(dossier.bootstrap.build(filing)))
        paying = payment.settings.Settings(
            **common("payment"),
            vnpay_api_url="http://127.0.0.1:9/none",
            bank_api_url="http://127.0.0.1:9/none",
            payment_ask_after=3600,
            payment_retry_after=3600,
        )
        targets["payment_target"] = await start(_running(payment.bootstrap.build(paying)))
        mails: dict[str, EmailMessage] = {}
        telling = notify.bootstrap.NotifySettings(
            **common("notify"),
            smtp_host="127.0.0.1",
            smtp_port=await start(_post_office(mails)),
            smtp_tls="none",
        )
        targets["notify_target"] = await start(_running(notify.bootstrap.build(telling)))
        url = await start(_serving(GatewaySettings(**common("gateway"))))
        channels = {
            name: await start(grpc.aio.insecure_channel(targets[f"{name}_target"]))
            for name in ("identity", "catalog", "dossier", "payment", "notify")
        }
        own = load_keys(keys, create=False)[0]
        assert own.private is not None
        mongo: MongoClient[dict[str, Any]] = MongoClient(mongo_url)
        stack.callback(mongo.close)
        listener = await nats.connect(other_nats_url)
        stack.push_async_callback(listener.close)
        world = World(
            channels=channels,
            tokens={},
            ids={},
            http=await start(httpx.AsyncClient(base_url=url, timeout=30, trust_env=False)),
            mongo=mongo,
            databases=[f"contract_{name}_{run}" for name in channels],
            merchant=vnpay.Merchant(paying.vnpay_tmn_code, paying.vnpay_hash_secret.get_secret_value()),
            issue=Issuer(own.kid, own.private),
            jetstream=listener.jetstream(),
            mails=mails,
        )
        world.tokens["service:importer"] = world.issue(Caller("importer", "service"))
        await world.do(
            "CatalogService.PutProcedure", cat.PutProcedureRequest(procedure=_procedure()), "service:importer"
        )
        world.tokens["service:gateway"] = world.issue(Caller("gateway", "service"))
        await _people(world)
        world.tokens |= _broken(own.kid, own.public.public_bytes_raw(), world.ids["owner"])
        world.tokens["expired"] = world.issue(Caller(world.ids["owner"], "citizen"), seconds=-60)
        yield world
