"""Port-forwards to the parts that people and tests talk to, on the addresses that browsers are sent to."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from dev.cluster.kube import Kubectl
from dev.leash import leashed
from dev.options import HOST, Problem, is_free
from dev.parts import Addresses, elsewhere

SECONDS = 20.0  # until a forward must stand
PAUSE = 0.3  # seconds before one whose pod went is made again


@dataclass(frozen=True)
class Door:
    """A service of the cluster, and where it is to be on this machine."""

    what: str
    service: str
    local: int
    remote: int

    @property
    def url(self) -> str:
        """Its address on this machine."""
        return f"http://{HOST}:{self.local}"

    def __str__(self) -> str:
        return f"  {self.what:<13} {self.url}"


GATEWAY = Door("GraphQL", "gateway", 8000, 80)
SANDBOX = Door("sandbox bank", "sandbox", 8090, 8090)
MAIL = Door("mail catcher", "mail", 8025, 8025)
PUBLIC = (GATEWAY, SANDBOX, MAIL)
INSIGHT = (
    Door("Grafana", "grafana", 3000, 3000),
    Door("Prometheus", "prometheus", 9090, 9090),
    Door("Jaeger", "jaeger", 16686, 16686),
)


def present(kubectl: Kubectl, doors: Sequence[Door]) -> list[Door]:
    """Those that the namespace has."""
    there = {item["metadata"]["name"] for item in kubectl.get("services")}
    return [door for door in doors if door.service in there]


@contextmanager
def forward(kubectl: Kubectl, doors: Sequence[Door] = PUBLIC) -> Iterator[Addresses]:
    """Holds port-forwards, and answers the addresses for `dev.journey`.

    Each is on one pod at a time; when that goes, on another one. Raises Problem when a service is not there,
    a port is busy, or nothing answers behind it.
    """
    there = present(kubectl, doors)
    if missing := [door.service for door in doors if door not in there]:
        raise Problem(f"namespace {kubectl.namespace} has no service {', '.join(missing)}")
    for door in doors:
        if not is_free(door.local):
            raise Problem(
                f"port {door.local} is busy, and it must be the {door.service}'s; is `make run` running?"
            )
    with ExitStack() as held:
        forwards = [held.enter_context(_Forward(kubectl, door)) for door in doors]
        for one in forwards:
            one.wait()
        yield elsewhere(GATEWAY.url, SANDBOX.url, MAIL.url)


class _Forward:
    """One `kubectl port-forward`, made again whenever it ends."""

    def __init__(self, kubectl: Kubectl, door: Door) -> None:
        self._door = door
        self._command = kubectl.command(
            *("port-forward", "--address", HOST, f"service/{door.service}", f"{door.local}:{door.remote}")
        )
        self._open = threading.Event()
        self._over = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._said = ""
        self._thread = threading.Thread(target=self._keep, name=f"forward {door.service}", daemon=True)

    def __enter__(self) -> _Forward:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with self._lock:
            self._over.set()
            if self._process is not None:
                self._process.terminate()
        self._thread.join()

    def wait(self) -> None:
        """Returns when the forward stands. Raises Problem when it does not in time."""
        if not self._open.wait(SECONDS):
            raise Problem(f"no way to the {self._door.service}: {self._said.strip() or 'no answer'}")

    def _keep(self) -> None:
        while not self._over.is_set():
            with self._lock:
                if self._over.is_set():
                    return
                self._process = subprocess.Popen(
                    leashed(self._command),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            with self._process as process:
                for line in process.stdout or ():
                    self._said = line
                    if line.startswith("Forwarding from"):
                        self._open.set()
            self._over.wait(PAUSE)
