"""Mutual TLS with certificates made here: who is let in, and what a renewed certificate costs."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import nats
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf.wrappers_pb2 import StringValue
from pydantic import ValidationError

from dev.options import free_port
from gateway.live import Live
from kit import tls
from kit.grpc_client import Channel, connect
from kit.grpc_server import Server
from kit.service import Service
from kit.settings import CannotStart, Settings
from kit.tls import nats_context
from tests.component.test_life import probed
from tests.component.test_rpc import NAME, Echo, add
from tests.conftest import _BIN, run_part

Eventually = Callable[..., Awaitable[Any]]
_NOW = datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True)
class Authority:
    """A CA that signs for this machine."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def made(cls) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(_signed("CA", key, None), key)

    def issue(self, folder: Path, *also: Authority) -> dict[str, str]:
        """A certificate in files, which believes in us `also`; the settings that name them."""
        key = ec.generate_private_key(ec.SECP256R1())
        found = {
            "tls_cert": _pem(_signed("service", key, self)),
            "tls_key": key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            "tls_ca": b"".join(_pem(one.certificate) for one in (self, *also)),
        }
        folder.mkdir(exist_ok=True)
        for name, data in found.items():
            (folder / name).write_bytes(data)
        return {name: str(folder / name) for name in found}


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _signed(name: str, key: ec.EllipticCurvePrivateKey, by: Authority | None) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW - datetime.timedelta(minutes=5))
        .not_valid_after(_NOW + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
    )
    return made.sign(by.key if by else key, hashes.SHA256())


def call(channel: Any, text: str = "hello", timeout: float = 10) -> Awaitable[StringValue]:
    made = channel.unary_unary(
        f"/{NAME}/Say",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )
    answer: Awaitable[StringValue] = made(StringValue(value=text), timeout=timeout)
    return answer


@asynccontextmanager
async def serving(files: dict[str, str], **more: Any) -> AsyncIterator[Server]:
    server = Server(Settings(environment="test", grace=1, **files, **more), [(add, Echo())])  # type: ignore[arg-type]
    await server.start()
    yield server
    await server.stop()


def channel_to(server: Server, files: dict[str, str]) -> Channel:
    return connect(f"localhost:{server.port}", tls=Settings(**files).tls)  # type: ignore[arg-type]


async def refused(channel: Any) -> bool:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(channel)
    await channel.close()
    return raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_who_has_a_certificate_of_our_ca_is_served(tmp_path: Path) -> None:
    ours = Authority.made()
    async with (
        serving(ours.issue(tmp_path / "server")) as server,
        channel_to(server, ours.issue(tmp_path / "client")) as channel,
    ):
        assert (await call(channel)).value == "hello"


async def test_who_has_none_or_one_of_another_ca_is_refused(tmp_path: Path) -> None:
    ours, theirs = Authority.made(), Authority.made()
    files = ours.issue(tmp_path / "server")
    root = Path(files["tls_ca"]).read_bytes()
    async with serving(files) as server:
        target = f"localhost:{server.port}"
        assert await refused(grpc.aio.insecure_channel(target))
        assert await refused(grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(root)))
        assert await refused(channel_to(server, theirs.issue(tmp_path / "stranger", ours)))


async def test_a_server_of_another_ca_is_not_believed(tmp_path: Path) -> None:
    ours, theirs = Authority.made(), Authority.made()
    async with serving(theirs.issue(tmp_path / "server", ours)) as server:
        assert await refused(channel_to(server, ours.issue(tmp_path / "client")))


async def test_renewed_files_are_used_by_both_sides_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(tls, "_LOOK", 0.0)
    before, after = Authority.made(), Authority.made()
    async with (
        serving(before.issue(tmp_path / "server"), grpc_max_connection_age=600.0) as server,
        channel_to(server, before.issue(tmp_path / "client")) as channel,
    ):
        words: asyncio.Queue[str] = asyncio.Queue()
        shouted = shout(channel, words)
        words.put_nowait("before")
        assert (await anext(shouted)).value == "BEFORE"
        assert (await call(channel)).value == "hello"
        after.issue(tmp_path / "server")
        after.issue(tmp_path / "client")
        async with channel_to(server, after.issue(tmp_path / "newcomer")) as newcomer:
            assert (await call(newcomer)).value == "hello"
        assert (await call(channel)).value == "hello"
        words.put_nowait("after")  # on the connection from before
        assert (await anext(shouted)).value == "AFTER"
        await shouted.aclose()
        assert await refused(channel_to(server, before.issue(tmp_path / "latecomer")))


