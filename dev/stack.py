"""A whole local stack as one object; `make run`, `make demo`, `make load`, e2e tests start theirs here.

    async with Stack(private(tmp_path)) as stack:
        stack.addresses.graphql
        await stack.kill("dossier")
        await stack.restart("dossier")

`find()` gives the addresses of the stack that `make run` started from this checkout, if one runs.
"""

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Self

from dev.leash import leashed
from dev.options import ROOT, Options, Problem
from dev.parts import Addresses, Part, addresses, loader_environment, parts, prepare_environment

START_SECONDS = 120.0  # on a machine that is busy with other things
STOP_SECONDS = 8.0
LAST_LINES = 15
CANNOT_START = 2  # how our processes end after one line that says which setting or port is wrong


class PartFailed(Exception):
    """A part died or never served. The text names it, why, and has the last lines that it logged."""


class Stack:
    """Starts, watches and stops the parts, or `only` some. `say` is told each step as one line of text.

    Raises Problem when the data folder cannot be written to or a tool is missing.
    """

    def __init__(
        self,
        options: Options,
        say: Callable[[str], None] = lambda line: None,
        only: Collection[str] = (),
    ) -> None:
        _check_writable(options.data)
        self.options = options
        self.addresses = addresses(options)
        self._say = say
        self._parts = {part.name: part for part in parts(options, only)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock: IO[str] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()

    @property
    def names(self) -> list[str]:
        """The parts in the order in which they start."""
        return list(self._parts)

    @property
    def pids(self) -> dict[str, int]:
        """The process of each part that was started."""
        return {name: process.pid for name, process in self._processes.items()}

    async def start(self) -> None:
        """Starts all, waits until all parts serve, and loads the catalogue when the stack is whole.

        Raises Problem or PartFailed; then call stop().
        """
        data = self.options.data
        self._lock = _take(data)
        self.addresses.logs.mkdir(parents=True, exist_ok=True)
        for part in self._parts.values():
            log = self._log(part.name)
            if log.exists():
                log.replace(log.with_suffix(".log.1"))
        for stage in sorted({part.stage for part in self._parts.values()}):
            together = [part for part in self._parts.values() if part.stage == stage]
            for part in together:
                self._spawn(part)
            waiting = [asyncio.create_task(self._until_ready(part)) for part in together]
            try:
                await asyncio.gather(*waiting)
            finally:
                for task in waiting:
                    task.cancel()
            # Stores alone stay as they are: a restore takes only empty ones.
            services_follow = any(part.stage > stage for part in self._parts.values())
            if services_follow and any(part.name == "nats" for part in together):
                self._say(await self._prepare())
        if "gateway" in self._parts:
            self._say(f"catalogue: {await self._load_catalogue()}")
        state = {"pid": os.getpid(), "pids": self.pids, "addresses": asdict(self.addresses)}
        scratch = data / "stack.json.new"
        scratch.write_text(json.dumps(state, indent=2))
        scratch.replace(data / "stack.json")

    async def stop(self) -> None:
        """Stops what runs, the last started first; what does not stop in time is killed with its children."""
        for stage in sorted({part.stage for part in self._parts.values()}, reverse=True):
            together = [p for name, p in self._processes.items() if self._parts[name].stage == stage]
            for process in together:
                if process.poll() is None:
                    process.terminate()
            await _until(lambda some=together: all(p.poll() is not None for p in some), STOP_SECONDS)  # type: ignore[misc]
            for process in together:
                _kill_group(process)
        self._processes.clear()
        if self._lock:
            (self.options.data / "stack.json").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    async def _prepare(self) -> str:
        """Makes the streams and consumers, or corrects them; returns how that went in a line."""
        environment = prepare_environment(self.options, self.addresses)
        return await self._told("ops.prepare", environment=environment, task="the streams could not be made")

    async def _load_catalogue(self) -> str:
        """Loads the procedures that ship with the project, once or again; returns how that went in a line."""
        environment = loader_environment(self.options.data, self.addresses)
        task = "the catalogue could not be loaded"
        return await self._told("catalog.load", "--curated", environment=environment, task=task)

    async def _told(self, module: str, *arguments: str, environment: dict[str, str], task: str) -> str:
        """Runs a tool to its end; returns the last line that it printed. Raises Problem with the line of a
        tool that refuses a setting, else PartFailed with all that it printed."""
        process = await asyncio.create_subprocess_exec(
            *leashed([sys.executable, "-m", module, *arguments]),
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output = (await process.communicate())[0].decode(errors="replace").strip()
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode and ": bad setting: " in output and "\n" not in output:
            raise Problem(output)
        if process.returncode:
            raise PartFailed(f"{task}:\n{output}")
        return output.splitlines()[-1] if output else ""

    def dead(self) -> str:
        """Name of a part that is no longer there though nobody stopped it, else nothing."""
        return next((name for name, p in self._processes.items() if p.poll() is not None), "")

    def obituary(self, name: str) -> str:
        """What is known about a part that died: its exit code and the last lines of its log."""
        code = self._processes[name].wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{name} {how}; its last lines:\n{self._last_lines(name)}"

    async def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Ends one part, by default as a crash would, and waits until it is gone."""
        process = self._processes[name]
        process.send_signal(how)
        if not await _until(lambda: process.poll() is not None, STOP_SECONDS):
            raise PartFailed(f"{name} is still there {STOP_SECONDS:.0f} s after {how.name}")
        _kill_group(process)

    async def restart(self, name: str) -> None:
        """Starts one part again, with the same address, data and settings, and waits until it serves."""
        if self._processes[name].poll() is None:
            await self.kill(name, signal.SIGTERM)
        self._spawn(self._parts[name])
        await self._until_ready(self._parts[name])

    def _last_lines(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").splitlines()[-LAST_LINES:]
        return "\n".join(f"    {line}" for line in lines)

    def _log(self, name: str) -> Path:
        return self.addresses.logs / f"{name}.log"

    def _spawn(self, part: Part) -> None:
        with open(self._log(part.name), "ab") as log:
            self._processes[part.name] = subprocess.Popen(
                leashed(part.command),
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **part.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches us only, so that we choose the order
            )

    async def _until_ready(self, part: Part) -> None:
        began = time.monotonic()
        while not await part.ready():
            code = self._processes[part.name].poll()
            if code == CANNOT_START:
                raise Problem(
                    self._last_lines(part.name).rpartition("\n")[2].strip() or f"{part.name} cannot start"
                )
            if code is not None:
                raise PartFailed(self.obituary(part.name))
            if time.monotonic() - began > START_SECONDS:
                late = f"{part.name} does not serve after {START_SECONDS:.0f} s; its last lines:"
                raise PartFailed(f"{late}\n{self._last_lines(part.name)}")
            await asyncio.sleep(0.1)
        self._say(f"{part.name:<10} {time.monotonic() - began:4.1f} s")


def data_folder() -> Path:
    """The data folder of this checkout's own stack: DATA_DIR, else `.data`."""
    return Path(os.environ.get("DATA_DIR") or ROOT / ".data").resolve()


def find(data: Path | None = None) -> Addresses | None:
    """The stack that runs on this data folder (by default the checkout's own); leftovers do not count."""
    folder = data or data_folder()
    if not _is_taken(folder):
        return None
    try:
        return Addresses(**json.loads((folder / "stack.json").read_text())["addresses"])
    except FileNotFoundError:
        return None  # it is still starting, or already stopping


def refuse_second(data: Path) -> None:
    """Raises Problem when a stack already runs on this data folder."""
    if _is_taken(data):
        running = find(data)
        where = f", at {running.graphql}" if running else ""
        raise Problem(f"a stack already runs on {data} (process {(data / 'lock').read_text()}{where})")


def _is_taken(data: Path) -> bool:
    try:
        with open(data / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    return False


def _check_writable(data: Path) -> None:
    try:
        data.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data):
            pass
    except OSError as error:
        raise Problem(
            f"{data} cannot hold data ({error.strerror}); DATA_DIR=… names another folder"
        ) from None


def _take(data: Path) -> IO[str]:
    """Holds the data folder for this process; the kernel lets go when the process ends, however it ends."""
    lock = open(data / "lock", "a+")  # noqa: SIM115
    while True:
        refuse_second(data)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:  # another start was faster, or somebody is looking
            time.sleep(0.01)
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    (data / "stack.json").unlink(missing_ok=True)
    return lock


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Waits for the condition at most so long; returns whether it came true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills the part and whatever it started; nothing is left to kill when it ended well."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
