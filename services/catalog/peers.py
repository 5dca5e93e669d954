"""A client of identity: our own token."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from kit.grpc_client import Channel
from motcua.identity.v1 import identity_pb2 as pb
from motcua.identity.v1 import identity_pb2_grpc


def token_from(channel: Channel, service: str, secret: str) -> Callable[[], Awaitable[tuple[str, float]]]:
    """Fetches an access token of a service and the seconds that it is valid."""
    stub = identity_pb2_grpc.IdentityServiceStub(channel)

    async def fetch() -> tuple[str, float]:
        request = pb.IssueServiceTokenRequest(service=service, secret=secret)
        answer = await stub.IssueServiceToken(request)
        return answer.access_token, answer.expire_time.ToNanoseconds() / 1e9 - time.time()

    return fetch
