"""A service whose password is stolen turns its rights against others: with the users of the cluster."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from dev.options import free_port
from kit.streams import provision_stream
from tests.conftest import run_part

CONF = Path(__file__).parents[2] / "deploy/k8s/base/nats"
USERS = (
    *("identity", "catalog", "dossier", "payment", "notify"),
    *("gateway", "admin", "cluster", "prepare", "operator"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home, port = tmp_path_factory.mktemp("nats-attacks"), free_port()
    for file in CONF.glob("*.conf"):
        text = re.sub(r"^cluster \{.*?^\}$", "", file.read_text(), flags=re.DOTALL | re.MULTILINE)
        text = re.sub(r"^(http_port|pid_file|port):.*$", "", text, flags=re.MULTILINE)
        (home / file.name).write_text(text)
    told = {"POD_NAME": "nats-0", "JETSTREAM_DIR": f"{home}/store", "JETSTREAM_FILES": "1GB"}
    told |= {"JETSTREAM_MEMORY": "64MB", **{f"{name.upper()}_PASSWORD": f"'{name}-1e5'" for name in USERS}}
    command = [str(Path(sys.executable).parent / "nats-server"), "-c", f"{home}/nats.conf"]
    command = ["env", *(f"{key}={value}" for key, value in told.items()), *command]
    for _ in run_part([*command, "-a", "127.0.0.1", "-p", str(port)], port, home / "log"):
        yield f"127.0.0.1:{port}"


@asynccontextmanager
async def signed_in(server: str, user: str) -> AsyncIterator[Client]:
    async def quiet(error: Exception) -> None: ...

    url = f"nats://{user}:{user}-1e5@{server}"
    client = await nats.connect(url, error_cb=quiet, inbox_prefix=f"_INBOX.{user}")
    yield client
    await client.close()


async def played(server: str, change: dict[str, Any], stream: str = "dossier") -> tuple[int, int]:
    """What a thief with dossier's password has done with such a change of a stream: how many events are in
    payment's stream, and how many of one are left in DEAD."""
    async with signed_in(server, "admin") as admin, signed_in(server, "dossier") as thief:
        jetstream = admin.jetstream()
        for name in ("dossier", "payment", "DEAD"):
            await provision_stream(jetstream, name)
        await jetstream.publish("dead.payment-charges", b"evidence")
        found = json.loads((await admin.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=5)).data)
        wanted = json.dumps({**found["config"], **change}).encode()
        await thief.publish(f"$JS.API.STREAM.UPDATE.{stream}", wanted)
        await thief.flush()
        await thief.publish("motcua.dossier.v1.dossier_submitted.k1", b"forged")
        await thief.flush()
        await asyncio.sleep(1.5)  # nothing may come of it
        forged = (await jetstream.stream_info("payment")).state.messages
        left = (await jetstream.stream_info("DEAD")).state.messages
        config = json.loads((await admin.request("$JS.API.STREAM.INFO.dossier", b"", timeout=5)).data)[
            "config"
        ]
        taken = len(config.get("sources") or ())
        for name in ("dossier", "payment", "DEAD"):
            await jetstream.delete_stream(name)
        return forged + taken, left


@pytest.mark.proof("9.11")
async def test_no_service_lets_its_stream_take_the_events_of_another(server: str) -> None:
    forged, _ = await played(server, {"sources": [{"name": "payment"}]})
    assert forged == 0


@pytest.mark.proof("9.11")
async def test_no_service_lets_its_stream_announce_in_the_name_of_another(server: str) -> None:
    republish = {
        "src": "motcua.dossier.v1.dossier_submitted.*.*",
        "dest": "motcua.payment.v1.charge_paid.{{wildcard(2)}}",
    }
    forged, _ = await played(server, {"republish": republish})
    assert forged == 0


@pytest.mark.proof("9.11")
async def test_no_service_empties_what_was_set_aside(server: str) -> None:
    _, left = await played(
        server, {"max_age": 1_000_000_000, "duplicate_window": 1_000_000_000}, stream="DEAD"
    )
    assert left == 1
