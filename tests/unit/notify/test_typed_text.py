"""Whatever people type stays data in what we write to others, in every template and variable."""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from notify.domain.kinds import KINDS, About
from notify.domain.notice import Notice
from notify.senders import HttpGateway
from notify.texts import LOCALES, templates, write

OURS = {
    "due": "2026-11-25T09:30:00.000Z",
    "new_due": "2026-12-25T09:30:00.000Z",
    "at": "2026-11-25T09:30:00.000Z",
    "until": "2026-11-25T09:30:00.000Z",
    "amount": "8000",
    "cause": "OFFICIAL",
}
HOSTILE = (
    "nhận 500.000đ tại http://evil.example/x?y=1",
    "HTTPS://EVIL.EXAMPLE",
    "xem evil.com, evil.com.vn/nhan-tien và www.evil.vn",
    "hỏi ke.trom@evil.vn",
    "mailto:a@evil.vn tel:19001234 javascript:alert(1) data:text/html,x",
    "hxxp://evil。com ｗｗｗ．evil．vn",
    'đúng.”\nThời gian hẹn lại: 08:00 ngày 01/01/2030\n"',
    "a\r\nb\rc\u2028d\u2029e\x85f\x0bg\x0ch",
    "\u202eoạc iàt\u202c\u2066x\u2069\u200e\u061c",
    "\x00\x1b[31m\x07\x7f\x9b",
    "v\u200bô h\u200cì\u200dn\u2060h\ufeff\u00ad\u034f\U000e0041",
    "\u3164\u115f\u2800",
    "e" + "\u0301" * 500,
    "<script>alert(1)</script><a href='http://evil.vn'>x</a><img src=x onerror=y>",
    "[bấm vào đây](http://evil.vn) **đậm** `x`",
    "{0.__class__} {by} {} %s %(x)s ${x} {{7*7}}",
    "=?utf-8?B?QmNjOiBh?=",
    "x" * 100_000,
    "dòng\n" * 5_000,
)
LINK = re.compile(
    r"[a-z][a-z0-9+.-]*://|\bwww\.|(?:mailto|tel|javascript|data):\S|\w@\w"
    r"|\w\.(?:com|vn|example)\b",
    re.IGNORECASE,
)
CASES = [
    (kind, locale, name)
    for kind in sorted(KINDS)
    for locale in LOCALES
    for name in sorted(KINDS[kind].params - OURS.keys())
]


def params_of(kind: str, name: str, value: str) -> dict[str, str]:
    return {each: OURS.get(each, "Nguyễn Văn A") for each in KINDS[kind].params} | {name: value}


@pytest.mark.proof("9.4")
@pytest.mark.parametrize(("kind", "locale", "name"), CASES)
def test_what_people_type_forges_nothing(kind: str, locale: str, name: str) -> None:
    most = len([line for line in templates(locale)[kind].lines if line])
    for value in HOSTILE:
        title, body = write(kind, locale, params_of(kind, name, value))
        for text in (title, body):
            assert not LINK.search(unicodedata.normalize("NFKC", text)), text
            unseen = [c for c in text if unicodedata.category(c)[0] == "C" and c != "\n"]
            assert not unseen, (value[:20], unseen)
            assert not set(text) & set("\u2028\u2029\u3164\u115f\u2800\u034f")
            assert not re.search(r"[\u0300-\u036f]{5}", text)
            assert text.count("“") == text.count("”")
        assert "\n" not in title
        assert len(title) <= 400, "a title is read at a glance"
        assert len(body) <= 3_000
        assert len(body.split("\n")) <= most, "no line more than the template has"


@pytest.mark.proof("9.4")
@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_it_is_clear_who_typed_a_text(kind: str, locale: str) -> None:
    for line in templates(locale)[kind].lines:
        for name in re.findall(r"\{(reason|defects|guidance|document|procedure|step)\}", line):
            assert f"“{{{name}}}”" in line, "between quotation marks that no text of people's can end"
        if re.search(r"\{(reason|defects|guidance)\}", line):
            who = ("cán bộ ghi", "người nộp ghi", "the officer writes", "the applicant writes")
            assert any(f"({each})" in line for each in who), line


@pytest.mark.proof("9.4")
@pytest.mark.parametrize("value", HOSTILE)
async def test_a_short_message_has_one_link_and_it_is_ours(value: str) -> None:
    sent: list[Any] = []

    def gateway(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200)

    for kind in ("document_deposited", "delegation_granted", "desk_submitted"):
        params = {name: OURS.get(name, value) for name in KINDS[kind].params}
        title, body = write(kind, "vi", params)
        at = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
        notice = Notice("n1", "an", kind, About(document="d1"), "vi", params, title, body, at)
        async with httpx.AsyncClient(transport=httpx.MockTransport(gateway)) as client:
            sms = HttpGateway(client, "https://sms.example", "token", "https://motcua.example/")
            await sms.send(notice, "0901000101")
    for message in sent:
        ours = "https://motcua.example/documents/d1"
        assert message["text"].endswith(ours)
        assert not LINK.search(unicodedata.normalize("NFKC", message["text"].removesuffix(ours)))
        for name, told in message["params"].items():
            if name not in OURS:
                assert not LINK.search(unicodedata.normalize("NFKC", told)), told
                assert not [c for c in told if unicodedata.category(c)[0] == "C"]
