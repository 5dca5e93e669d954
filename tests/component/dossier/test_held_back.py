"""A file has a state of its own before anybody reads it, and a picture a form that everybody can."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from dossier.bootstrap import DossierSettings, build
from kit.service import CannotStart
from motcua.dossier.v1 import events_pb2 as ev
from motcua.dossier.v1 import vault_pb2 as vp

proof = pytest.mark.proof("9.3")


@proof
def test_a_version_says_what_the_antivirus_said_and_has_a_rendition() -> None:
    assert {"check", "found", "rendition", "signed", "attachments"} <= set(
        vp.DocumentVersion.DESCRIPTOR.fields_by_name
    )
    assert "rendition" in vp.CreateDownloadRequest.DESCRIPTOR.fields_by_name
    assert hasattr(ev, "DocumentChecked")


@proof
def test_production_does_not_start_without_an_antivirus_unless_told_so() -> None:
    settings = DossierSettings(
        environment="production",
        download_secret=SecretStr("x" * 32),
        object_store_url="s3://bucket",
        service_secret=SecretStr("x"),
        mongodb_url="mongodb://127.0.0.1:1",
    )
    with pytest.raises(CannotStart, match="ANTIVIRUS_URL"):
        build(settings)


@proof
async def test_without_an_antivirus_a_file_says_that_it_was_not_checked(world: Any, anh: str) -> None:
    document = await world.upload(anh)
    assert "check" in vp.DocumentVersion.DESCRIPTOR.fields_by_name
    assert document.versions[0].check == vp.FILE_CHECK_NONE
