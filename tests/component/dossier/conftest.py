"""A running dossier service with a catalogue and an identity that answer what a test tells them to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time as real_time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import nats
import obstore
import obstore.exceptions
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.timestamp_pb2 import Timestamp
from jwt.algorithms import OKPAlgorithm
from obstore.store import from_url
from pydantic import SecretStr

from dev.options import free_port
from dossier.bootstrap import DossierSettings, build
from dossier.handlers import Ports
from kit.clock import VIETNAM, to_text
from kit.errors import DomainError
from kit.grpc_client import connect
from kit.grpc_server import Server
from kit.ids import uuid7
from kit.service import Service
from kit.settings import Settings
from kit.status import from_rpc
from motcua.catalog.v1 import catalog_pb2 as cat
from motcua.catalog.v1.catalog_pb2_grpc import (
    CatalogServiceServicer,
    add_CatalogServiceServicer_to_server,
)
from motcua.dossier.v1 import dossier_pb2 as pb
from motcua.dossier.v1 import vault_pb2 as vp
from motcua.dossier.v1.dossier_pb2_grpc import DossierServiceStub
from motcua.dossier.v1.vault_pb2_grpc import VaultServiceStub
from motcua.identity.v1 import identity_pb2 as idp
from motcua.identity.v1.identity_pb2_grpc import (
    IdentityServiceServicer,
    add_IdentityServiceServicer_to_server,
)
from tests import papers

WARD, JUSTICE, PROVINCE = "H32.15", "H32.05", "H32"
PDF = papers.pdf()
ROLES = {
    "reception": [(WARD, "reception"), (WARD, "clerk"), (WARD, "cashier")],
    "examiner": [(WARD, "examiner")],
    "leader": [(WARD, "leader")],
    "other_examiner": [(JUSTICE, "examiner")],
    "other_leader": [(JUSTICE, "leader")],
    "other_reception": [(JUSTICE, "reception")],
    "admin": [(PROVINCE, "admin")],
}


def stamp(at: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(at)
    return made


def next_monday() -> datetime:
    """Nine o'clock in Vietnam on a Monday to come."""
    today = datetime.now(VIETNAM).date()
    monday = today + timedelta(days=7 - today.weekday())
    return datetime.combine(monday, time(9), VIETNAM).astimezone(UTC)


@dataclass
class Time:
    """A clock that stands still until it is put forward."""

    at: datetime = field(default_factory=next_monday)

    def __call__(self) -> datetime:
        return self.at

    def forward(self, **by: float) -> None:
        self.at += timedelta(**by)