def shout(channel: Channel, words: asyncio.Queue[str]) -> Any:
    async def requests() -> AsyncIterator[StringValue]:
        while True:
            yield StringValue(value=await words.get())

    made = channel.stream_stream(
        f"/{NAME}/Shout",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )
    return made(requests())


def test_a_key_that_is_not_yet_renewed_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_LOOK", 0.0)
    ours = Authority.made()
    named, fresh = ours.issue(tmp_path / "here"), ours.issue(tmp_path / "fresh")
    files = Settings(**named).tls  # type: ignore[arg-type]
    assert files is not None
    before = files.current()
    Path(named["tls_cert"]).write_bytes(Path(fresh["tls_cert"]).read_bytes())
    assert files.current() is before
    Path(named["tls_key"]).write_bytes(Path(fresh["tls_key"]).read_bytes())
    assert files.current().certificate == Path(fresh["tls_cert"]).read_bytes()


def test_half_of_the_files_or_unreadable_ones_are_said_in_one_line(tmp_path: Path) -> None:
    files = Authority.made().issue(tmp_path)
    with pytest.raises(ValidationError, match="TLS_CERT, TLS_KEY and TLS_CA go together"):
        Settings(tls_cert=files["tls_cert"])
    for name in files:
        with pytest.raises(CannotStart, match=r"^bad setting: TLS_CERT, TLS_KEY, TLS_CA: .*No such file"):
            _ = Settings(**files | {name: str(tmp_path / "nowhere")}).tls  # type: ignore[arg-type]
        (tmp_path / "rubbish").write_text("rubbish")
        with pytest.raises(CannotStart, match=r"^bad setting: TLS_CERT, TLS_KEY, TLS_CA: "):
            _ = Settings(**files | {name: str(tmp_path / "rubbish")}).tls  # type: ignore[arg-type]


async def test_probes_need_no_certificate(tmp_path: Path) -> None:
    probe = f"127.0.0.1:{free_port()}"
    conf = Settings(environment="test", probe_listen=probe, **Authority.made().issue(tmp_path))  # type: ignore[arg-type]
    service = Service("one", conf, servicers=[(add, Echo())])
    await service.start()
    assert await probed(service.probe_port, "ready") == "SERVING"
    assert await probed(service.port) == "UNAVAILABLE"
    await service.stop()


async def test_nats_is_reached_with_the_same_files(tmp_path: Path, eventually: Eventually) -> None:
    ours, port = Authority.made(), free_port()
    server = ours.issue(tmp_path / "nats")
    command = [f"{_BIN}/nats-server", "-js", "-sd", f"{tmp_path}/store", "-a", "127.0.0.1", "-p", str(port)]
    command += ["--tlsverify", "--tlscert", server["tls_cert"], "--tlskey", server["tls_key"]]
    command += ["--tlscacert", server["tls_ca"]]
    url = f"tls://localhost:{port}"
    conf = Settings(environment="test", nats_url=url, **ours.issue(tmp_path / "client"))  # type: ignore[arg-type]
    for _ in run_part(command, port, tmp_path / "log"):
        live = Live()
        await live.start(conf.nats_url, conf.tls)
        assert live.connected
        await live.stop()
        context = nats_context(url, conf.tls)
        assert context is not None
        assert conf.tls is not None
        fresh = ours.issue(tmp_path / "fresh")  # its key comes a moment later
        Path(conf.tls_cert).write_bytes(Path(fresh["tls_cert"]).read_bytes())
        conf.tls.renew(context)
        await (await nats.connect(url, tls=context, allow_reconnect=False, error_cb=_quiet)).close()
        with pytest.raises(Exception, match=r"(?i)ssl|tls|certificate|No servers|no servers"):
            await nats.connect(url, allow_reconnect=False, connect_timeout=2, error_cb=_quiet)


async def _quiet(_error: Exception) -> None:
    pass
