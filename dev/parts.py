"""What a local stack is made of: every process with its command, its settings and how to tell it serves."""

import json
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure, PyMongoError

from dev.options import HOST, ROOT, SERVICES, Options, secret, tool, write_private

Check = Callable[[], Awaitable[bool]]
SEED = ROOT / "services" / "identity" / "seed.json"
IMPORTER = "importer"  # the name under which catalog.load acts
NOT_YET_INITIALIZED = 94  # MongoDB's code for a replica set without a configuration


@dataclass(frozen=True)
class Part:
    """One process. Parts of one stage start together, after those of earlier stages; they stop in reverse."""

    name: str
    command: list[str]
    ready: Check
    stage: int
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Addresses:
    """Where the parts of a stack are, for people and for tools."""

    gateway: str
    sandbox: str
    mail: str
    smtp: str
    nats: str
    mongodb: str
    store: str  # MongoDB (MONGODB_URL) | mongod | nx-27017
    data: str
    services: dict[str, str]  # name -> host:port of its gRPC API
    metrics: dict[str, str]  # name -> URL

    @property
    def graphql(self) -> str:
        """The one endpoint of the public API."""
        return f"{self.gateway}/graphql"

    @property
    def mail_folder(self) -> Path:
        """Where the mail catcher keeps each mail as a file."""
        return Path(self.data) / "mail"

    @property
    def logs(self) -> Path:
        """One file a part."""
        return Path(self.data) / "logs"


def elsewhere(gateway: str, sandbox: str, mail: str) -> Addresses:
    """A stack that is not this machine's, such as a cluster's: of it only these three are known."""
    return Addresses(
        gateway=gateway.rstrip("/"),
        sandbox=sandbox.rstrip("/"),
        mail=mail.rstrip("/"),
        smtp="",
        nats="",
        mongodb="",
        store="",
        data="",
        services={},
        metrics={},
    )


def addresses(options: Options) -> Addresses:
    """The addresses that a stack with these options will have."""
    port = options.ports
    own = "mongod" if shutil.which("mongod") else "nx-27017"
    replica_set = "/?replicaSet=rs0" if own == "mongod" else "/"
    return Addresses(
        gateway=f"http://{HOST}:{port['gateway']}",
        sandbox=f"http://{HOST}:{port['sandbox']}",
        mail=f"http://{HOST}:{port['mail']}",
        smtp=f"{HOST}:{port['mail_smtp']}",
        nats=f"nats://{HOST}:{port['nats']}",
        mongodb=options.mongodb_url or f"mongodb://{HOST}:{port['mongodb']}{replica_set}",
        store="MongoDB (MONGODB_URL)" if options.mongodb_url else own,
        data=str(options.data),
        services={name: f"{HOST}:{port[name]}" for name in SERVICES},
        metrics={n: f"http://{HOST}:{port[f'{n}_metrics']}/metrics" for n in (*SERVICES, "gateway")},
    )


def parts(options: Options, only: Collection[str] = ()) -> list[Part]:
    """All parts of a stack, or some, in the order in which they start. Raises Problem without a tool."""
    where = addresses(options)
    keys = Keys(options.data / "secrets")
    made = [
        _nats(options),
        *([] if options.mongodb_url else [_store(options, where)]),
        *(
            []
            if options.environment == "production"
            else [_mail(options, where), _sandbox(options, where, keys)]
        ),
        *(_service(name, options, where, keys) for name in SERVICES),
        _gateway(options, where, keys),
    ]
    return [part for part in made if not only or part.name in only]


class Keys:
    """The secrets of a stack: made at its first start, kept in files that only their owner reads."""

    def __init__(self, folder: Path) -> None:
        self.signing_keys = folder / "identity-keys.json"  # identity makes it
        self.services_file = folder / "services.json"
        self.services = {name: secret(folder, f"service-{name}") for name in (*SERVICES, "gateway", IMPORTER)}
        write_private(self.services_file, json.dumps(self.services))
        self.second_factor = secret(folder, "second-factor")
        self.vnpay = secret(folder, "vnpay")
        self.bank = secret(folder, "bank")
        self.downloads = secret(folder, "downloads")


