"""The parts that tests run on: a MongoDB wire and NATS with JetStream, started once a session."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
import nats
import pytest

from dev.leash import leashed
from dev.options import free_port
from kit.settings import Settings
from ops.prepare import event_steps, prepare, run

hypothesis.settings.register_profile("steady", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("steady")

_BIN = Path(sys.executable).parent


def run_part(command: list[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a program, waits until its port answers, ends it afterwards."""
    with log.open("wb") as out:
        process = subprocess.Popen(leashed(command), stdout=out, stderr=out, start_new_session=True)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-2000:]}") from None
                time.sleep(0.05)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="session")
def mongo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`MONGODB_URL`; else a `mongod` found on the path, as a one-node replica set; else the stand-in."""
    if given := os.environ.get("MONGODB_URL"):
        yield given
        return
    home, port = tmp_path_factory.mktemp("mongo"), free_port()
    (home / "data").mkdir()
    if mongod := shutil.which("mongod"):
        command = [mongod, "--dbpath", f"{home}/data", "--port", str(port), "--bind_ip", "127.0.0.1"]
        for _ in run_part([*command, "--replSet", "rs0"], port, home / "log"):
            _initiate(port)
            yield f"mongodb://127.0.0.1:{port}/?replicaSet=rs0"
        return
    command = [f"{_BIN}/nx-27017", "--data-dir", f"{home}/data", "-p", str(port)]
    for _ in run_part(
        [*command, "--pid-file", f"{home}/pid", "--log-file", f"{home}/nx.log"], port, home / "log"
    ):
        yield f"mongodb://127.0.0.1:{port}"


def _initiate(port: int) -> None:
    from pymongo import MongoClient

    with MongoClient[dict[str, Any]]("127.0.0.1", port, directConnection=True) as client:
        member = {"_id": 0, "host": f"127.0.0.1:{port}"}
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
        deadline = time.monotonic() + 30
        while not client.admin.command("hello")["isWritablePrimary"]:
            if time.monotonic() > deadline:
                raise RuntimeError("the replica set elected nobody")
            time.sleep(0.1)


@pytest.fixture(scope="module")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`NATS_URL`, else a nats-server with JetStream for each test module: what one service announces in its
    tests would be heard by the next."""
    if given := os.environ.get("NATS_URL"):
        yield given
        return
    home, port = tmp_path_factory.mktemp("nats"), free_port()
    command = [f"{_BIN}/nats-server", "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", f"{home}/store"]
    for _ in run_part(command, port, home / "log"):
        prepare_nats(f"nats://127.0.0.1:{port}")
        yield f"nats://127.0.0.1:{port}"


async def prepare_for(url: str, contexts: Iterable[str], subscriptions: Iterable[Any] = ()) -> None:
    """Streams and consumers of a test's own services, as `ops.prepare` would make them."""
    client = await nats.connect(url)
    steps = event_steps(client.jetstream(), 1, contexts=contexts, subscriptions=subscriptions)
    await run(steps, 10, lambda line: None)
    await client.close()


def prepare_nats(url: str) -> None:
    """The streams and consumers of the services, as `ops.prepare` makes them before they start."""
    settings = Settings(environment="test", nats_url=url, start_patience=10)
    silent: Callable[[str], None] = lambda line: None  # noqa: E731
    # In a thread of its own: the loop of the tests may be the one that runs here.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(prepare(settings, silent))).result()


@pytest.fixture(scope="session")
def other_nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second nats-server, for the whole stack in this process: its consumers have the names that those of
    the services under test have, and would share their events."""
    server = NatsServer(tmp_path_factory.mktemp("other-nats"))
    server.start()
    prepare_nats(server.url)
    yield server.url
    server.stop()


class NatsServer:
    """A nats-server of one test, which it may stop and start again; the store stays."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._port = free_port()
        self._running: Iterator[subprocess.Popen[bytes]] | None = None
        self.url = f"nats://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns when it answers."""
        command = [f"{_BIN}/nats-server", "-js", "-a", "127.0.0.1", "-p", str(self._port)]
        self._running = run_part([*command, "-sd", f"{self._home}/store"], self._port, self._home / "log")
        next(self._running)

    def stop(self) -> None:
        """Returns when it has ended."""
        if self._running is not None:
            next(self._running, None)
            self._running = None


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A running nats-server of the test's own: `.url`, `.stop()`, `.start()`."""
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.stop()


Eventually = Callable[..., Awaitable[Any]]


async def _eventually(
    condition: Callable[[], Any], *, within: float = 10.0, every: float = 0.02, message: str = ""
) -> Any:
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(message or f"not true within {within:g} s")
        await asyncio.sleep(every)


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """`await eventually(lambda: …, within=seconds)`: the first true value of a condition, sync or async."""
    return _eventually
