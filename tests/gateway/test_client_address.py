"""Nobody chooses the address that limits count: `X-Forwarded-For` is believed from our proxies alone."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from typing import Any

import httpx
import pytest

from dev.options import free_port

SIGN_IN = """mutation { signIn(input: {identifier: "079123456789", password: "mật khẩu"}) { __typename } }"""
HOPS = [
    ("", "198.51.100.7", "127.0.0.1"),
    ("127.0.0.0/8,10.0.0.0/8", "203.0.113.1, 198.51.100.7, 10.1.2.3", "198.51.100.7"),
]


async def seen(target: str, nats_url: str, eventually: Any, fakes: Any, trusted: str, **headers: str) -> str:
    """The address that a gateway with these proxies passes on."""
    port = free_port()
    names = ("IDENTITY", "CATALOG", "DOSSIER", "PAYMENT", "NOTIFY")
    environment = {f"{name}_TARGET": target for name in names} | {
        "ENVIRONMENT": "test",
        "NATS_URL": nats_url,
        "GATEWAY_PORT": str(port),
        "TRUSTED_PROXIES": trusted,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", env=os.environ | environment
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:

            async def ready() -> bool:
                with suppress(httpx.HTTPError):
                    return (await http.get("/readyz")).status_code == 200
                return False

            await eventually(ready, within=120, every=0.2)
            await http.post("/graphql", json={"query": SIGN_IN}, headers=headers)
        return str(fakes.requests["SignIn"].client_address)
    finally:
        process.kill()
        await process.wait()


@pytest.mark.proof("9.9")
@pytest.mark.parametrize(("trusted", "hops", "address"), HOPS)
async def test_the_right_most_hop_that_is_no_proxy_of_ours_is_the_client(
    target: str, nats_url: str, eventually: Any, fakes: Any, trusted: str, hops: str, address: str
) -> None:
    headers = {"x-forwarded-for": hops}
    assert await seen(target, nats_url, eventually, fakes, trusted, **headers) == address
