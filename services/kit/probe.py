"""Health for the kubelet: a gRPC server of its own, without TLS and without a word about dependencies."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from kit.grpc_server import free_to_listen

LIVE = "live"  # the event loop answers
READY = "ready"  # started, and not stopping
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Probe:
    """Answers for `live` from its start to its end, and for `ready` (and "") what it was told last.

    A dependency that is away must not show here: it would take all replicas out of rotation at once.
    """

    def __init__(self, listen: str) -> None:
        self.port = 0
        self._listen = listen
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listens; does nothing without an address. Raises OSError when it cannot."""
        if not self._listen:
            return
        free_to_listen(self._listen)
        await self._health.set(LIVE, _SERVING)
        await self.ready(False)
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.port = self._server.add_insecure_port(self._listen)
        await self._server.start()

    async def ready(self, yes: bool) -> None:
        """What `ready` answers from now on."""
        for name in (READY, ""):
            await self._health.set(name, _SERVING if yes else _NOT_SERVING)

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None
