"""The gateway in front of fake services: real gRPC servers in this process, with canned answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import jwt
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.app import build
from gateway.settings import GatewaySettings
from kit import status
from kit.errors import DomainError, Forbidden, NotFound
from motcua.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from motcua.dossier.v1 import dossier_pb2, dossier_pb2_grpc, vault_pb2, vault_pb2_grpc
from motcua.identity.v1 import identity_pb2, identity_pb2_grpc
from motcua.notify.v1 import notify_pb2, notify_pb2_grpc
from motcua.payment.v1 import payment_pb2, payment_pb2_grpc

AN, BINH = "account-an", "account-binh"
_KEY = Ed25519PrivateKey.generate()


def token(
    subject: str = AN, *, kind: str = "citizen", seconds: float = 600, key: Ed25519PrivateKey = _KEY
) -> str:
    """An access token as identity would issue it."""
    now = time.time()
    claims = {
        "sub": subject,
        "kind": kind,
        "roles": [],
        "sid": "s1",
        "ver": True,
        "iat": int(now),
        "exp": now + seconds,
        "iss": "motcua",
        "aud": "motcua",
        "jti": str(now),
    }
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": "k1"})


def stamp(seconds: int = 1_795_410_000) -> Timestamp:
    return Timestamp(seconds=seconds, nanos=123_000_000)


@dataclass
class Fakes:
    """What the fake services have, what they were asked, and how they shall fail."""

    calls: Counter[str] = field(default_factory=Counter)
    requests: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    fail: dict[str, Exception] = field(default_factory=dict)
    hold: dict[str, asyncio.Event] = field(
        default_factory=dict
    )  # what a call waits for before it is answered
    dossiers: int = 20
    form_json: str = '{"number": 9007199254740993, "whole": 5}'
    forms_at_once: int = 3
    readable: set[str] = field(default_factory=lambda: {AN})
    upload: bytearray = field(default_factory=bytearray)
    upload_size: int = 0
    document: bytes = b""
    document_name: str = "khai sinh.pdf"
    largest_message: int = 0
    stop_append_after: int | None = None

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]

    def seen(self, name: str, request: Any, context: Any) -> str:
        """Counts the call, fails if it shall, and answers the caller's subject."""
        self.calls[name] += 1
        self.requests[name] = request
        self.metadata[name] = dict(context.invocation_metadata() or ())
        if name in self.fail:
            raise self.fail[name]
        bearer = self.metadata[name].get("authorization", "")
        if not bearer:
            return ""
        return str(jwt.decode(bearer.removeprefix("Bearer "), options={"verify_signature": False})["sub"])


FAKES = Fakes()


def _guarded(servicer: type) -> type:
    """Turns DomainErrors of a fake's methods into statuses, as kit's server does."""
    for name in [name for name in vars(servicer) if name[0].isupper()]:
        method = getattr(servicer, name)
        if name in ("ReadDocument",):
            continue

        def wrap(method: Any) -> Any:
            async def call(self: Any, request: Any, context: Any) -> Any:
                try:
                    answer = await method(self, request, context)
                    if method.__name__ in FAKES.hold:
                        await FAKES.hold[method.__name__].wait()
                    return answer
                except DomainError as error:
                    context.set_trailing_metadata(status.to_details(error))
                    await context.abort(status.code_of(error), error.message)

            return call

        setattr(servicer, name, wrap(method))
    return servicer


def account(id: str = AN) -> identity_pb2.Account:
    return identity_pb2.Account(
        id=id,
        kind=identity_pb2.ACCOUNT_KIND_PERSON,
        status=identity_pb2.ACCOUNT_STATUS_ACTIVE,
        name="Nguyễn Thị An",
        locale="vi",
        etag="1",
    )