class Catalog(CatalogServiceServicer):
    """Two procedures, Monday to Friday, and the law's cut-off at 15:00."""

    def __init__(self) -> None:
        step = cat.ProcessingStep
        civil = cat.Procedure(
            code="1.001193",
            version=3,
            name="Đăng ký khai sinh",
            curated=True,
            refundable_on_rejection=True,
            modes=[
                cat.FilingMode(channel=c, time_limit=cat.TimeLimit(amount=5, unit=cat.TIME_UNIT_WORKING_DAY))
                for c in (cat.CHANNEL_ONLINE, cat.CHANNEL_COUNTER)
            ],
            cases=[
                cat.ComponentCase(
                    id="",
                    components=[
                        cat.Component(
                            id="birth_proof",
                            name="Giấy chứng sinh",
                            required=True,
                            document_types=["birth_notice"],
                        ),
                        cat.Component(id="other", name="Giấy tờ khác"),
                    ],
                )
            ],
            steps=[
                step(id="examine", name="Thẩm tra", role="examiner", working_hours=8),
                step(id="check", name="Đối chiếu", role="examiner", agency=JUSTICE),
                step(id="sign", name="Ký", role="leader"),
            ],
        )
        civil.form.update(
            {
                "type": "object",
                "required": ["child", "born"],
                "additionalProperties": False,
                "properties": {
                    "child": {"type": "string", "minLength": 2, "maxLength": 100},
                    "born": {"type": "string", "format": "date"},
                    "copies": {"type": "integer", "minimum": 0},
                },
            }
        )
        imported = cat.Procedure(code="9.000001", version=1, name="Chưa có biểu mẫu")
        self.procedures = {"1.001193": civil, "9.000001": imported}
        self.known_fee = True
        self.asked = 0

    async def GetProcedure(self, request: cat.GetProcedureRequest, context: Any) -> cat.GetProcedureResponse:
        self.asked += 1
        found = self.procedures.get(request.code)
        if found is None or request.version not in (0, found.version):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such procedure")
        return cat.GetProcedureResponse(procedure=found)

    async def QuoteFee(self, request: cat.QuoteFeeRequest, context: Any) -> cat.QuoteFeeResponse:
        copies = dict(request.quantities).get("copy", 1)
        line = cat.FeeLine(name="Lệ phí bản sao", amount=8000 * copies, currency="VND", quantity=copies)
        return cat.QuoteFeeResponse(
            lines=[line] if self.known_fee else [],
            total=line.amount,
            currency="VND",
            refundable_on_rejection=True,
            known=self.known_fee,
        )

    async def ComputeDue(self, request: cat.ComputeDueRequest, context: Any) -> cat.ComputeDueResponse:
        local = request.start_time.ToDatetime(UTC).astimezone(VIETNAM)
        if request.limit.unit == cat.TIME_UNIT_HOUR:
            return cat.ComputeDueResponse(due_time=stamp(local + timedelta(hours=request.limit.amount)))
        day = local.date() if local.hour < 15 else working_day_after(local.date())
        for _ in range(request.limit.amount):
            day = working_day_after(day)
        return cat.ComputeDueResponse(due_time=stamp(datetime.combine(day, time(17), VIETNAM)))

    async def CountWorkingDays(
        self, request: cat.CountWorkingDaysRequest, context: Any
    ) -> cat.CountWorkingDaysResponse:
        day = request.start_time.ToDatetime(UTC).astimezone(VIETNAM).date()
        last, days = request.end_time.ToDatetime(UTC).astimezone(VIETNAM).date(), 0
        while (day := working_day_after(day)) <= last:
            days += 1
        return cat.CountWorkingDaysResponse(days=days)


def working_day_after(day: date) -> date:
    day += timedelta(days=1)
    while day.weekday() > 4:
        day += timedelta(days=1)
    return day


