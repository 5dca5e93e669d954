"""`make load`: what the suite does per second, and what GraphQL costs of it.

python -m tests.load [--clients 1,16] [--seconds 10]

Uses the stack that `make run` started, else one of its own. Measures the workspace query beside
a bare handler with the same RPCs and the same bytes (tests/load/bare.py), and filing: createDossier and
submitDossier.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import re
import socket
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from dev.journey import filled, new_citizen, pdf, until
from dev.options import HOST, private
from dev.parts import Addresses
from dev.person import Person
from dev.run import PASSWORD
from dev.stack import Stack, find
from tests.load.client import Connection, Measured, measure

DOSSIERS, NOTICES = 20, 5
PROCEDURE, RECEIVING = "2.000635", "H32.15"
WORKSPACE = """query Workspace($dossiers: Int!, $notices: Int!) { viewer { id name kind
  dossiers(first: $dossiers) { edges { node { id code state createTime dueTime procedureName
    procedure { code name field } charges { id state amount { amount currency } } } }
    pageInfo { hasNextPage endCursor } }
  notices(first: $notices) { nodes { id title body createTime readTime } }
  unreadNotices } }"""
CREATE = """mutation ($input: CreateDossierInput!) { createDossier(input: $input) {
  __typename ... on Dossier { id etag } ... on Problem { reason message } } }"""
SUBMIT = """mutation ($input: SubmitDossierInput!) { submitDossier(input: $input) {
  __typename ... on Dossier { id state } ... on Problem { reason message } } }"""


def main() -> int:
    """Entry of `make load`."""
    parser = argparse.ArgumentParser(
        prog="make load",
        usage='make load ARGS="[--clients 1,16] [--seconds N]"',
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument("--clients", default="1,16", help="how many at once, by commas")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    arguments = parser.parse_args()
    clients = [int(number) for number in arguments.clients.split(",")]
    # A few accounts at one address do here what thousands do: the limits of each are not what is measured.
    os.environ.setdefault("REQUESTS_PER_ACCOUNT", "100000000")
    os.environ.setdefault("REQUESTS_PER_ADDRESS", "100000000")
    uvloop.run(_run(clients, arguments.seconds))
    return 0


async def _run(clients: list[int], seconds: float) -> None:
    console = Console(width=max(110, Console().width))
    async with (
        _stack(console) as where,
        Person("reader", where.gateway) as reader,
        Person("An", where.gateway) as an,
        _bare(where) as bare,
    ):
        await an.sign_in("079090000101", PASSWORD)
        await _fill_workspace(where, reader, console)
        filing = _filing(await _application(an))
        headers, an_headers = _headers(reader), _headers(an)
        body = orjson.dumps({"query": WORKSPACE, "variables": {"dossiers": DOSSIERS, "notices": NOTICES}})
        for url in (where.graphql, bare):  # the first ones connect and fill the caches
            await measure(1, 1.0, url, headers, _repeat(body))
        async with Connection(where.graphql, headers) as one, Connection(bare, headers) as other:
            same = await one.post(body) == await other.post(body)
        if not same:
            raise SystemExit("the bare handler answers other bytes: it is no yardstick")
        table = Table(title="load", title_justify="left")
        table.add_column("what")
        for name in (
            "clients",
            "per s",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "RPCs",
            "CPU ms",
            "of bare",
            "CPU of bare",
        ):
            table.add_column(name, justify="right")
        for number in clients:
            reading = measure(number, seconds, bare, headers, _repeat(body))
            yardstick, bare_cpu, _ = await _observed(lambda: _bare_counters(bare), reading)
            table.add_row(*_row("bare handler", yardstick, 6, bare_cpu))
            reading = measure(number, seconds, where.graphql, headers, _repeat(body))
            found, cpu, rpcs = await _observed(lambda: _gateway_counters(where), reading)
            ratios = f"{found.rate / yardstick.rate:.2f}", f"{bare_cpu / cpu:.2f}"
            table.add_row(*_row("workspace query", found, rpcs, cpu), *ratios)
            writing = measure(number, seconds, where.graphql, an_headers, filing)
            found, cpu, rpcs = await _observed(lambda: _gateway_counters(where), writing)
            table.add_row(*_row("file a dossier", found, rpcs, cpu))
        console.print(table)
        console.print(
            f"{DOSSIERS} dossiers with procedure and charges, {NOTICES} notices; store {where.store}; "
            f"{os.cpu_count()} cores, load {' '.join(f'{load:.1f}' for load in os.getloadavg())}, "
            f"Python {platform.python_version()}. CPU is that of the gateway, or of the bare handler."
        )


@asynccontextmanager
async def _stack(console: Console) -> AsyncIterator[Addresses]:
    running = find()
    if running is not None:
        console.print(f"the running stack at {running.graphql}")
        yield running
        return
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(private(Path(folder)), lambda line: console.print(f"  {line}")) as stack:
            yield stack.addresses


@asynccontextmanager
async def _bare(where: Addresses) -> AsyncIterator[str]:
    """The bare handler in a process of its own; its address."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    targets = {f"{name.upper()}_TARGET": target for name, target in where.services.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.load.bare", str(port), env={**os.environ, **targets}
    )
    url = f"http://{HOST}:{port}/"
    try:
        async with httpx.AsyncClient() as http, asyncio.timeout(30):
            while True:
                try:
                    await http.get(f"{url}cpu")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        yield url
    finally:
        process.terminate()
        await process.wait()