def tokens() -> identity_pb2.SessionTokens:
    return identity_pb2.SessionTokens(
        access_token=token(),
        access_expire_time=stamp(int(time.time()) + 600),
        refresh_token="refresh-1",
        refresh_expire_time=stamp(int(time.time()) + 86_400),
        session_id="s1",
    )


def dossier(number: int) -> dossier_pb2.Dossier:
    return dossier_pb2.Dossier(
        id=f"dossier-{number}",
        code=f"H32.15-261121-{number:04}",
        state=dossier_pb2.DOSSIER_STATE_IN_PROCESS,
        procedure_code="1.001193",
        procedure_version=number % 7 + 1,
        procedure_name="Đăng ký khai sinh",
        applicant_id=AN,
        filed_by_id=AN,
        charge_ids=[f"charge-{number}"],
        receiving_agency="H32.15",
        etag=str(number + 1),
        create_time=stamp(),
    )


@_guarded
class Identity(identity_pb2_grpc.IdentityServiceServicer):
    async def GetJwks(self, request: Any, context: Any) -> Any:
        key = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(_KEY.public_key()))
        return identity_pb2.GetJwksResponse(
            jwks=json.dumps({"keys": [key | {"kid": "k1", "alg": "EdDSA", "use": "sig"}]})
        )

    async def ListEndedSessions(self, request: Any, context: Any) -> Any:
        return identity_pb2.ListEndedSessionsResponse()

    async def GetAccount(self, request: Any, context: Any) -> Any:
        subject = FAKES.seen("GetAccount", request, context)
        return identity_pb2.GetAccountResponse(account=account(request.id or subject))

    async def BatchGetAccounts(self, request: Any, context: Any) -> Any:
        FAKES.seen("BatchGetAccounts", request, context)
        return identity_pb2.BatchGetAccountsResponse(accounts=[account(id) for id in request.ids])

    async def BatchGetAgencies(self, request: Any, context: Any) -> Any:
        FAKES.seen("BatchGetAgencies", request, context)
        return identity_pb2.BatchGetAgenciesResponse(
            agencies=[identity_pb2.Agency(code=code, name="UBND phường Nha Trang") for code in request.codes]
        )

    async def SignUp(self, request: Any, context: Any) -> Any:
        FAKES.seen("SignUp", request, context)
        return identity_pb2.SignUpResponse(account=account())

    async def SignIn(self, request: Any, context: Any) -> Any:
        FAKES.seen("SignIn", request, context)
        return identity_pb2.SignInResponse(tokens=tokens(), account=account(), device_token="device-1")

    async def RefreshSession(self, request: Any, context: Any) -> Any:
        FAKES.seen("RefreshSession", request, context)
        return identity_pb2.RefreshSessionResponse(tokens=tokens(), account=account())

    async def SignOut(self, request: Any, context: Any) -> Any:
        FAKES.seen("SignOut", request, context)
        return identity_pb2.SignOutResponse()

    async def ChangePassword(self, request: Any, context: Any) -> Any:
        subject = FAKES.seen("ChangePassword", request, context)
        return identity_pb2.ChangePasswordResponse(account=account(subject))

    async def SetAccountStatus(self, request: Any, context: Any) -> Any:
        FAKES.seen("SetAccountStatus", request, context)
        return identity_pb2.SetAccountStatusResponse(account=account(request.account_id))


@_guarded
class Catalog(catalog_pb2_grpc.CatalogServiceServicer):
    async def BatchGetProcedures(self, request: Any, context: Any) -> Any:
        FAKES.seen("BatchGetProcedures", request, context)
        found = []
        for name in request.names:
            code, _, version = name.partition("@")
            found.append(
                catalog_pb2.Procedure(
                    code=code,
                    version=int(version or 1),
                    name="Đăng ký khai sinh",
                    field="Hộ tịch",
                    decision="" if request.summary_only else "QĐ 1",
                )
            )
        return catalog_pb2.BatchGetProceduresResponse(procedures=found)

    async def GetProcedure(self, request: Any, context: Any) -> Any:
        FAKES.seen("GetProcedure", request, context)
        raise NotFound("PROCEDURE_NOT_FOUND", "no such procedure")