class Identity(IdentityServiceServicer):
    """Accounts, agencies, delegations and tokens of a test."""

    def __init__(self, clock: Time) -> None:
        self._key, self._clock = Ed25519PrivateKey.generate(), clock
        self.delegations: set[tuple[str, str, int]] = set()
        self.accounts: dict[str, idp.Account] = {}
        self.named: dict[str, str] = {}  # account by identifier
        self.agencies = {
            code: idp.Agency(code=code, reception=code != PROVINCE, valid_from="2025-07-01")
            for code in (WARD, JUSTICE, PROVINCE)
        }
        self.agencies["H32.99"] = idp.Agency(
            code="H32.99", reception=True, valid_from="2020-01-01", valid_to="2025-06-30", successor=WARD
        )

    def token(
        self,
        subject: str,
        kind: str,
        roles: Iterable[tuple[str, str]] = (),
        *,
        lasts: float = 600,
        verified: bool = True,
    ) -> str:
        """An access token of ours."""
        moment = int(real_time.time())
        claims = {
            "sub": subject,
            "kind": kind,
            "roles": list(roles),
            "ver": verified,
            "iss": "motcua",
            "aud": "motcua",
            "iat": moment - 10,
            "exp": moment + int(lasts),
        }
        return jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": "k1"})

    async def GetJwks(self, request: idp.GetJwksRequest, context: Any) -> idp.GetJwksResponse:
        key = json.loads(OKPAlgorithm.to_jwk(self._key.public_key()))
        return idp.GetJwksResponse(jwks=json.dumps({"keys": [{**key, "kid": "k1"}]}))

    async def IssueServiceToken(
        self, request: idp.IssueServiceTokenRequest, context: Any
    ) -> idp.IssueServiceTokenResponse:
        assert (request.service, request.secret) == ("dossier", "s3cret")
        return idp.IssueServiceTokenResponse(
            access_token=self.token("dossier", "service"),
            expire_time=stamp(self._clock() + timedelta(minutes=10)),
        )

    async def BatchGetAccounts(
        self, request: idp.BatchGetAccountsRequest, context: Any
    ) -> idp.BatchGetAccountsResponse:
        found = [self.accounts[id] for id in request.ids if id in self.accounts]
        return idp.BatchGetAccountsResponse(accounts=found)

    async def FindAccount(self, request: idp.FindAccountRequest, context: Any) -> idp.FindAccountResponse:
        if request.identifier not in self.named:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no account has this identifier")
        return idp.FindAccountResponse(account=self.accounts[self.named[request.identifier]])

    async def BatchGetAgencies(
        self, request: idp.BatchGetAgenciesRequest, context: Any
    ) -> idp.BatchGetAgenciesResponse:
        found = [self.agencies[code] for code in request.codes if code in self.agencies]
        after = [self.agencies[agency.successor] for agency in found if agency.successor]
        return idp.BatchGetAgenciesResponse(agencies=found + after)

    async def CheckDelegation(
        self, request: idp.CheckDelegationRequest, context: Any
    ) -> idp.CheckDelegationResponse:
        wanted = (request.principal_id, request.delegate_id, request.scope)
        return idp.CheckDelegationResponse(allowed=wanted in self.delegations)


