"""Nobody fills the store: what is announced beyond an account's room is refused before a byte is taken."""

from __future__ import annotations

from typing import Any

import pytest

from kit.errors import DomainError
from motcua.dossier.v1 import vault_pb2 as vp

LARGEST = 64 * 2**20  # bytes of a file, in these tests
ROOM = 2 * 2**30  # bytes of a person's vault


@pytest.mark.proof("9.10")
async def test_unfinished_uploads_together_announce_no_more_than_the_vault_holds(
    world: Any, anh: str, binh: str
) -> None:
    begun = []
    refused: list[DomainError] = []
    for _ in range(ROOM // LARGEST + 1):
        try:
            request = vp.BeginUploadRequest(size=LARGEST, filename="a.pdf")
            begun.append((await world.call("BeginUpload", anh, request)).upload.id)
        except DomainError as error:
            refused.append(error)
    assert [error.reason for error in refused] == ["STORAGE_FULL"]
    assert refused[0].metadata["left_bytes"] == "0"
    assert len(begun) == ROOM // LARGEST
    assert await world.call("BeginUpload", binh, vp.BeginUploadRequest(size=LARGEST, filename="a.pdf"))
    await world.call("CancelUpload", anh, vp.CancelUploadRequest(id=begun[0]))
    assert await world.call("BeginUpload", anh, vp.BeginUploadRequest(size=LARGEST, filename="a.pdf"))


@pytest.mark.proof("9.10")
async def test_one_can_ask_how_much_room_there_is() -> None:
    service = vp.DESCRIPTOR.services_by_name["VaultService"]
    assert "GetStorage" in service.methods_by_name