@_guarded
class Dossiers(dossier_pb2_grpc.DossierServiceServicer):
    async def ListDossiers(self, request: Any, context: Any) -> Any:
        FAKES.seen("ListDossiers", request, context)
        start = int(request.page_token or 0)
        stop = min(start + request.page_size, FAKES.dossiers)
        return dossier_pb2.ListDossiersResponse(
            dossiers=[dossier(number) for number in range(start, stop)],
            next_page_token=str(stop) if stop < FAKES.dossiers else "",
        )

    async def GetDossier(self, request: Any, context: Any) -> Any:
        subject = FAKES.seen("GetDossier", request, context)
        if subject not in FAKES.readable:
            raise Forbidden("NOT_YOUR_DOSSIER", "it is somebody else's")
        return dossier_pb2.GetDossierResponse(dossier=dossier(int(request.id.rpartition("-")[2])))

    async def BatchGetDossiers(self, request: Any, context: Any) -> Any:
        FAKES.seen("BatchGetDossiers", request, context)
        answered = request.ids[: FAKES.forms_at_once] if request.with_forms else request.ids
        reply = dossier_pb2.BatchGetDossiersResponse(
            dossiers=[dossier(int(id.rpartition("-")[2])) for id in answered if id.startswith("dossier-")],
            left_out_ids=request.ids[len(answered) :],
        )
        for each in reply.dossiers if request.with_forms else ():
            each.form_json = FAKES.form_json
        return reply

    async def CreateDossier(self, request: Any, context: Any) -> Any:
        FAKES.seen("CreateDossier", request, context)
        return dossier_pb2.CreateDossierResponse(dossier=dossier(1))

    async def SubmitDossier(self, request: Any, context: Any) -> Any:
        FAKES.seen("SubmitDossier", request, context)
        return dossier_pb2.SubmitDossierResponse(dossier=dossier(1))

    async def TrackDossier(self, request: Any, context: Any) -> Any:
        FAKES.seen("TrackDossier", request, context)
        raise NotFound("DOSSIER_NOT_FOUND", "no such dossier")


