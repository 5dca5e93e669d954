"""Somebody patient at the public API."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from dev import person
from dev.person import Person, Surprise

DONE = {"data": {"done": {"__typename": "Dossier", "id": "1"}}}
UNAVAILABLE = {"data": None, "errors": [{"message": "…", "extensions": {"code": "UNAVAILABLE"}}]}
INTERNAL = {"data": None, "errors": [{"message": "…", "extensions": {"code": "INTERNAL"}}]}

CLIENT = httpx.AsyncClient
Answer = Callable[[], httpx.Response]


def refuses() -> httpx.Response:
    raise httpx.ConnectError("refused")


class Gateway:
    """Answers one after the other; keeps what it was sent."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.asked: list[bytes] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.content)
        return self._answers.pop(0)()


def somebody(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, patience: float) -> Person:
    monkeypatch.setattr(httpx, "AsyncClient", lambda **_: CLIENT(transport=httpx.MockTransport(gateway)))
    monkeypatch.setattr(person, "AGAIN", 0.0)
    return Person("An", "http://gateway", patience=patience)


async def test_somebody_patient_sends_the_same_request_until_there_is_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway = Gateway(
        refuses,
        lambda: httpx.Response(503),
        lambda: httpx.Response(200, json=UNAVAILABLE),
        lambda: httpx.Response(200, json=DONE),
    )
    done = await somebody(gateway, monkeypatch, patience=60).do(
        "submitDossier", "Dossier", "id", dossierId="1"
    )
    assert done["id"] == "1"
    assert len(gateway.asked) == 4
    assert len(set(gateway.asked)) == 1  # one requestId


async def test_somebody_patient_takes_a_masked_failure_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(lambda: httpx.Response(200, json=INTERNAL))
    with pytest.raises(Surprise):
        await somebody(gateway, monkeypatch, patience=60).ask("{ viewer { id } }")


async def test_without_patience_the_first_answer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(lambda: httpx.Response(200, json=UNAVAILABLE))
    with pytest.raises(Surprise):
        await somebody(gateway, monkeypatch, patience=0).ask("{ viewer { id } }")
    gateway = Gateway(refuses)
    with pytest.raises(httpx.ConnectError):
        await somebody(gateway, monkeypatch, patience=0).ask("{ viewer { id } }")
