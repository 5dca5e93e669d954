"""Wires the service."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore.exceptions
from pydantic import Field, SecretStr

from dossier.antivirus import Clamd
from dossier.content.inspector import Inspector
from dossier.content.recognise import claimed
from dossier.domain.storage import Allowance
from dossier.events_in import subscriptions
from dossier.forms import Forms
from dossier.grpc_api.dossiers import DossierApi
from dossier.grpc_api.vault import VaultApi
from dossier.handlers import Catalog, Identity, Limits, Ports
from dossier.handlers.checking import Checking, waiting
from dossier.handlers.records import backfill
from dossier.handlers.uploads import sweep
from dossier.limiter import Limiter
from dossier.objects import open_objects
from dossier.peers import GrpcCatalog, GrpcIdentity, Keys
from dossier.store import MongoCodes, open_stores
from kit import clock
from kit.auth import TokenVerifier
from kit.clock import Clock
from kit.grpc_client import connect
from kit.mongo import connect as connect_mongo
from kit.service import CannotStart, Service
from kit.settings import Settings
from motcua.dossier.v1.dossier_pb2_grpc import add_DossierServiceServicer_to_server
from motcua.dossier.v1.vault_pb2_grpc import add_VaultServiceServicer_to_server

log = logging.getLogger(__name__)
_CHECK_AGAIN = 5.0  # seconds between two looks at what is held back


class DossierSettings(Settings):
    """What this service can be told."""

    catalog_target: str = Field("127.0.0.1:9002", description="gRPC target of the catalogue")
    object_store_url: str = Field(
        "",
        description="file:///folder or s3://bucket/prefix, with AWS_ENDPOINT, AWS_REGION, AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY, AWS_ALLOW_HTTP=true for an endpoint without TLS; "
        "empty: .data/objects, refused in production",
    )
    upload_limit_bytes: int = Field(
        500 * 2**20, ge=1, le=5 * 2**30, description="largest file of the vault; S3 copies no larger one"
    )
    upload_part_bytes: int = Field(
        4 * 2**20, ge=64 * 1024, le=64 * 2**20, description="bytes stored at once; each open stream holds one"
    )
    inspect_count: int = Field(
        2, ge=1, description="files whose structure is looked into at once, each by a process"
    )
    inspect_cpu_seconds: float = Field(
        30.0, gt=0, description="CPU seconds that looking into one file may take"
    )
    inspect_seconds: float = Field(60.0, gt=0, description="seconds that looking into one file may take")
    inspect_memory_bytes: int = Field(
        640 * 2**20, ge=128 * 2**20, description="memory that looking into one file may take"
    )
    inspect_folder: str = Field(
        "",
        description="where a file lies while it is looked into, with room for INSPECT_COUNT of the largest; "
        "empty: the system's folder for such",
    )
    upload_hours: float = Field(24.0, gt=0, description="hours until an unfinished upload is dropped")
    upload_open: int = Field(20, ge=1, description="unfinished uploads that an account may have")
    upload_streams: int = Field(8, ge=1, description="uploads taken in at once; more wait")
    upload_idle_seconds: float = Field(
        30.0, gt=0, description="seconds without a byte after which an upload gives its place to another"
    )
    storage_person_bytes: int = Field(
        2 * 2**30, ge=1, le=2**50, description="bytes of files that a person may keep in the vault"
    )
    storage_person_documents: int = Field(
        1_000, ge=1, le=10**9, description="documents that a person may keep in the vault"
    )
    storage_organisation_bytes: int = Field(
        20 * 2**30, ge=1, le=2**50, description="bytes of files that an organisation may keep in the vault"
    )
    storage_organisation_documents: int = Field(
        20_000, ge=1, le=10**9, description="documents that an organisation may keep in the vault"
    )
    antivirus_url: str = Field(
        "",
        description="clamd, as tcp://host:port or unix:///path: a file is held back until it is found clean; "
        "empty: no antivirus, which production has to say by `none`",
    )
    antivirus_seconds: float = Field(
        120.0,
        gt=0,
        description="seconds that the antivirus may take for a piece of a file, or a verdict",
    )
    antivirus_at_once: int = Field(4, ge=1, description="files that the antivirus is asked about at once")
    download_secret: SecretStr = Field(
        SecretStr(""),
        description="key of download tokens, the same for all replicas; required in production, "
        "else made anew at each start",
    )
    download_seconds: int = Field(300, ge=1, description="seconds that a download token is good for")
    form_processes: int = Field(
        1, ge=1, le=16, description="processes that check forms; each takes up to 170 MB while it works"
    )
    track_tries: int = Field(60, ge=1, description="codes that one address may try in ten minutes")
    sweep_seconds: float = Field(600.0, gt=0, description="seconds between two sweeps of object storage")


class DossierService(Service):
    """The service, and the ports that it was wired with."""

    def __init__(self, ports: Ports, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ports = ports


def build(
    settings: DossierSettings,
    *,
    catalog: Catalog | None = None,
    identity: Identity | None = None,
    verifier: TokenVerifier | None = None,
    now: Clock = clock.now,
) -> DossierService:
    """The service. Fakes replace the catalogue, identity, its keys and the time in tests."""
    if settings.environment == "production":
        if not settings.download_secret.get_secret_value():
            raise CannotStart("dossier: production needs DOWNLOAD_SECRET")
        if not settings.object_store_url:
            raise CannotStart("dossier: production needs OBJECT_STORE_URL")
        if not settings.antivirus_url:
            raise CannotStart(
                "dossier: production needs ANTIVIRUS_URL; `none` says that there is no antivirus"
            )
    url = settings.object_store_url or Path(".data/objects").absolute().as_uri()
    try:
        objects = open_objects(url)
    except (OSError, ValueError, obstore.exceptions.BaseError) as error:
        raise CannotStart(f"dossier: OBJECT_STORE_URL ({urlsplit(url).scheme}): {error}") from error
    database = connect_mongo(settings.mongodb_url, settings.mongodb_database or "motcua_dossier")
    stores = open_stores(database, now)
    tls = settings.tls
    keys = Keys(settings.identity_target, settings.service_secret.get_secret_value(), now, tls)
    to_identity = connect(settings.identity_target, timeout=5.0, bearer=keys.tokens, tls=tls)
    to_catalog = connect(settings.catalog_target, timeout=5.0, bearer=keys.tokens, tls=tls)
    inspector = Inspector(
        objects,
        count=settings.inspect_count,
        cpu_seconds=settings.inspect_cpu_seconds,
        memory_bytes=settings.inspect_memory_bytes,
        wall_seconds=settings.inspect_seconds,
        folder=settings.inspect_folder,
    )
    antivirus, woken = _antivirus(settings), asyncio.Event()
    forms = Forms(settings.form_processes)
    ports = Ports(
        clock=now,
        dossiers=stores.dossiers,
        documents=stores.documents,
        uploads=stores.uploads,
        accesses=stores.accesses,
        sights=stores.sights,
        blobs=stores.blobs,
        storages=stores.storages,
        codes=MongoCodes(database),
        catalog=catalog or GrpcCatalog(to_catalog),
        identity=identity or GrpcIdentity(to_identity, now),
        forms=forms,
        objects=objects,
        tracking=Limiter(settings.track_tries, 600.0),
        inspect=inspector.look,
        claimed=claimed,
        secret=settings.download_secret.get_secret_value().encode() or secrets.token_bytes(32),
        limits=Limits(
            upload_bytes=settings.upload_limit_bytes,
            upload_hours=settings.upload_hours,
            open_uploads=settings.upload_open,
            part_bytes=settings.upload_part_bytes,
            download_seconds=settings.download_seconds,
            person_storage=Allowance(settings.storage_person_bytes, settings.storage_person_documents),
            organisation_storage=Allowance(
                settings.storage_organisation_bytes, settings.storage_organisation_documents
            ),
        ),
        antivirus=antivirus,
        to_check=woken.set,
    )
    tasks = [_sweeping(ports, settings.sweep_seconds)]
    if antivirus is not None:
        checking = Checking(ports, antivirus, woken, at_once=settings.antivirus_at_once, seconds=_CHECK_AGAIN)
        tasks += [checking.run, partial(antivirus.measure, partial(waiting, ports))]
    return DossierService(
        ports,
        "dossier",
        settings,
        servicers=[
            (add_DossierServiceServicer_to_server, DossierApi(ports)),
            (
                add_VaultServiceServicer_to_server,
                VaultApi(ports, streams=settings.upload_streams, idle=settings.upload_idle_seconds),
            ),
        ],
        database=database,
        stores=stores.all(),
        subscriptions=subscriptions(ports),
        tasks=tasks,
        opening=[objects.check],
        closing=[forms.close, to_identity.close, to_catalog.close, keys.close, inspector.close],
        verifier=verifier or keys.verifier(),
    )


def _antivirus(settings: DossierSettings) -> Clamd | None:
    if settings.antivirus_url in ("", "none"):
        return None
    try:
        return Clamd(settings.antivirus_url, seconds=settings.antivirus_seconds)
    except ValueError as error:
        raise CannotStart(f"dossier: ANTIVIRUS_URL: {error}") from None


def _sweeping(ports: Ports, seconds: float) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        if written := await backfill(ports):
            log.info("%d dossiers got their rights to be seen", written)
        while True:
            if gone := await sweep(ports):
                log.info("%d orphaned objects swept", gone)
            await asyncio.sleep(seconds)

    return run
