"""Loads procedures into a running catalogue: `python -m catalog.load FILE` or `python -m catalog.load
--curated`.

FILE is JSON Lines, plain or .gz, with a record of the national procedure database a line. Loading is
idempotent: the same file twice changes nothing, and a part that failed may be loaded again. Without FILE the
procedures that ship with the project are loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import IO

import grpc
from google.protobuf import json_format
from pydantic import Field, SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from catalog.peers import token_from
from kit import status
from kit.auth import ServiceTokens
from kit.errors import DomainError
from kit.grpc_client import Bearer, connect
from kit.settings import CannotStart, TlsSettings
from motcua.catalog.v1 import catalog_pb2 as pb
from motcua.catalog.v1 import catalog_pb2_grpc

_RECORDS = 100  # records of one call
_BYTES = 1_000_000  # of one call; a record larger than this is none
_CALLS = 2  # calls at a time
_ATTEMPTS = 6
_EXAMPLES = 3
_OUTCOMES = ("created", "updated", "unchanged", "kept_curated", "refused")


class LoadSettings(TlsSettings):
    """Where the catalogue is and who loads."""

    catalog_target: str = Field(default="127.0.0.1:9002", description="gRPC target of the catalogue")
    identity_target: str = Field(default="127.0.0.1:9001", description="gRPC target of identity")
    service_name: str = Field(default="importer", description="who loads: importer or catalog")
    service_secret: SecretStr = Field(default=SecretStr(""), description="that service's secret")


@dataclass
class Outcome:
    """What a load did."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[pb.ImportProblem] = field(default_factory=list)

    def add(self, answer: pb.ImportProceduresResponse) -> None:
        """Adds what one call did."""
        for name in _OUTCOMES:
            self.counts[name] += getattr(answer, name)
        self.problems.extend(answer.problems)

    @property
    def flagged(self) -> int:
        """How many records have a text that could not be read."""
        return len({problem.code for problem in self.problems})

    def line(self) -> str:
        """All in one line."""
        told = ", ".join(f"{self.counts[name]} {name.replace('_', ' ')}" for name in _OUTCOMES)
        return f"{self.counts.total()} procedures: {told}; {self.flagged} flagged"


def batches(path: Path) -> Iterator[list[str]]:
    """The records of a file in pieces of bounded size, a larger record alone; empty lines are none.

    Raises OSError, UnicodeError, EOFError, zlib.error.
    """
    piece: list[str] = []
    size = 0
    with _open(path) as lines:
        for line in lines:
            record = line.strip()
            if not record:
                continue
            length = len(record.encode())
            if piece and (len(piece) == _RECORDS or size + length > _BYTES):
                yield piece
                piece, size = [], 0
            piece.append(record)
            size += length
    if piece:
        yield piece


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


async def import_file(
    stub: catalog_pb2_grpc.CatalogServiceAsyncStub, path: Path, progress: Progress
) -> Outcome:
    """Streams a file to the catalogue. Raises AioRpcError and what `batches` raises."""
    whole = Outcome()
    bar = progress.add_task(path.name, total=sum(len(piece) for piece in batches(path)))
    pieces = batches(path)

    async def work() -> None:
        for piece in pieces:
            if len(piece[0]) <= _BYTES:
                whole.add(await _import(stub, piece))
            else:
                whole.counts["refused"] += 1
                whole.problems.append(pb.ImportProblem(raw=piece[0][:200], reason="TOO_LARGE"))
            progress.advance(bar, len(piece))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_CALLS):
            tasks.create_task(work())
    return whole


async def _import(
    stub: catalog_pb2_grpc.CatalogServiceAsyncStub, records: Sequence[str]
) -> pb.ImportProceduresResponse:
    """One call, tried again while the catalogue is away: a record that had landed is then unchanged."""

    async def stream() -> AsyncIterator[pb.ImportProceduresRequest]:
        yield pb.ImportProceduresRequest(records=records)

    for attempt in range(1, _ATTEMPTS):
        try:
            return await stub.ImportProcedures(stream(), timeout=120)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise
        await asyncio.sleep(0.2 * 2**attempt)
    return await stub.ImportProcedures(stream(), timeout=120)


def curated() -> list[pb.Procedure]:
    """The procedures that ship with the project, by code. Raises ParseError when a file is malformed."""
    folder = files("catalog").joinpath("data/procedures")
    found = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".json")), key=lambda e: e.name
    )
    return [
        json_format.ParseDict(json.loads(entry.read_text("utf-8")), pb.Procedure(curated=True))
        for entry in found
    ]


