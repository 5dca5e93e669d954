"""Room for uploads: nobody keeps the others out, a repeated request is no further upload, and the sweeper
asks for many objects at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dossier.grpc_api import vault
from dossier.grpc_api.vault import VaultApi
from dossier.handlers import uploads
from kit.auth import Caller
from kit.errors import RateLimited, Unavailable
from kit.ids import uuid7
from motcua.dossier.v1 import vault_pb2 as vp
from tests import papers

PDF = papers.pdf(20_000)


@pytest.fixture
def as_anh(anh: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Calls of an API without a server come from this citizen."""
    monkeypatch.setattr(vault, "current_caller", lambda: Caller(anh, "citizen"))
    return anh


async def begin(api: VaultApi, request_id: str = "") -> str:
    request = vp.BeginUploadRequest(request_id=request_id or uuid7(), size=len(PDF), filename="a.pdf")
    return (await api.BeginUpload(request, None)).upload.id


@pytest.mark.usefixtures("as_anh")
async def test_a_client_that_falls_silent_does_not_keep_the_others_out(world: Any) -> None:
    api = VaultApi(world.ports, streams=1, idle=0.3)
    silent, brisk = await begin(api), await begin(api)

    async def falling_silent() -> AsyncIterator[vp.AppendUploadRequest]:
        yield vp.AppendUploadRequest(id=silent, data=PDF[:5000])
        await asyncio.Event().wait()

    async def to_the_end() -> AsyncIterator[vp.AppendUploadRequest]:
        yield vp.AppendUploadRequest(id=brisk, data=PDF)

    async with asyncio.timeout(30):
        stalled, done = await asyncio.gather(
            api.AppendUpload(falling_silent(), None),
            api.AppendUpload(to_the_end(), None),
            return_exceptions=True,
        )
    assert isinstance(stalled, Unavailable)
    assert isinstance(done, vp.AppendUploadResponse)
    assert done.document.id
    kept = await api.GetUpload(vp.GetUploadRequest(id=silent), None)
    assert kept.upload.offset == 5000


@pytest.mark.usefixtures("as_anh")
async def test_the_last_upload_that_is_open_is_found_again_by_its_request(world: Any) -> None:
    limits = replace(world.ports.limits, open_uploads=2)
    api = VaultApi(replace(world.ports, limits=limits), streams=1, idle=30)
    await begin(api)
    key = uuid7()
    last = await begin(api, key)
    assert await begin(api, key) == last
    with pytest.raises(RateLimited):
        await begin(api)


async def test_the_sweeper_looks_up_objects_by_the_batch_and_keeps_what_is_needed(
    world: Any, anh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        await world.upload(anh, PDF + bytes([number]))
    needed = [key for key in await world.stored() if key.startswith("sha256")]
    orphans = [f"sha256/{digit * 2}/{digit * 64}" for digit in "abc"]
    for orphan in orphans:
        await world.ports.objects.put(orphan, b"orphan")
    asked = []
    batch = world.ports.blobs.batch

    async def counted(ids: list[str]) -> Any:
        asked.append(len(ids))
        return await batch(ids)

    monkeypatch.setattr(world.ports.blobs, "batch", counted)
    monkeypatch.setattr(uploads, "_AT_ONCE", 3)
    world.time.at = max(world.time.at, datetime.now(UTC)) + timedelta(days=2)
    assert await uploads.sweep(world.ports) >= len(orphans)
    assert max(asked) == 3
    assert len(asked) <= (len(needed) + len(orphans)) // 3 + 1
    assert [key for key in await world.stored() if key.startswith("sha256")] == needed