def _nats(options: Options) -> Part:
    port, monitor = options.ports["nats"], options.ports["nats_monitor"]
    command = [tool("nats-server"), "-a", HOST, "-p", str(port), "-m", str(monitor), "-js"]
    command += ["-sd", str(options.data / "nats"), "--logtime=false"]
    return Part("nats", command, _http(f"http://{HOST}:{monitor}/healthz?js-enabled-only=true"), stage=0)


def _store(options: Options, where: Addresses) -> Part:
    port = options.ports["mongodb"]
    if where.store == "mongod":
        folder = options.data / "mongodb"
        folder.mkdir(parents=True, exist_ok=True)
        command = [tool("mongod"), "--bind_ip", HOST, "--port", str(port), "--dbpath", str(folder)]
        return Part("mongodb", [*command, "--replSet", "rs0", "--quiet"], _replica_set(port), stage=0)
    folder = options.data / "nx-27017"
    folder.mkdir(parents=True, exist_ok=True)
    pid_file = options.data / "nx-27017.pid"
    pid_file.unlink(missing_ok=True)  # this data folder is ours alone, so what is left is from a crash
    command = _module("dev.standin", "--host", HOST, "--port", str(port), "--data-dir", str(folder))
    return Part("mongodb", [*command, "--pid-file", str(pid_file)], _ping(where.mongodb), stage=0)


def _mail(options: Options, where: Addresses) -> Part:
    command = _module("dev.mailbox", str(where.mail_folder))
    command += [str(options.ports["mail_smtp"]), str(options.ports["mail"])]
    return Part("mail", command, _http(f"{where.mail}/mails"), stage=0)


def _sandbox(options: Options, where: Addresses, keys: Keys) -> Part:
    environment = {
        "ENVIRONMENT": options.environment,
        "SANDBOX_LISTEN": f"{HOST}:{options.ports['sandbox']}",
        "SANDBOX_DATA_DIR": str(options.data / "sandbox"),
        "VNPAY_HASH_SECRET": keys.vnpay,
        "VNPAY_IPN_URL": f"{where.gateway}/payments/vnpay/ipn",
        "BANK_SECRET": keys.bank,
        "BANK_NOTICE_URL": f"{where.gateway}/payments/transfer/notice",
    }
    return Part("sandbox", _module("sandbox"), _http(f"{where.sandbox}/healthz"), 0, environment)


def _service(name: str, options: Options, where: Addresses, keys: Keys) -> Part:
    own = {
        "identity": {
            "IDENTITY_SIGNING_KEYS": str(keys.signing_keys),
            "SERVICE_SECRETS_FILE": str(keys.services_file),
            "SECOND_FACTOR_KEYS": json.dumps([keys.second_factor]),
        },
        "dossier": {
            "OBJECT_STORE_URL": os.environ.get("OBJECT_STORE_URL") or (options.data / "objects").as_uri(),
            "DOWNLOAD_SECRET": keys.downloads,
        },
        "payment": {"VNPAY_RETURN_URL": f"{where.gateway}/payments/vnpay/return"},
        "notify": {"PORTAL_URL": f"{where.gateway}/"},
    }
    # What stands in for the world outside. In production that is for the environment to say.
    stand_ins = {
        "identity": {"IDENTITY_SEED": str(SEED)},
        "payment": {
            "VNPAY_HASH_SECRET": keys.vnpay,
            "VNPAY_PAY_URL": f"{where.sandbox}/paymentv2/vpcpay.html",
            "VNPAY_API_URL": f"{where.sandbox}/merchant_webapi/api",
            "BANK_SECRET": keys.bank,
            "BANK_API_URL": f"{where.sandbox}/bank/api",
        },
        "notify": {"SMTP_HOST": HOST, "SMTP_PORT": str(options.ports["mail_smtp"]), "SMTP_TLS": "none"},
    }
    environment = {
        **_common(name, options, where, keys),
        **own.get(name, {}),
        **({} if options.environment == "production" else stand_ins.get(name, {})),
        "GRPC_LISTEN": where.services[name],
    }
    return Part(name, _module(name), _grpc(where.services[name]), 1, environment)


