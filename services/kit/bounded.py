"""Work whose time or memory nobody can know beforehand, in processes that are killed when it takes too much.

A thread does not help where the interpreter's lock is held, and a time limit of asyncio is never looked at
while a loop stands still; the kernel's limits on a process always hold. A worker runs a function of a module
(`workers.run(function, *args)`), so what it needs travels by pickle. It has none of the service's settings or
secrets in its environment, and of what it answers only plain values, enums, failures and the classes of the
function's own package are read: hostile input may have taken it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, BinaryIO, ParamSpec, TypeVar

from kit.errors import DomainError, InvalidInput, RateLimited, Unavailable

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger(__name__)

_HEAD = struct.Struct(">Q")  # the length of what follows
_BEGUN, _RETURNED, _RAISED, _BROKE, _OUT_OF_MEMORY = b"S", b"R", b"E", b"B", b"M"
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
_PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ")
_PLAIN = frozenset(("builtins", "collections", "datetime", "decimal", "uuid"))
_HARMLESS = frozenset(("set", "frozenset", "bytearray", "complex", "OrderedDict", "datetime", "date", "time",
                       "timedelta", "timezone", "Decimal", "UUID"))  # fmt: skip


class TooExpensive(InvalidInput):
    """The work took more CPU time, memory or time than it may, or its process did not survive it."""


class _Died(Exception):
    """The process ended. `begun` says whether it had taken the work up, `code` how it ended."""

    def __init__(self, begun: bool, code: int) -> None:
        self.begun = begun
        self.code = code


class Workers:
    """Up to `count` processes. A call may use `cpu_seconds` of CPU, map `memory_bytes` more than the process
    has when it begins, and take `wall_seconds`; at most `waiting` calls wait for a free process.

    `modules` are imported when a process starts, so that no call pays for it. Processes start when they are
    first needed and end with this one.
    """

    def __init__(
        self,
        count: int = 1,
        *,
        cpu_seconds: float,
        memory_bytes: int,
        wall_seconds: float,
        waiting: int = 16,
        modules: Sequence[str] = (),
    ) -> None:
        self._limits = (cpu_seconds, memory_bytes, wall_seconds)
        self._modules = tuple(modules)
        self._free = asyncio.Semaphore(count)
        self._most = count + waiting
        self._calls = 0
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns. A DomainError that it raises is raised here too.

        Raises TooExpensive (WORK_LIMIT_EXCEEDED) when the process was killed or had no memory left,
        RateLimited (WORKERS_BUSY) when too many calls wait, Unavailable (WORKER_LOST) when somebody else
        killed the process, RuntimeError for what the function did not expect.
        """
        if self._calls >= self._most:
            raise RateLimited("WORKERS_BUSY", "too much work of this kind is waiting", retry_after=1)
        work = pickle.dumps((function, args, kwargs, self._limits))
        self._calls += 1
        try:
            async with self._free:
                try:
                    return await self._once(function, work)
                except _Died as died:
                    if died.begun:
                        raise Unavailable("WORKER_LOST", "the process was ended from outside") from None
                    log.warning("a worker ended before it took its work up (%d); starting another", died.code)
                try:
                    return await self._once(function, work)  # it had died of something else; a new one
                except _Died as died:
                    log.error("no worker can be started; the last one ended with %d", died.code)
                    raise Unavailable("WORKER_LOST", "no process can be started") from None
        finally:
            self._calls -= 1

    async def close(self) -> None:
        """Ends the processes, whatever they are doing."""
        self._idle.clear()
        for worker in list(self._all):
            await worker.end()
            self._all.discard(worker)

    async def _once(self, function: Callable[..., R], work: bytes) -> R:
        worker = self._idle.pop() if self._idle else await self._start()
        try:
            kind, answer = await worker.call(work, self._limits[2])
        except BaseException:  # also a caller who no longer waits: the work itself would go on
            self._all.discard(worker)
            await asyncio.shield(worker.end())
            raise
        if kind == _OUT_OF_MEMORY:
            self._all.discard(worker)
            await worker.end()
            raise _too_expensive()
        self._idle.append(worker)
        value = _Careful(io.BytesIO(answer), function).load()
        if kind == _RAISED and isinstance(value, DomainError):
            raise value
        if kind != _RETURNED:
            raise RuntimeError(f"the work failed: {value}")
        return value  # type: ignore[no-any-return]

    async def _start(self) -> _Worker:
        worker = await _Worker.start(self._modules)
        self._all.add(worker)
        return worker


def _too_expensive() -> TooExpensive:
    return TooExpensive("WORK_LIMIT_EXCEEDED", "what was sent takes too much time or memory to be looked at")