def _headers(who: Person) -> dict[str, str]:
    return {
        "authorization": f"Bearer {who.token}",
        "content-type": "application/json",
        "accept-language": "vi",
    }


async def _application(who: Person) -> dict[str, Any]:
    """The input of createDossier for a dossier of this person that can be submitted."""
    query = "query($code: String!) { procedure(code: $code) { form cases { id components { id } } } }"
    procedure = (await who.ask(query, code=PROCEDURE))["procedure"]
    case = procedure["cases"][0]
    file = {"filename": "load.pdf", "contentType": "application/pdf", "title": "Load"}
    document = await who.upload(pdf("load"), **file)
    return {
        "procedureCode": PROCEDURE,
        "caseId": case["id"],
        "form": filled(procedure["form"], who.name),
        "attachments": [{"componentId": case["components"][-1]["id"], "documentId": document["id"]}],
        "receivingAgency": RECEIVING,
    }


def _filing(given: dict[str, Any]) -> Callable[[Connection], Awaitable[None]]:
    async def file(connection: Connection) -> None:
        made = await _do(connection, CREATE, {**given, "requestId": str(uuid.uuid4())})
        asked = {"dossierId": made["id"], "etag": made["etag"], "requestId": str(uuid.uuid4())}
        await _do(connection, SUBMIT, asked)

    return file


async def _fill_workspace(where: Addresses, reader: Person, console: Console) -> None:
    """Signs a new citizen up and files the dossiers that are read: fees are asked for, notices came."""
    console.print(f"  files {DOSSIERS} dossiers and asks for their fees")
    number, phone = new_citizen()
    await reader.do(
        "signUp", "Account", "id", name="Lê Văn Tải", citizenNumber=number, phone=phone, password=PASSWORD
    )
    await reader.sign_in(number, PASSWORD)
    given = await _application(reader)
    async with Person("desk", where.gateway) as desk:
        await desk.sign_in("nt.tiepnhan", PASSWORD)
        for _ in range(DOSSIERS):
            draft = await reader.do("createDossier", "Dossier", "id", **given)
            await reader.do("submitDossier", "Dossier", "id", dossierId=draft["id"])
            await desk.do("receiveDossier", "Dossier", "id", dossierId=draft["id"])
            await desk.do("requestPayment", "Dossier", "id", dossierId=draft["id"], quantities=[])

    async def complete() -> bool | None:
        seen = (
            await reader.ask("{ viewer { unreadNotices dossiers(first: 20) { nodes { charges { id } } } } }")
        )["viewer"]
        charged = sum(len(node["charges"]) for node in seen["dossiers"]["nodes"])
        return (charged == DOSSIERS and seen["unreadNotices"] >= 3 * DOSSIERS) or None

    await until(complete, "the charges and notices of all dossiers", 60)


async def _do(connection: Connection, query: str, given: dict[str, Any]) -> Any:
    answer = orjson.loads(
        await connection.post(orjson.dumps({"query": query, "variables": {"input": given}}))
    )
    (done,) = answer["data"].values()
    assert done["__typename"] == "Dossier", answer
    return done


def _repeat(body: bytes) -> Callable[[Connection], Awaitable[None]]:
    async def act(connection: Connection) -> None:
        await connection.post(body)

    return act


async def _observed(
    look: Callable[[], Awaitable[tuple[float, float]]], run: Awaitable[Measured]
) -> tuple[Measured, float, float]:
    """The run, and for each thing done in it the server's CPU milliseconds and its RPCs."""
    before = await look()
    measured = await run
    after = await look()
    done = len(measured.latencies)
    return measured, 1000 * (after[0] - before[0]) / done, (after[1] - before[1]) / done


async def _bare_counters(bare: str) -> tuple[float, float]:
    async with httpx.AsyncClient() as http:
        return float((await http.get(f"{bare}cpu")).text), 0.0


async def _gateway_counters(where: Addresses) -> tuple[float, float]:
    """CPU seconds and RPCs of the gateway so far."""
    async with httpx.AsyncClient() as http:
        text = (await http.get(where.metrics["gateway"])).text

    def total(name: str) -> float:
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in found)

    return total("process_cpu_seconds_total"), total("graphql_operation_rpcs_sum")


def _row(what: str, found: Measured, rpcs: float, cpu: float) -> list[str]:
    times = [f"{found.quantile(share):.1f}" for share in (0.5, 0.95, 0.99)]
    return [what, str(found.clients), f"{found.rate:.1f}", *times, f"{rpcs:.1f}", f"{cpu:.2f}"]


if __name__ == "__main__":
    sys.exit(main())
