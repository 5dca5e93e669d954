"""Which stream an event names, however its headers are written."""

from __future__ import annotations

import pytest
from nats.aio.client import Client

from kit import origin


def block(*lines: str) -> bytes:
    return "\r\n".join(["NATS/1.0", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["Nats-Expected-Stream: payment"], "payment"),
        (["a: b", "Nats-Expected-Stream: payment", "Nats-Pin-Id: x"], "payment"),
        ([], ""),
        (["Nats-Expected-Stream:payment"], ""),
        (["Nats-Expected-Stream : payment"], ""),
        ([" Nats-Expected-Stream: payment"], ""),
        (["nats-expected-stream: payment"], ""),
        (["Nats-Expected-Stream: payment "], ""),
        (["Nats-Expected-Stream: payment", "Nats-Expected-Stream: payment"], ""),
        (["a: Nats-Expected-Stream: x", "Nats-Expected-Stream: payment"], ""),
        (["a: b\nNats-Expected-Stream: payment"], ""),
        (["a: b\rNats-Expected-Stream: payment"], ""),
        (["Nats-Expected-Stream: pay\nment"], ""),
        (["Nats-Expected-Stream: *"], ""),
    ],
)
async def test_a_stream_is_named_in_one_way_only(lines: list[str], found: str) -> None:
    assert origin.named(block(*lines)) == found
    client = Client()
    origin.strict(client)
    origin.strict(client)
    headers = await client._process_headers(block(*lines)) or {}
    assert headers.get(origin.STREAM, "") == found
    assert origin.headers_of(block(*lines)).get(origin.STREAM, "") == found


@pytest.mark.parametrize(
    ("stream", "subject", "headers", "right"),
    [
        ("payment", "motcua.payment.v1.charge_paid.x", {origin.STREAM: "payment"}, True),
        ("payment", "motcua.payment.v1.charge_paid.3.x", {origin.STREAM: "payment"}, True),
        ("payment", "motcua.payment.v1.charge_paid.x", {origin.STREAM: "dossier"}, False),
        ("payment", "motcua.payment.v1.charge_paid.x", {}, False),
        ("payment", "motcua.payment.v1.charge_paid.x", None, False),
        ("payment", "motcua.dossier.v1.charge_paid.x", {origin.STREAM: "payment"}, False),
        ("pay", "motcua.payment.v1.charge_paid.x", {origin.STREAM: "pay"}, False),
    ],
)
def test_an_event_is_of_its_stream_or_not(
    stream: str, subject: str, headers: dict[str, str] | None, right: bool
) -> None:
    assert (origin.fault(stream, subject, headers) == "") is right


def test_a_true_event_is_none_on_another_subject() -> None:
    own = "motcua.payment.v1.charge_paid.x"
    headers = {origin.STREAM: "payment", origin.SUBJECT: own}
    assert not origin.fault("payment", "motcua.payment.v1.charge_paid.2.x", headers)
    assert origin.fault("payment", "motcua.payment.v1.charge_paid.2.y", headers)
    assert origin.fault("payment", "motcua.payment.v1.charge_refunded.x", headers)
