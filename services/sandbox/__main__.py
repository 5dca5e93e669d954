"""`python -m sandbox`: runs the gateway until it is told to stop."""

from __future__ import annotations

import logging
import socket
import sys

import uvicorn
from pydantic import ValidationError

from sandbox.app import build
from sandbox.settings import Settings


def main() -> None:
    """Listens where the settings say and prints the address; ends with 2 and one line when it cannot."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = Settings()
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        sys.exit(_refuse(f"bad setting: {wrong}"))
    if settings.environment == "production":
        sys.exit(_refuse("the payment sandbox must not run in production"))
    host, _, port = settings.sandbox_listen.rpartition(":")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
        listener.listen(128)  # from here on callers wait instead of being refused
    except (OSError, OverflowError, ValueError) as error:
        sys.exit(_refuse(f"SANDBOX_LISTEN: cannot listen on {settings.sandbox_listen} ({error})"))
    address = listener.getsockname()
    print(f"sandbox ready on http://{address[0]}:{address[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(build(settings), log_level="warning", access_log=False)).run([listener])


def _refuse(why: str) -> int:
    print(f"sandbox: {why}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    main()