@_guarded
class Vault(vault_pb2_grpc.VaultServiceServicer):
    def _upload(self) -> vault_pb2.Upload:
        done = FAKES.upload_size and len(FAKES.upload) == FAKES.upload_size
        return vault_pb2.Upload(
            id="upload-1",
            size=FAKES.upload_size,
            offset=len(FAKES.upload),
            expire_time=stamp(int(time.time()) + 3600),
            document_id="document-1" if done else "",
            filename="khai sinh.pdf",
        )

    async def BeginUpload(self, request: Any, context: Any) -> Any:
        FAKES.seen("BeginUpload", request, context)
        FAKES.upload_size = request.size
        FAKES.upload.clear()
        return vault_pb2.BeginUploadResponse(upload=self._upload())

    async def GetUpload(self, request: Any, context: Any) -> Any:
        subject = FAKES.seen("GetUpload", request, context)
        if request.id != "upload-1" or subject not in FAKES.readable:
            raise NotFound("UPLOAD_NOT_FOUND", "no such upload")
        return vault_pb2.GetUploadResponse(upload=self._upload())

    async def AppendUpload(self, messages: Any, context: Any) -> Any:
        FAKES.calls["AppendUpload"] += 1
        first = True
        async for message in messages:
            if first:
                first = False
                assert (message.id, message.offset) == ("upload-1", len(FAKES.upload))
            FAKES.largest_message = max(FAKES.largest_message, len(message.data))
            FAKES.upload += message.data
        document = vault_pb2.Document(id="document-1") if len(FAKES.upload) == FAKES.upload_size else None
        return vault_pb2.AppendUploadResponse(upload=self._upload(), document=document)

    async def CancelUpload(self, request: Any, context: Any) -> Any:
        FAKES.seen("CancelUpload", request, context)
        return vault_pb2.CancelUploadResponse()

    async def GetStorage(self, request: Any, context: Any) -> Any:
        FAKES.seen("GetStorage", request, context)
        return vault_pb2.GetStorageResponse(
            storage=vault_pb2.Storage(
                used_bytes=2**31 + 1, limit_bytes=2**32, documents=7, document_limit=1000
            )
        )

    async def BatchGetDocuments(self, request: Any, context: Any) -> Any:
        FAKES.seen("BatchGetDocuments", request, context)
        return vault_pb2.BatchGetDocumentsResponse(
            documents=[vault_pb2.Document(id=id, title="Giấy khai sinh") for id in request.ids]
        )

    async def ReadDocument(self, request: Any, context: Any) -> AsyncIterator[Any]:
        FAKES.seen("ReadDocument", request, context)
        if request.token != "token-1":
            error = NotFound("DOWNLOAD_NOT_FOUND", "no such download")
            context.set_trailing_metadata(status.to_details(error))
            await context.abort(status.code_of(error), error.message)
        yield vault_pb2.ReadDocumentResponse(
            version=vault_pb2.DocumentVersion(
                version=1,
                sha256="abc",
                size=len(FAKES.document),
                content_type="application/pdf",
                filename=FAKES.document_name,
            )
        )
        if request.metadata_only:
            return
        stop = request.offset + request.length if request.length else len(FAKES.document)
        for start in range(request.offset, stop, 1000):
            yield vault_pb2.ReadDocumentResponse(data=FAKES.document[start : min(start + 1000, stop)])


@_guarded
class Payment(payment_pb2_grpc.PaymentServiceServicer):
    async def BatchGetCharges(self, request: Any, context: Any) -> Any:
        FAKES.seen("BatchGetCharges", request, context)
        return payment_pb2.BatchGetChargesResponse(
            charges=[
                payment_pb2.Charge(
                    id=id, state=payment_pb2.CHARGE_STATE_DUE, amount=8000, currency="VND", payer_id=AN
                )
                for id in request.ids
            ]
        )

    async def HandleVnpayIpn(self, request: Any, context: Any) -> Any:
        FAKES.seen("HandleVnpayIpn", request, context)
        return payment_pb2.HandleVnpayIpnResponse(rsp_code="00", message="Confirm Success")

    async def HandleTransferNotice(self, request: Any, context: Any) -> Any:
        FAKES.seen("HandleTransferNotice", request, context)
        return payment_pb2.HandleTransferNoticeResponse(rsp_code="00", message="ok")

    async def ReadVnpayReturn(self, request: Any, context: Any) -> Any:
        FAKES.seen("ReadVnpayReturn", request, context)
        return payment_pb2.ReadVnpayReturnResponse(
            valid=True, charge_id="charge-1", state=payment_pb2.PAYMENT_STATE_PAID, response_code="00"
        )


@_guarded
class Notify(notify_pb2_grpc.NotifyServiceServicer):
    async def ListNotices(self, request: Any, context: Any) -> Any:
        FAKES.seen("ListNotices", request, context)
        return notify_pb2.ListNoticesResponse(
            notices=[notice(f"notice-{number}") for number in range(min(request.page_size, 5))]
        )

    async def BatchGetNotices(self, request: Any, context: Any) -> Any:
        FAKES.seen("BatchGetNotices", request, context)
        return notify_pb2.BatchGetNoticesResponse(notices=[notice(id) for id in request.ids])

    async def GetUnreadCount(self, request: Any, context: Any) -> Any:
        FAKES.seen("GetUnreadCount", request, context)
        return notify_pb2.GetUnreadCountResponse(unread_count=3)

    async def MarkNoticesRead(self, request: Any, context: Any) -> Any:
        FAKES.seen("MarkNoticesRead", request, context)
        return notify_pb2.MarkNoticesReadResponse(unread_count=0)


