"""Every reader of our mail sees in its headers what was meant, over every template and real names."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import quopri
import re
import unicodedata
from datetime import UTC, datetime
from email.header import decode_header, make_header
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, Envelope

from kit.text import nfc
from notify.domain.delivery import Step
from notify.domain.kinds import KINDS, About
from notify.domain.notice import Notice
from notify.senders import Smtp
from notify.texts import write

pytestmark = pytest.mark.proof("9.19")
# Names of procedures in the national database: some here, the longest and the oddest in a file.
_FILE = Path(__file__).with_name("names.txt")
NAMES = [
    (
        "Thu thập, cập nhật thông tin của người gốc Việt Nam chưa xác định được quốc tịch vào Cơ sở"
        " dữ liệu quốc gia về dân cư, Cơ sở dữ liệu căn cước và cấp giấy chứng nhận căn cước (thực "
        "hiện tại cấp xã)"
    ),
    (
        "Thủ tục hướng dẫn cơ chế hỗ trợ lãi suất do thực hiện chính sách tín dụng theo Nghị định "
        "số 67/2014/NĐ-CP ngày 07/7/2014 của Chính phủ về một số chính sách phát triển thủy sản"
    ),
    *(nfc(_FILE.read_text("utf-8")).splitlines() if _FILE.exists() else ()),
]
LONG_ADDRESS = f"{'a' * 64}@{'b' * 60}.{'c' * 60}.example.vn"
SAMPLE = {
    "due": "2026-11-25T09:30:00.000Z",
    "new_due": "2026-12-25T09:30:00.000Z",
    "at": "2026-11-25T09:30:00.000Z",
    "until": "2026-11-25T09:30:00.000Z",
    "amount": "8000",
    "cause": "OFFICIAL",
    "code": "H32.15-261121-0001",
}


def notice(kind: str, locale: str, name: str) -> Notice:
    params = {param: SAMPLE.get(param, name) for param in KINDS[kind].params}
    title, body = write(kind, locale, params)
    at = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
    return Notice(f"{kind}-{locale}", "an", kind, About(dossier="d1"), locale, params, title, body, at)


class Post:
    """A server that keeps what it is given."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:
        self.envelopes.append(envelope)
        return "250 kept"


async def sent(*letters: tuple[Notice, str, str], utf8: bool = True) -> list[Envelope]:
    """What arrives of notices sent to an address under a sender's name."""
    post = Post()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(post, enable_SMTPUTF8=utf8, hostname="post.example"), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    try:
        for letter, to, name in letters:
            smtp = Smtp("127.0.0.1", port, "no-reply@motcua.example", name, "https://motcua.example/")
            outcome = await smtp.send(letter, to)
            assert outcome.step is Step.ACCEPT, (outcome, to, name)
    finally:
        server.close()
    return post.envelopes


def lines_of(envelope: Envelope) -> list[bytes]:
    """The lines of the headers of a mail."""
    assert isinstance(envelope.content, bytes)
    return envelope.content.partition(b"\r\n\r\n")[0].split(b"\r\n")


def header(envelope: Envelope, name: str) -> str:
    """A header unfolded (RFC 5322, 2.2.3), not decoded."""
    text = b"\r\n".join(lines_of(envelope)).decode()
    found = re.findall(rf"(?:^|\n){name}: ([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)", text, re.IGNORECASE)
    assert len(found) == 1, (name, text)
    return re.sub(r"\r\n(?=[ \t])", "", found[0])


def decoded(text: str) -> str:
    """RFC 2047 read by its letter: encoded words stand between spaces, and spaces between two are nothing."""
    text = re.sub(r"(?<=\?=)[ \t]+(?==\?)", "", text)

    def word(found: re.Match[str]) -> str:
        charset, kind, content = found.groups()
        assert len(found[0]) <= 75, found[0]
        if kind in "bB":
            return base64.b64decode(content, validate=True).decode(charset)
        return quopri.decodestring(content.replace("_", " ").encode()).decode(charset)

    return re.sub(r"=\?([\w-]+)\?([bBqQ])\?([^? ]*)\?=", word, text)


def read_three_ways(envelope: Envelope, name: str) -> set[str]:
    """The header as different readers see it: by the letter of the RFC, and by both of Python's parsers."""
    assert isinstance(envelope.content, bytes)
    raw = header(envelope, name)
    new = email.message_from_bytes(envelope.content, policy=email.policy.default)
    old = str(make_header(decode_header(raw)))
    return {decoded(raw), str(new[name]), old}