@dataclass
class World:
    """The service, its surroundings, and clients of it."""

    service: Service
    settings: DossierSettings
    catalog: Catalog
    identity: Identity
    time: Time
    dossiers: DossierServiceStub
    vault: VaultServiceStub
    ports: Ports

    def citizen(self, *, verified: bool = True) -> str:
        """Somebody new: an account id."""
        id = uuid7()
        self.identity.accounts[id] = idp.Account(id=id, kind=idp.ACCOUNT_KIND_PERSON, verified=verified)
        return id

    def lend(self, principal: str, delegate: str, *scopes: int) -> None:
        """A delegation that holds from now on."""
        self.identity.delegations |= {(principal, delegate, scope) for scope in scopes}

    def metadata(self, who: str) -> list[tuple[str, str]]:
        """The token of a citizen's account, of an official by the name in ROLES, or of nobody."""
        if not who:
            return []
        if who in ROLES:
            token = self.identity.token(f"official-{who}", "official", ROLES[who])
        elif who.startswith("service:"):
            token = self.identity.token(who.removeprefix("service:"), "service")
        else:
            known = self.identity.accounts.get(who)
            token = self.identity.token(who, "citizen", verified=known is None or known.verified)
        return [("authorization", f"Bearer {token}")]

    async def call(self, method: str, who: str, message: Any) -> Any:
        """The answer of a unary RPC. Raises the DomainError that the service meant."""
        stub = self.vault if hasattr(self.vault, method) else self.dossiers
        sent = type(message)()
        sent.CopyFrom(message)  # the channel puts a request_id in; here each call is a request of its own
        try:
            return await getattr(stub, method)(sent, metadata=self.metadata(who), timeout=30)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None

    async def dossier_of(self, method: str, who: str, message: Any) -> pb.Dossier:
        """The dossier that a unary RPC answers."""
        dossier = (await self.call(method, who, message)).dossier
        assert isinstance(dossier, pb.Dossier)
        return dossier

    async def refused(self, method: str, who: str, message: Any) -> DomainError:
        """The failure that a unary RPC answers."""
        with pytest.raises(DomainError) as caught:
            await self.call(method, who, message)
        return caught.value

    async def append(
        self, who: str, id: str, data: bytes, *, offset: int = 0, chunk: int = 256 * 1024
    ) -> vp.AppendUploadResponse:
        """Sends bytes in one stream. Raises the DomainError that the service meant."""

        async def requests() -> AsyncIterator[vp.AppendUploadRequest]:
            yield vp.AppendUploadRequest(id=id, offset=offset, data=data[:chunk])
            for start in range(chunk, len(data), chunk):
                yield vp.AppendUploadRequest(data=data[start : start + chunk])

        try:
            append: Any = self.vault.AppendUpload
            answer = await append(requests(), metadata=self.metadata(who), timeout=60)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None
        assert isinstance(answer, vp.AppendUploadResponse)
        return answer

    async def upload(self, who: str, data: bytes = PDF, **fields: Any) -> vp.Document:
        """A document of `who`, whole."""
        fields = {"filename": "giấy chứng sinh.pdf", "type": "birth_notice", "title": "Chứng sinh", **fields}
        begun = await self.call("BeginUpload", who, vp.BeginUploadRequest(size=len(data), **fields))
        return (await self.append(who, begun.upload.id, data)).document

    async def draft(self, who: str, **fields: Any) -> pb.Dossier:
        """A draft that is complete, unless `fields` say otherwise."""
        if "attachments" not in fields:
            document = await self.upload(fields.get("applicant_id") or who)
            fields["attachments"] = [pb.Attachment(component_id="birth_proof", document_id=document.id)]
        request = pb.CreateDossierRequest(
            **{"procedure_code": "1.001193", "receiving_agency": WARD, "request_id": uuid7(), **fields}
        )
        if not request.HasField("form"):
            request.form.update({"child": "Nguyễn Văn Bé", "born": "2026-11-01"})
        return await self.dossier_of("CreateDossier", who, request)

    async def submitted(self, who: str, **fields: Any) -> pb.Dossier:
        """A dossier in state 1."""
        made = await self.draft(who, **fields)
        return await self.dossier_of("SubmitDossier", who, pb.SubmitDossierRequest(id=made.id))

    async def received(self, who: str, **fields: Any) -> pb.Dossier:
        """A dossier in state 2."""
        made = await self.submitted(who, **fields)
        return await self.dossier_of("ReceiveDossier", "reception", pb.ReceiveDossierRequest(id=made.id))

    async def get(self, who: str, id: str) -> pb.Dossier:
        return await self.dossier_of("GetDossier", who, pb.GetDossierRequest(id=id))

    async def stored(self) -> list[str]:
        """The keys of all objects there are."""
        folders = ("uploads", "staging", "sha256")
        return sorted([item.key for folder in folders async for item in self.ports.objects.list(folder)])

    async def announce(self, subject: str, message: Any, *, id: str = "") -> None:
        """Publishes an event of another service."""
        id = id or uuid7()
        client = await nats.connect(self.settings.nats_url)
        headers = {
            "Nats-Msg-Id": uuid7(),  # the stream's own memory shall not hide a second delivery
            "Nats-Expected-Stream": subject.split(".")[1],
            "ce-id": id,
            "ce-type": message.DESCRIPTOR.full_name,
            "ce-source": "test",
            "ce-time": to_text(self.time()),
        }
        await client.jetstream().publish(subject, message.SerializeToString(), headers=headers)
        await client.close()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """AWS_* variables that lead to an S3 server (SeaweedFS) with a bucket `vault`."""
    home = tmp_path_factory.mktemp("s3")
    ports: dict[str, int] = {}
    for part in ("master", "volume", "filer", "s3"):
        for kind in ("", ".grpc"):
            ports[f"-{part}.port{kind}"] = free_port(list(ports.values()))
    command = [f"{Path(sys.executable).parent}/weed", "server", "-s3", f"-dir={home}"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", *(f"{flag}={port}" for flag, port in ports.items())]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.peers=none", "-master.telemetry=false"]
    command += [f"-filer.localSocket={home}/filer", f"-s3.localSocket={home}/s3"]
    command += ["-volume.max=10", "-master.volumeSizeLimitMB=64"]
    keys = {"AWS_ACCESS_KEY_ID": "motcua-tests", "AWS_SECRET_ACCESS_KEY": uuid7()}
    own = {"TMPDIR": str(home), "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1", **keys}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=home, env={**os.environ, **own})
    try:
        deadline = real_time.monotonic() + 60
        while b"Start Seaweed S3 API Server" not in (home / "log").read_bytes():
            if process.poll() is not None or real_time.monotonic() > deadline:
                pytest.fail((home / "log").read_text()[-2000:])
            real_time.sleep(0.1)
        endpoint = f"http://127.0.0.1:{ports['-s3.port']}"
        variables = {"AWS_ENDPOINT": endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1", **keys}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            bucket = from_url(
                "s3://vault",
                client_options={"timeout": "5s", "allow_http": True},
                retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=5)},
            )
            while True:
                try:
                    obstore.put(bucket, "made", b"")  # the first object makes the bucket
                    break
                except obstore.exceptions.BaseError as error:
                    if real_time.monotonic() > deadline:
                        pytest.fail(f"{error}\n{(home / 'log').read_text()[-2000:]}")
        yield variables
    finally:
        process.kill()  # its data are the tests'; asked kindly it takes half a minute
        process.wait()
        for flag, port in ports.items():
            part = flag[1:].partition(".")[0]
            Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108


