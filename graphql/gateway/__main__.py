"""`python -m gateway`."""

from __future__ import annotations

import os
import signal
import socket
import sys

import uvicorn
import uvloop
from pydantic import ValidationError

from gateway.app import build
from gateway.settings import GatewaySettings
from kit import telemetry


def main() -> None:
    """Serves until SIGTERM or SIGINT. Ends with 2 and one clear line when it cannot start."""
    try:
        settings = GatewaySettings()
        telemetry.setup(settings, "gateway")
        if settings.metrics_listen:
            telemetry.serve_metrics(settings.metrics_listen)
        listener = socket.create_server((settings.gateway_host, settings.gateway_port), backlog=1024)
    except ValidationError as error:
        wrong = "; ".join(
            ": ".join([*(str(name).upper() for name in e["loc"]), e["msg"]]) for e in error.errors()
        )
        sys.exit(_refuse(f"bad setting: {wrong}"))
    except OSError as error:
        sys.exit(_refuse(f"{settings.gateway_host}:{settings.gateway_port}: {os.strerror(error.errno or 0)}"))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # uvicorn raises the signal again when it has stopped
    try:
        uvloop.run(_serve(settings, listener))
    except (OSError, ValueError) as error:
        sys.exit(_refuse(str(error)))


async def _serve(settings: GatewaySettings, listener: socket.socket) -> None:
    """The channels of the application belong to the loop that makes them, so it is built in here."""
    config = uvicorn.Config(
        build(settings),
        http="httptools",
        ws="websockets-sansio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_graceful_shutdown=min(5, int(settings.grace)),  # a stream never ends by itself
        ws_max_size=settings.max_body_bytes,
    )
    await uvicorn.Server(config).serve(sockets=[listener])


def _refuse(line: str) -> int:
    print(f"gateway: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