async def load_curated(stub: catalog_pb2_grpc.CatalogServiceAsyncStub, progress: Progress) -> Outcome:
    """Puts the procedures that ship with the project; those that were put before stay as they are."""
    whole = Outcome()
    procedures = curated()
    bar = progress.add_task("curated", total=len(procedures))
    codes = [procedure.code for procedure in procedures]
    before: dict[str, int] = {}
    for begin in range(0, len(codes), 100):
        request = pb.BatchGetProceduresRequest(names=codes[begin : begin + 100], summary_only=True)
        known = await stub.BatchGetProcedures(request)
        before.update({procedure.code: procedure.version for procedure in known.procedures})
    for procedure in procedures:
        answer = await stub.PutProcedure(pb.PutProcedureRequest(procedure=procedure))
        version = before.get(procedure.code)
        new = "created" if version is None else "updated"
        whole.counts[new if version is None or answer.procedure.version > version else "unchanged"] += 1
        progress.advance(bar)
    return whole


def table_of(problems: Sequence[pb.ImportProblem]) -> Table:
    """What could not be read: each reason and kind of field with its number and some examples."""
    groups: dict[tuple[str, str], list[pb.ImportProblem]] = defaultdict(list)
    for problem in problems:
        groups[problem.reason, problem.field.rpartition(".")[2]].append(problem)
    table = Table(title="Texts that were kept raw and not read")
    for heading in ("reason", "field", "texts", "procedures", "examples"):
        table.add_column(heading, justify="right" if heading in ("texts", "procedures") else "left")
    for (reason, name), group in sorted(groups.items(), key=lambda item: -len(item[1])):
        examples = {
            f"{problem.code}: {problem.raw[:30]}" if problem.raw else problem.code for problem in group
        }
        codes = {problem.code for problem in group}
        shown = "\n".join(sorted(examples)[:_EXAMPLES])
        table.add_row(reason, name, str(len(group)), str(len(codes)), shown)
    return table


async def run(arguments: argparse.Namespace, settings: LoadSettings, console: Console) -> Outcome:
    """Loads what the arguments say."""
    identity = connect(settings.identity_target, tls=settings.tls)
    fetch = token_from(identity, settings.service_name, settings.service_secret.get_secret_value())
    bearer: Bearer = ServiceTokens(fetch)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    target = arguments.target or settings.catalog_target
    async with identity, connect(target, bearer=bearer, tls=settings.tls) as channel:
        stub: catalog_pb2_grpc.CatalogServiceAsyncStub = catalog_pb2_grpc.CatalogServiceStub(channel)
        with Progress(*columns, console=console) as progress:
            if arguments.file is None:
                return await load_curated(stub, progress)
            return await import_file(stub, arguments.file, progress)


def main() -> None:
    """The command. Ends with 0; 1 when no record could be read; 2 and one line when it cannot load."""
    parser = argparse.ArgumentParser(prog="catalog.load", description="loads procedures into the catalogue")
    parser.add_argument("file", nargs="?", type=Path, help="JSON Lines, plain or .gz")
    parser.add_argument(
        "--curated", action="store_true", help="load what ships with the project (the default)"
    )
    parser.add_argument("--target", default="", help="host:port of the catalogue; else CATALOG_TARGET")
    parser.add_argument(
        "--report", type=Path, help="write every problem to this file, one JSON object a line"
    )
    arguments = parser.parse_args()
    if arguments.curated and arguments.file:
        parser.error("either a file or --curated")
    console = Console()
    try:
        outcome = asyncio.run(run(arguments, LoadSettings(), console))
    except* (
        grpc.aio.AioRpcError,
        CannotStart,
        DomainError,
        OSError,
        UnicodeError,
        EOFError,
        zlib.error,
    ) as group:
        _fail(group.exceptions[0])
    except* KeyboardInterrupt:
        sys.exit(130)
    if outcome.problems:
        console.print(table_of(outcome.problems))
    if arguments.report:
        lines = (
            json_format.MessageToJson(problem, indent=None, ensure_ascii=False)
            for problem in outcome.problems
        )
        arguments.report.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    console.print(outcome.line(), highlight=False, soft_wrap=True)
    sys.exit(1 if outcome.counts["refused"] and outcome.counts["refused"] == outcome.counts.total() else 0)


def _fail(error: BaseException) -> None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    meant = status.from_rpc(error) if isinstance(error, grpc.aio.AioRpcError) else error
    print(f"catalog.load: {meant}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