class Health(health_pb2_grpc.HealthServicer):
    async def Check(self, request: Any, context: Any) -> Any:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def notice(id: str) -> notify_pb2.Notice:
    return notify_pb2.Notice(
        id=id, recipient_id=AN, kind="dossier_received", title="Đã tiếp nhận", body="…", create_time=stamp()
    )


def _fake(servicer: Any) -> Any:
    """An instance, whatever methods it lacks: nobody calls those."""
    return servicer()


@pytest.fixture(scope="session")
async def target() -> AsyncIterator[str]:
    """All fakes behind one port."""
    server = grpc.aio.server()
    identity_pb2_grpc.add_IdentityServiceServicer_to_server(_fake(Identity), server)
    catalog_pb2_grpc.add_CatalogServiceServicer_to_server(_fake(Catalog), server)
    dossier_pb2_grpc.add_DossierServiceServicer_to_server(_fake(Dossiers), server)
    vault_pb2_grpc.add_VaultServiceServicer_to_server(_fake(Vault), server)
    payment_pb2_grpc.add_PaymentServiceServicer_to_server(_fake(Payment), server)
    notify_pb2_grpc.add_NotifyServiceServicer_to_server(_fake(Notify), server)
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


@pytest.fixture(scope="session")
def issue() -> Callable[..., str]:
    """Issues access tokens: `issue(subject, kind=…, seconds=…, key=…)`."""
    return token


@pytest.fixture(scope="session")
def serving() -> Callable[..., Any]:
    """Serves a gateway with settings of one's own: `async with serving(settings) as gateway`."""
    return serve


@pytest.fixture
def fakes() -> Fakes:
    """The fakes, as new."""
    FAKES.reset()
    return FAKES


@dataclass
class Gateway:
    """A running gateway and how to talk to it."""

    url: str
    http: httpx.AsyncClient

    async def ask(
        self,
        query: str,
        variables: dict[str, Any] | None = None,
        *,
        bearer: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """POSTs a query; as An unless told otherwise (an empty `bearer` is nobody)."""
        sent = {"authorization": f"Bearer {token() if bearer is None else bearer}"} if bearer != "" else {}
        return await self.http.post(
            "/graphql", json={"query": query, "variables": variables}, headers=sent | (headers or {})
        )

    async def data(self, query: str, variables: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """The data of a query that must not fail."""
        answer = (await self.ask(query, variables, **kwargs)).json()
        assert "errors" not in answer, answer
        return answer["data"]


@asynccontextmanager
async def serve(settings: GatewaySettings) -> AsyncIterator[Gateway]:
    """A gateway on a free port of this process."""
    config = uvicorn.Config(
        build(settings), port=0, log_config=None, ws="websockets-sansio", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url) as http:
        yield Gateway(url, http)
    server.should_exit = True
    await running


@pytest.fixture(scope="session")
def settings_for(target: str) -> Callable[..., GatewaySettings]:
    """Makes settings that lead to the fakes."""

    def make(**given: Any) -> GatewaySettings:
        targets = dict.fromkeys(
            ("identity_target", "catalog_target", "dossier_target", "payment_target", "notify_target"), target
        )
        return GatewaySettings(
            **({"environment": "test", "nats_url": "nats://127.0.0.1:1"} | targets | given)
        )

    return make


@pytest.fixture(scope="session")
async def shared(settings_for: Callable[..., GatewaySettings]) -> AsyncIterator[Gateway]:
    async with serve(settings_for(allowed_origins="https://app.example.vn")) as gateway:
        yield gateway


@pytest.fixture
async def gateway(shared: Gateway, fakes: Fakes) -> Gateway:
    """A gateway shared by the tests, in front of fakes as new."""
    shared.http.cookies.clear()
    return shared
