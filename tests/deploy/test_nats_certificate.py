"""Production's NATS goes over to a renewed certificate while it runs, and loses nobody meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats

from dev.options import free_port
from kit.tls import Files
from tests.component.test_tls import Authority
from tests.conftest import run_part
from tests.deploy.rendered import PROD, Workload, overlay, own_env

Eventually = Callable[..., Awaitable[Any]]
_BIN = str(Path(sys.executable).parent)
NOBODY = "['nats://cluster:CLUSTER@127.0.0.1:1']"


def on_disk(home: Path, text: str) -> str:
    """The text with the pod's folders in `home` instead."""
    for folder in ("/etc/tls", "/run/nats"):
        (home / folder.rpartition("/")[2]).mkdir(parents=True, exist_ok=True)
        text = text.replace(folder, f"{home}/{folder.rpartition('/')[2]}")
    return text


def configured(home: Path, broker: Workload, port: int) -> list[str]:
    """The command of a node with production's configuration, alone: no other answers."""
    (volume,) = (v["configMap"]["name"] for v in broker.spec["volumes"] if "configMap" in v)
    for name, text in overlay(PROD).one("ConfigMap", volume)["data"].items():
        for number in ("4222", "6222", "8222"):
            text = text.replace(f"port: {number}", f"port: {port if number == '4222' else free_port()}")
        (home / name).write_text(on_disk(home, text))
    told = {**own_env(broker), "POD_NAME": "nats-0", "JETSTREAM_DIR": f"{home}/data", "NATS_ROUTES": NOBODY}
    settings = [f"{name}={value.replace('$(', '').replace(')', '')}" for name, value in told.items()]
    return ["env", *settings, f"{_BIN}/nats-server", "--config", f"{home}/nats.conf", "-a", "127.0.0.1"]


def renew(authority: Authority, home: Path) -> bytes:
    """New files for the node, as they are in its Secret; the certificate as a client sees it."""
    made = authority.issue(home / "made")
    for file, setting in (("tls.crt", "tls_cert"), ("tls.key", "tls_key"), ("ca.crt", "tls_ca")):
        shutil.copy(made[setting], home / "tls" / file)
    return ssl.PEM_cert_to_DER_cert((home / "tls/tls.crt").read_text())


def shown(port: int, files: Files) -> bytes | None:
    """The certificate that the server shows to who connects now; NATS speaks first, then comes TLS."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        assert plain.recv(65536).startswith(b"INFO ")
        with files.context().wrap_socket(plain, server_hostname="localhost") as secure:
            return secure.getpeercert(binary_form=True)


@contextmanager
def beside(home: Path, container: dict[str, Any]) -> Iterator[None]:
    """The container that tells the server of new files, looking often."""
    command = [on_disk(home, part) for part in container["command"]]
    env = {**os.environ, "PATH": f"{_BIN}:{os.environ['PATH']}", "EVERY": "0.05"}
    process = subprocess.Popen(command, env=env, start_new_session=True)
    try:
        yield
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(10) in (0, -signal.SIGTERM)


async def test_a_renewed_certificate_is_shown_at_once_and_connections_stay(
    tmp_path: Path, eventually: Eventually
) -> None:
    broker = overlay(PROD).workloads["nats"]
    container = next(one for one in broker.containers if one["name"] == "certificate")
    assert container["image"] == broker.app["image"]  # it has nats-server, which sends the signal
    assert broker.spec["shareProcessNamespace"] is True
    assert {"name": "EVERY", "value": "60"} in container["env"]
    port = free_port()
    command = configured(tmp_path, broker, port)
    authority = Authority.made()
    first = renew(authority, tmp_path)
    client = authority.issue(tmp_path / "client")
    files = Files(client["tls_cert"], client["tls_key"], client["tls_ca"])
    with contextmanager(run_part)(command, port, tmp_path / "log"):
        assert shown(port, files) == first
        lost: list[str] = []

        async def disconnected() -> None:
            lost.append("connection")

        connection = await nats.connect(
            f"tls://admin:ADMIN@localhost:{port}", tls=files.context(), disconnected_cb=disconnected
        )
        with beside(tmp_path, container):
            second = renew(authority, tmp_path)
            await eventually(lambda: shown(port, files) == second, within=20)
        await connection.flush()
        assert not lost
        await connection.close()
