"""What the environment says about a local stack: where its data is, which ports, which document store."""

import os
import random
import secrets
import shutil
import socket
import sysconfig
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
SERVICES = ("identity", "catalog", "dossier", "payment", "notify")
# One number a listening socket. Each can be set in the environment as <NAME>_PORT; the rest are picked free.
PORTS = (
    "gateway",
    *SERVICES,
    *(f"{name}_metrics" for name in (*SERVICES, "gateway")),
    "nats",
    "nats_monitor",
    "mongodb",
    "mail_smtp",
    "mail",
    "sandbox",
)
GATEWAY_PORT = 8000


class Problem(Exception):
    """Something that the person at the keyboard can put right: shown as one line, exit code 2."""


@dataclass(frozen=True)
class Options:
    """A stack before it runs. `mongodb_url` is empty when the stack starts a store of its own."""

    data: Path
    environment: str
    mongodb_url: str
    ports: Mapping[str, int]


def from_environment(environ: Mapping[str, str]) -> Options:
    """Options of `make run`. Raises Problem for a bad setting, a busy port, or a stand-in in production."""
    environment = environ.get("ENVIRONMENT") or "development"
    if environment not in ("development", "test", "production"):
        raise Problem(f"ENVIRONMENT is {environment!r}; it is one of development, test, production")
    mongodb_url = environ.get("MONGODB_URL", "")
    if mongodb_url and not mongodb_url.startswith(("mongodb://", "mongodb+srv://")):
        raise Problem("MONGODB_URL does not begin with mongodb:// or mongodb+srv://")
    if environment == "production" and not mongodb_url and not shutil.which("mongod"):
        raise Problem(
            "ENVIRONMENT=production needs a real MongoDB: set MONGODB_URL or put mongod on the path"
        )
    wanted = {"gateway": GATEWAY_PORT}
    for name in PORTS:
        text = environ.get(setting := f"{name.upper()}_PORT", "")
        if text:
            if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
                raise Problem(f"{setting} is {text!r}; it is a port number from 1 to 65535")
            wanted[name] = int(text)
    return Options(
        data=Path(environ.get("DATA_DIR") or ROOT / ".data").resolve(),
        environment=environment,
        mongodb_url=mongodb_url,
        ports=choose_ports(wanted),
    )


def private(data: Path, environ: Mapping[str, str] = os.environ) -> Options:
    """Options of a stack for tests and tools: its own data folder, free ports, the store `make run` takes.

    Such a stack has the demo accounts, whose password is known: raises Problem where that must not be.
    """
    if environ.get("ENVIRONMENT") == "production":
        raise Problem("ENVIRONMENT=production: what starts a stack of its own brings demo accounts along")
    return Options(data.resolve(), "development", environ.get("MONGODB_URL", ""), choose_ports({}))


def choose_ports(wanted: Mapping[str, int]) -> dict[str, int]:
    """A number for every name in PORTS: the wanted one, which must be free, else some free one."""
    if len(set(wanted.values())) < len(wanted):
        raise Problem(f"two parts want the same port: {dict(sorted(wanted.items()))}")
    for name, port in wanted.items():
        if not is_free(port):
            raise Problem(f"port {port} is busy; {name.upper()}_PORT=… gives the {name} another one")
    chosen = dict(wanted)
    for name in PORTS:
        if name not in chosen:
            chosen[name] = free_port(chosen.values())
    return chosen


def free_port(besides: Collection[int] = ()) -> int:
    """A port that nobody listens on, and none of those `besides`.

    It is below the range from which the kernel takes the ports of outgoing connections: until the part
    listens, nobody holds the number.
    """
    while True:
        port = random.randint(20_000, 32_000)  # noqa: S311
        if port not in besides and is_free(port):
            return port


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def tool(name: str) -> str:
    """Path of a program that the virtual environment brings, or that is on the path. Raises Problem."""
    own = Path(sysconfig.get_path("scripts")) / name
    found = str(own) if own.exists() else shutil.which(name)
    if not found:
        raise Problem(f"{name} is missing: run `make setup`, it comes with requirements.lock")
    return found


def secret(folder: Path, name: str) -> str:
    """The secret of that name, made at first use and kept in a file that only its owner reads."""
    path = folder / name
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32))
    return path.read_text()


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, from its first moment on; it appears whole."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    scratch.replace(path)