def _gateway(options: Options, where: Addresses, keys: Keys) -> Part:
    environment = {
        **_common("gateway", options, where, keys),
        "GATEWAY_HOST": HOST,
        "GATEWAY_PORT": str(options.ports["gateway"]),
    }
    return Part("gateway", _module("gateway"), _http(f"{where.gateway}/status"), 2, environment)


def _common(name: str, options: Options, where: Addresses, keys: Keys) -> dict[str, str]:
    return {
        "ENVIRONMENT": options.environment,
        "MONGODB_URL": where.mongodb,
        "NATS_URL": where.nats,
        "METRICS_LISTEN": f"{HOST}:{options.ports[f'{name}_metrics']}",
        "SERVICE_SECRET": keys.services[name],
        "GRACE": "2",
        **_targets(where),
    }


def _targets(where: Addresses) -> dict[str, str]:
    return {f"{name.upper()}_TARGET": address for name, address in where.services.items()}


def loader_environment(data: Path, where: Addresses) -> dict[str, str]:
    """Settings of `python -m catalog.load` for the stack that has this data folder and these addresses."""
    secret = Keys(data / "secrets").services[IMPORTER]
    return {**_targets(where), "SERVICE_NAME": IMPORTER, "SERVICE_SECRET": secret}


def prepare_environment(options: Options, where: Addresses) -> dict[str, str]:
    """Settings of `python -m ops.prepare` for a stack."""
    return {
        "ENVIRONMENT": options.environment,
        "MONGODB_URL": where.mongodb,
        "NATS_URL": where.nats,
        "START_PATIENCE": "20",
    }


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _http(url: str) -> Check:
    async def check() -> bool:
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            try:
                return (await client.get(url)).status_code == 200
            except httpx.HTTPError:
                return False

    return check


def _grpc(target: str) -> Check:
    def health(channel: grpc.aio.Channel) -> grpc.aio.UnaryUnaryMultiCallable[Any, Any]:
        return channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )

    async def check() -> bool:
        async with grpc.aio.insecure_channel(target) as channel:
            try:
                answer = await health(channel)(health_pb2.HealthCheckRequest(), timeout=2)
            except grpc.aio.AioRpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    return check


def _ping(url: str) -> Check:
    async def check() -> bool:
        async with AsyncMongoClient[dict[str, object]](url, serverSelectionTimeoutMS=1000) as client:
            try:
                await client.admin.command("ping")
            except PyMongoError:
                return False
            return True

    return check


def _replica_set(port: int) -> Check:
    """Makes mongod a replica set of one node, or tells it its new port, and waits until it is the primary."""
    address = f"{HOST}:{port}"

    async def check() -> bool:
        url = f"mongodb://{address}/?directConnection=true"
        async with AsyncMongoClient[dict[str, object]](url, serverSelectionTimeoutMS=1000) as client:
            try:
                config = (await client.admin.command("replSetGetConfig"))["config"]
                if config["members"][0]["host"] != address:
                    config["members"][0]["host"] = address
                    config["version"] += 1
                    await client.admin.command("replSetReconfig", config, force=True)
                return bool((await client.admin.command("hello"))["isWritablePrimary"])
            except OperationFailure as failure:
                if failure.code == NOT_YET_INITIALIZED:
                    members = [{"_id": 0, "host": address}]
                    await client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
                return False
            except PyMongoError:
                return False

    return check
