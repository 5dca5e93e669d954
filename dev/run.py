"""`make run`: the whole suite on this machine until Ctrl-C. See dev/stack.py for what it starts and how."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from dev.options import Problem, from_environment
from dev.parts import Addresses
from dev.stack import PartFailed, Stack, data_folder, refuse_second

ACCOUNTS = (
    ("079090000101", "Nguyễn Thị An, citizen"),
    ("001085000202", "Trần Văn Bình, citizen"),
    ("nt.tiepnhan", "reception, clerk and cashier of UBND phường Nha Trang (H32.15)"),
    ("nt.thuly", "examiner there"),
    ("nt.lanhdao", "leader there"),
    ("stp.thuly", "examiner of Sở Tư pháp (H32.05)"),
    ("stp.lanhdao", "leader there"),
    ("quantri", "administrator of the province (H32)"),
)
PASSWORD = "Motcua@2026"  # noqa: S105 (the demo accounts exist in development only)
CHUNK = 2**20
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


def main() -> int:
    """Exit codes: 0 stopped by the user, 1 a part failed, 2 something to put right before a start."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        refuse_second(data_folder())
        stack = Stack(from_environment(os.environ), lambda line: print(f"  {line}"))
        return asyncio.run(run(stack))
    except Problem as problem:
        print(f"run: {problem}", file=sys.stderr)
        return 2


async def run(stack: Stack) -> int:
    """Starts the stack, tells where all is, streams its log; stops it at a signal or when a part dies."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    began = time.monotonic()
    stopped = asyncio.create_task(stop.wait())
    print(f"starting; data in {stack.addresses.data}, documents in {stack.addresses.store}")
    started = asyncio.create_task(stack.start())
    try:
        await asyncio.wait({stopped, started}, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            return 0
        await started
        tail = Tail(stack.addresses.logs, stack.names, colour=sys.stdout.isatty())
        print(banner(stack.addresses))
        print(f"\nready in {time.monotonic() - began:.0f} s, Ctrl-C stops it\nready")
        while not stop.is_set():
            for line in tail.lines():
                print(line)
            if name := stack.dead():
                raise PartFailed(stack.obituary(name))
            await asyncio.wait({stopped}, timeout=0.2)
        return 0
    except PartFailed as failure:
        print(f"run: {failure}", file=sys.stderr)
        return 1
    finally:
        started.cancel()
        print("stopping")
        await stack.stop()
        await asyncio.gather(started, return_exceptions=True)
        print("stopped")


def banner(where: Addresses) -> str:
    """What a person needs to know to begin."""
    traces = os.environ.get("OTLP_ENDPOINT") or "not shipped; OTLP_ENDPOINT=host:4317 names a collector"
    rows = [
        ("GraphQL", where.graphql),
        ("GraphiQL", f"{where.graphql} in a browser"),
        ("mail catcher", f"{where.mail} (files in {where.mail_folder})"),
        ("sandbox bank", where.sandbox),
        ("health", f"{where.gateway}/status"),
        ("traces", traces),
        ("logs", f"below, and one file a part in {where.logs}"),
        ("metrics", ""),
        *((f"  {name}", url) for name, url in where.metrics.items()),
    ]
    lines = ["", *(f"  {name:<13} {value}".rstrip() for name, value in rows)]
    lines += ["", f"  demo accounts, password {PASSWORD}"]
    lines += [f"  {name:<13} {who}" for name, who in ACCOUNTS]
    return "\n".join(lines)


class Tail:
    """The lines that the parts append to their log files from now on, each with its part's name before it."""

    def __init__(self, folder: Path, names: Iterable[str], *, colour: bool) -> None:
        width = max(len(name) for name in names)
        self._files = {}
        for number, name in enumerate(names):
            path = folder / f"{name}.log"
            label = f"{name:<{width}} │ "
            if colour:
                label = f"\033[{COLOURS[number % len(COLOURS)]}m{label}\033[0m"
            self._files[path] = (label, path.stat().st_size if path.exists() else 0)

    def lines(self) -> list[str]:
        """Whole lines since the last call, part by part; a line still being written waits for its end."""
        found: list[str] = []
        for path, (label, offset) in self._files.items():
            size = path.stat().st_size if path.exists() else 0
            if size == offset:
                continue
            start = offset if offset < size else 0  # a shorter file is a new one
            with open(path, "rb") as file:
                file.seek(start)
                chunk = file.read(CHUNK)
            whole, newline, _rest = chunk.rpartition(b"\n")
            if not newline and len(chunk) == CHUNK:  # a line without end is shown in pieces
                whole = chunk
            self._files[path] = (label, start + len(whole) + len(newline))
            found += [label + line for line in whole.decode(errors="replace").splitlines()]
        return found


if __name__ == "__main__":
    sys.exit(main())