@pytest.mark.parametrize("locale", ["vi", "en"])
@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_every_subject_arrives_as_it_was_written(kind: str, locale: str) -> None:
    letters = list({letter.title: letter for letter in (notice(kind, locale, n) for n in NAMES)}.values())
    for letter, envelope in zip(
        letters, await sent(*((letter, "an@example.vn", "Một Cửa") for letter in letters)), strict=True
    ):
        assert read_three_ways(envelope, "subject") == {letter.title}
        assert max(map(len, lines_of(envelope))) <= 78


async def test_every_name_of_a_sender_arrives_as_it_was_written() -> None:
    letter = notice("session_reused", "vi", "")
    envelopes = await sent(*((letter, "an@example.vn", name) for name in NAMES))
    for name, envelope in zip(NAMES, envelopes, strict=True):
        display, _, address = decoded(header(envelope, "from")).rpartition(" ")
        assert (display, address) == (name, "<no-reply@motcua.example>")
        # Python's newer parser keeps the spaces between encoded words of a name, against RFC 2047, 6.2.
        assert str(make_header(decode_header(header(envelope, "from").rpartition(" ")[0]))) == name
        assert max(map(len, lines_of(envelope))) <= 78


@pytest.mark.parametrize(
    "title",
    [
        "Hồ sơ đã có kết quả",
        "trả kết quả " * 30,
        "a" * 70 + " đ " + "b" * 200,
        "ệ" * 500,
        "e\u0323\u0302" * 300,
        "=?utf-8?B?QmNjOiBhbGxAZXhhbXBsZS52bg==?=",
        "=?utf-8?q?x=0D=0ABcc:_all@example.vn?=",
        "plain =? not a word ?=",
        "👩‍👩‍👧‍👦" * 40,
        "a, b; c: <d> (e) \"f\" 'g' \\h",
        "x" * 300,
        "one two " * 60,
        "Tiếng Việt with a very long English tail that goes on and on and on until it has to be folded once",
    ],
)
async def test_no_title_is_misread_however_it_is_written(title: str) -> None:
    letter = notice("session_reused", "vi", "")
    letter.title = title = " ".join(title.split())
    (envelope,) = await sent((letter, "an@example.vn", "Một Cửa"))
    assert read_three_ways(envelope, "subject") == {title}
    assert max(map(len, lines_of(envelope))) <= 998
    words = re.findall(r"=\?utf-8\?B\?([^?]*)\?=", header(envelope, "subject"))
    for word in words:  # no letter is parted from its marks
        assert not unicodedata.combining(base64.b64decode(word).decode()[0])


@pytest.mark.parametrize("break_", ["\r\n", "\n", "\r", "\r\n ", "\u2028", "\x85", "\x0b", "\x00"])
async def test_no_title_and_no_sender_brings_a_header_of_its_own(break_: str) -> None:
    letter = notice("session_reused", "vi", "")
    letter.title = f"x{break_}Bcc: all@example.vn"
    (envelope,) = await sent((letter, "an@example.vn", f"Một Cửa{break_}Bcc: all@example.vn"))
    names = sorted(line.partition(b":")[0].lower() for line in lines_of(envelope) if line[:1] not in b" \t")
    assert names == sorted(
        [
            *(b"auto-submitted", b"content-language", b"content-type", b"date", b"from", b"message-id"),
            *(b"mime-version", b"subject", b"to"),
        ]
    )


async def test_long_and_foreign_addresses_are_written_whole() -> None:
    letter = notice("session_reused", "vi", "")
    addresses = [LONG_ADDRESS, "an@đồng.vn", "nguyễn.an@example.vn"]
    envelopes = await sent(*((letter, address, "Một Cửa") for address in addresses))
    wire = [LONG_ADDRESS, "an@xn--ng-pma6851a.vn", "nguyễn.an@example.vn"]
    assert [envelope.rcpt_tos for envelope in envelopes] == [[address] for address in wire]
    assert [header(envelope, "to").strip(" <>") for envelope in envelopes] == wire
    assert [header(envelope, "message-id") for envelope in envelopes] == [
        header(envelopes[0], "message-id")
    ] * 3


async def test_an_address_that_the_server_cannot_take_is_refused_for_good() -> None:
    with pytest.raises(AssertionError, match="not_supported"):
        await sent((notice("session_reused", "vi", ""), "nguyễn.an@example.vn", "Một Cửa"), utf8=False)