@pytest.fixture(scope="module")
def object_store_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """An empty place for objects: in a folder, or on the S3 server for a test with the parameter "s3"."""
    if getattr(request, "param", "folder") == "folder":
        yield (tmp_path_factory.mktemp("objects") / "made when missing").as_uri()
        return
    with pytest.MonkeyPatch.context() as patch:
        for name, value in request.getfixturevalue("s3").items():
            patch.setenv(name, value)
        yield f"s3://vault/{uuid7()}"


@pytest.fixture(scope="module")
def antivirus_url() -> str:
    """None, unless a module of tests brings one."""
    return ""


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def world(
    mongo_url: str, nats_url: str, object_store_url: str, antivirus_url: str
) -> AsyncIterator[World]:
    time = Time()
    catalog, identity = Catalog(), Identity(time)
    peers = Server(
        Settings(environment="test"),
        [
            (add_CatalogServiceServicer_to_server, catalog),
            (add_IdentityServiceServicer_to_server, identity),
        ],
    )
    await peers.start()
    settings = DossierSettings(
        environment="test",
        mongodb_url=mongo_url,
        mongodb_database=f"dossier_{uuid7()[-12:]}",
        nats_url=nats_url,
        identity_target=f"127.0.0.1:{peers.port}",
        catalog_target=f"127.0.0.1:{peers.port}",
        service_secret=SecretStr("s3cret"),
        object_store_url=object_store_url,
        upload_limit_bytes=64 * 2**20,
        upload_part_bytes=2**20,
        upload_open=200,
        sweep_seconds=3600,
        antivirus_url=antivirus_url,
        antivirus_seconds=20,
        grace=1,
    )
    service = build(settings, now=time)
    try:
        await service.start()
    except BaseException:
        await peers.stop()  # a server that is left to itself keeps the test run from ending
        raise
    channel = connect(f"127.0.0.1:{service.port}", timeout=30)
    yield World(
        service,
        settings,
        catalog,
        identity,
        time,
        DossierServiceStub(channel),
        VaultServiceStub(channel),
        service.ports,
    )
    await channel.close()
    await service.stop()
    await peers.stop()


@pytest.fixture
def anh(world: World) -> str:
    """A citizen."""
    return world.citizen()


@pytest.fixture
def binh(world: World) -> str:
    """Another citizen."""
    return world.citizen()
