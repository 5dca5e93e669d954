"""`python -m sandbox`: runs the gateway until it is told to stop."""

from __future__ import annotations

import logging
import socket

import uvicorn

from sandbox.app import build
from sandbox.settings import Settings


def main() -> None:
    """Listens where the settings say and prints the address."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = Settings()
    host, _, port = settings.sandbox_listen.rpartition(":")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
        listener.listen(128)  # from here on callers wait instead of being refused
    except OSError as error:
        raise SystemExit(
            f"the sandbox cannot listen on {settings.sandbox_listen}: {error.strerror}"
        ) from None
    address = listener.getsockname()
    print(f"sandbox ready on http://{address[0]}:{address[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(build(settings), log_level="warning", access_log=False)).run([listener])


if __name__ == "__main__":
    main()
