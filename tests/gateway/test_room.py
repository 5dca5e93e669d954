"""The room of a vault as clients see it."""

from __future__ import annotations

from typing import Any

import pytest

from kit.errors import FailedPrecondition

pytestmark = pytest.mark.proof("9.10")
FULL: dict[str, Any] = {"left_bytes": 3_400_000, "left_megabytes": 3, "left_documents": 12}


async def test_the_viewer_sees_how_much_there_is_and_may_be(gateway: Any) -> None:
    query = "{ viewer { storage { usedBytes limitBytes documents documentLimit } } }"
    answer = (await gateway.ask(query)).json()
    assert "errors" not in answer
    assert answer["data"]["viewer"]["storage"] == {
        "usedBytes": 2**31 + 1,
        "limitBytes": 2**32,
        "documents": 7,
        "documentLimit": 1000,
    }


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("vi", "Kho giấy tờ không đủ chỗ: còn 3 MB và 12 giấy tờ."),
        ("en", "The vault has no room for it: 3 MB and 12 documents are left."),
    ],
)
async def test_what_has_no_room_is_refused_before_a_byte_is_taken(
    gateway: Any, fakes: Any, issue: Any, language: str, said: str
) -> None:
    fakes.fail["BeginUpload"] = FailedPrecondition("STORAGE_FULL", **FULL)
    headers = {
        "tus-resumable": "1.0.0",
        "upload-length": "5000000",
        "authorization": f"Bearer {issue()}",
        "accept-language": language,
    }
    response = await gateway.http.post("/files", headers=headers)
    assert response.status_code == 413
    assert said in response.text
    assert "location" not in response.headers
    mutation = "mutation($input: BeginUploadInput!) { beginUpload(input: $input) "
    mutation += "{ ... on Problem { reason message } } }"
    wanted = {"input": {"size": 5_000_000, "filename": "a.pdf"}}
    asked = await gateway.data(mutation, wanted, headers={"accept-language": language})
    assert asked["beginUpload"]["reason"] == "STORAGE_FULL"
    assert asked["beginUpload"]["message"] == said
