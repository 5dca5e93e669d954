"""What is logged and printed has no password in it, whatever is wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from gateway.app import _listen
from gateway.live import Live
from gateway.settings import GatewaySettings
from kit import mongo
from kit.service import CannotStart, Service
from kit.settings import Settings

Eventually = Callable[..., Awaitable[Any]]
NATS = "nats://dossier:hunter2@127.0.0.1:1,nats://dossier:hunter2@127.0.0.1:2"


async def test_a_service_does_not_log_the_password_of_nats(
    monkeypatch: pytest.MonkeyPatch, mongo_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kit.service._MESSAGING", 0.5)
    database = mongo.connect(mongo_url, "secrets")
    store: Any = mongo.Store(database, "things", object, context="secrets")
    service = Service(
        "one", Settings(environment="test", mongodb_url=mongo_url, nats_url=NATS), stores=[store]
    )
    with caplog.at_level(logging.DEBUG):
        await service.start()
        await service.stop()
    assert "NATS does not answer at nats://127.0.0.1:1,nats://127.0.0.1:2" in caplog.text
    assert "hunter2" not in caplog.text


async def test_the_gateway_does_not_log_the_password_of_nats(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async def away(*_args: Any, **_options: Any) -> None:
        raise OSError("refused")

    monkeypatch.setattr("nats.aio.client.Client.connect", away)
    with caplog.at_level(logging.DEBUG):
        listening = asyncio.create_task(_listen(Live(), GatewaySettings(environment="test", nats_url=NATS)))
        await eventually(lambda: "NATS at nats://127.0.0.1:1,nats://127.0.0.1:2: refused" in caplog.text)
        listening.cancel()
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    "url", ["nats://dossier:hun/ter2@nats:4222", "nats://dossier:hunter2@nats:port", "hunter2", ""]
)
def test_a_wrong_address_of_nats_is_said_without_it(url: str) -> None:
    with pytest.raises(ValidationError, match="nats_url") as raised:
        Settings(nats_url=url, service_secret=SecretStr("hunter2"))
    assert "hun" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://dossier:hunter2@",
        "mongodb://dossier:hun/ter2@mongo",
        "mongodb://dossier:hun:ter2@mongo",
        "mongodb://dossier:hun@ter2@mongo",
        "mongodb://dossier:hun%ter2@mongo",
        "mongodb://dossier:hunter2@mongo:port",
        "mongo://dossier:hunter2@mongo",
    ],
)
def test_a_wrong_address_of_mongodb_is_said_without_its_password(url: str) -> None:
    with pytest.raises(CannotStart, match="bad setting: MONGODB_URL") as raised:
        mongo.connect(url, "secrets")
    assert "hun" not in str(raised.value)


async def test_an_absent_database_is_said_without_its_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kit.mongo.PATIENCE", 0.05)
    url = "mongodb://dossier:hunter2@127.0.0.1:1/?serverSelectionTimeoutMS=100"
    conf = Settings(environment="test", mongodb_url=url)
    with caplog.at_level(logging.INFO), pytest.raises(CannotStart) as raised:
        await Service("one", conf, database=mongo.connect(url, "secrets")).start()
    assert "hunter2" not in str(raised.value) + caplog.text
