"""`python -m gateway`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator

import uvicorn
import uvloop
from pydantic import ValidationError

from gateway.app import build
from gateway.connections import protocols
from gateway.leaving import Leaving
from gateway.settings import GatewaySettings
from kit import telemetry
from kit.settings import CannotStart, wrong

log = logging.getLogger(__name__)
_IDLE = 120  # seconds an unused connection is kept: longer than proxies do (Traefik 90), so they close it


def main() -> None:
    """Serves until SIGTERM or SIGINT. Ends with 2 and one clear line when it cannot start."""
    try:
        settings = GatewaySettings()
        telemetry.setup(settings, "gateway")
        if settings.metrics_listen:
            telemetry.serve_metrics(settings.metrics_listen)
        listener = socket.create_server((settings.gateway_host, settings.gateway_port), backlog=1024)
    except ValidationError as error:
        sys.exit(_refuse(f"bad setting: {wrong(error)}"))
    except OSError as error:
        where = f"{settings.gateway_host}:{settings.gateway_port}"
        sys.exit(_refuse(f"{where}: {os.strerror(error.errno)}" if error.errno else str(error)))
    try:
        uvloop.run(_serve(settings, listener))
    except (CannotStart, OSError, ValueError) as error:
        sys.exit(_refuse(str(error)))


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are ours: what they begin takes longer than uvicorn would wait."""
        yield


async def _serve(settings: GatewaySettings, listener: socket.socket) -> None:
    """The channels of the application belong to the loop that makes them, so it is built in here."""
    leaving, asked = Leaving(), asyncio.Event()

    def ask(number: int) -> None:
        if asked.is_set():
            os._exit(128 + number)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ask, number)

    http, ws = protocols(settings)
    config = uvicorn.Config(
        build(settings, leaving),
        http=http,
        ws=ws,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # gateway.address does it
        timeout_keep_alive=_IDLE,
        ws_ping_interval=20,
        ws_ping_timeout=20,
        ws_max_size=settings.max_body_bytes,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    waiting = asyncio.create_task(asked.wait())
    await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        log.info("gateway stops")
        leaving.begun = True
        await asyncio.sleep(settings.drain)
        began = time.monotonic()
        await leaving.end_streams(settings.grace)
        config.timeout_graceful_shutdown = math.ceil(max(0.0, settings.grace - time.monotonic() + began))
        server.should_exit = True
    waiting.cancel()
    await serving


def _refuse(line: str) -> int:
    print(f"gateway: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