class _Worker:
    """A process seen from its parent."""

    def __init__(
        self, process: subprocess.Popen[bytes], out: asyncio.StreamReader, into: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._out = out
        self._into = into

    @classmethod
    async def start(cls, modules: Sequence[str]) -> _Worker:
        """A new process."""
        ours, its = socket.socketpair()
        with its:
            out, into = await asyncio.open_unix_connection(sock=ours)
            try:
                process = _spawn(modules, its)
            except OSError:
                into.close()
                raise
        return cls(process, out, into)

    async def call(self, work: bytes, wall_seconds: float) -> tuple[bytes, bytes]:
        """The kind of the answer and the answer. Raises TooExpensive, _Died."""
        into, out = self._into, self._out
        begun = False
        try:
            into.write(_HEAD.pack(len(work)))
            into.write(work)
            await into.drain()
            begun = await out.readexactly(1) == _BEGUN
            # Counted once it has begun: a process may take its time to start on a busy machine.
            async with asyncio.timeout(wall_seconds):
                kind = await out.readexactly(1)
                (length,) = _HEAD.unpack(await out.readexactly(_HEAD.size))
                return kind, await out.readexactly(length)
        except TimeoutError:
            raise _too_expensive() from None
        except (asyncio.IncompleteReadError, ConnectionError, RuntimeError):
            code = await asyncio.to_thread(self._process.wait)
            if begun and code not in _FROM_OUTSIDE:
                raise _too_expensive() from None
            raise _Died(begun, code) from None

    async def end(self) -> None:
        """Kills it and waits until it is gone."""
        self._process.kill()
        self._into.close()
        await asyncio.to_thread(self._process.wait)


def _spawn(modules: Sequence[str], end: socket.socket) -> subprocess.Popen[bytes]:
    """Popen makes it by vfork, within a millisecond or two. uvloop would fork, and then gRPC's fork handlers
    start threads in the child, which now and then crash it before it has become another program."""
    return subprocess.Popen(  # noqa: S603 (nothing of it comes from outside)
        [sys.executable, "-c", "from kit.bounded import serve; serve()", *modules],
        stdin=end.fileno(),
        stdout=end.fileno(),
        env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
    )


class _Careful(pickle.Unpickler):
    """Reads an answer: no function of any module is called, whatever the answer says."""

    def __init__(self, file: BinaryIO, function: Callable[..., Any]) -> None:
        super().__init__(file)
        self._package = function.__module__.partition(".")[0]

    def find_class(self, module: str, name: str) -> Any:
        found = None
        if (module in _PLAIN and name in _HARMLESS) or module.partition(".")[0] in (self._package, "kit"):
            found = super().find_class(module, name)
        fits = isinstance(found, type) and (
            module in _PLAIN
            or issubclass(found, (DomainError, Enum))
            or hasattr(found, "__dataclass_fields__")
        )
        if not fits:
            raise pickle.UnpicklingError(f"an answer may not hold {module}.{name}")
        return found


def serve() -> None:
    """The process itself: does one piece of work after the other until its parent closes the pipe."""
    into, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this
    for module in sys.argv[1:]:
        __import__(module)
    while len(head := into.read(_HEAD.size)) == _HEAD.size:
        work = into.read(_HEAD.unpack(head)[0])
        out.write(_BEGUN)
        out.flush()
        kind, answer = _done(work)
        out.write(kind + _HEAD.pack(len(answer)) + answer)
        out.flush()
        if kind == _OUT_OF_MEMORY:
            return


def _done(work: bytes) -> tuple[bytes, bytes]:
    try:
        function, args, kwargs, limits = pickle.loads(work)  # noqa: S301 (our parent wrote it)
        with _limited(*limits):
            result = function(*args, **kwargs)
            return _RETURNED, pickle.dumps(result)
    except MemoryError:
        return _OUT_OF_MEMORY, b""
    except DomainError as error:
        error.__traceback__ = None
        return _RAISED, pickle.dumps(error)
    except BaseException as error:
        # Without what the failure says: that may be what somebody typed, and it ends up in a log.
        where = " < ".join(
            f"{s.name} {s.filename}:{s.lineno}" for s in traceback.extract_tb(error.__traceback__)[:0:-1]
        )
        return _BROKE, pickle.dumps(f"{type(error).__name__} in {where}")


@contextlib.contextmanager
def _limited(cpu_seconds: float, memory_bytes: int, wall_seconds: float) -> Any:
    """Within it the kernel ends this process for the CPU time or the time, and refuses the memory."""
    most, hard = resource.getrlimit(resource.RLIMIT_AS)
    if mapped := _mapped():
        resource.setrlimit(resource.RLIMIT_AS, (mapped + memory_bytes, hard))
    used = resource.getrusage(resource.RUSAGE_SELF)
    # Whole seconds only, and for what turns the timers off; they are exact.
    seconds, hardest = resource.getrlimit(resource.RLIMIT_CPU)
    last = int(used.ru_utime + used.ru_stime + cpu_seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (last, hardest))
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, wall_seconds + 1)  # the parent is first, unless it is gone
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, hardest))
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _mapped() -> int:
    """Bytes of address space in use; 0 where the system does not say (not Linux)."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0
