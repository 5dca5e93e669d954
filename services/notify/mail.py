"""Mail on the wire: headers that every reader decodes to what was meant, and the bodies under them.

The standard library (3.11, 3.12) folds long headers with letters outside ASCII between encoded words and
drops the space that was there: `trả kết quả` arrives as `trả kếtquả`. So headers are written here: a text is
either plain ASCII, folded at its spaces, or it is encoded words alone (RFC 2047), with every space inside a
word.
"""

from __future__ import annotations

import base64
import email.policy
import re
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime
from html import escape
from typing import Final

from kit.ids import derived
from notify.domain.kinds import Secret
from notify.domain.notice import Notice, sending_id

_LINE: Final = 76  # octets of a line with an encoded word (RFC 2047, section 2)
_WORD: Final = 75  # octets of an encoded word
_OPEN, _CLOSE = "=?utf-8?B?", "?="
_ATOMS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]{1,50}")  # a phrase that needs no quotes
_ADDRESS: Final = re.compile(r"[^\x00-\x20\x7f-\xa0@,;:<>()\[\]\\\"]+@[^\x00-\x20\x7f-\xa0@,;:<>()\[\]\\\"]+")
_LONGEST_ADDRESS: Final = 254  # octets (RFC 5321, 4.5.3.1.3, without the angle brackets)

_SAID: Final = {
    "vi": {
        "greeting": "Kính gửi Ông/Bà,",
        "open": "Xem chi tiết",
        "why": "Thư này được gửi tự động theo lựa chọn nhận thông báo của bạn; vui lòng không trả lời.",
    },
    "en": {
        "greeting": "Dear Sir or Madam,",
        "open": "See the details",
        "why": "This message was sent automatically, as your notice preferences say; please do not reply.",
    },
}

_SAID_BY_KIND: Final[Mapping[str, Mapping[str, dict[str, str]]]] = {
    "password_reset": {
        "vi": {
            "open": "Đặt mật khẩu mới",
            "why": "Thư này được gửi tự động vì có người yêu cầu đặt lại mật khẩu; vui lòng không trả lời.",
        },
        "en": {
            "open": "Set a new password",
            "why": "This message was sent automatically because somebody asked for it; please do not reply.",
        },
    },
    "email_verification": {
        "vi": {
            "open": "Xác nhận địa chỉ e-mail",
            "why": "Thư này được gửi tự động vì có tài khoản khai địa chỉ này; vui lòng không trả lời.",
        },
        "en": {
            "open": "Confirm the e-mail address",
            "why": "This message was sent automatically because an account gives it; please do not reply.",
        },
    },
}

# Plain structure, language stated, contrast over 7:1, text that grows with the reader's setting (WCAG 2.x).
_HTML: Final = """\
<!DOCTYPE html>
<html lang="{lang}">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title></head>
<body style="margin:0;padding:1.5em;background:#ffffff;color:#1a1a1a;font:1em/1.5 Arial,sans-serif">
<main style="max-width:36em;margin:0 auto">
<h1 style="font-size:1.3em">{title}</h1>
<p>{greeting}</p>
{paragraphs}
<p><a href="{link}" style="color:#0b4f9e">{open}</a></p>
<p style="color:#4a4a4a">{why}</p>
</main>
</body>
</html>
"""


@dataclass(frozen=True)
class Mail:
    """A mail ready to be sent: the envelope's addresses and the bytes. `utf8` says that an address has
    letters outside ASCII before its @, which needs a server with SMTPUTF8 (RFC 6531)."""

    sender: str
    to: str
    content: bytes
    utf8: bool


def message_id(notice: Notice, sender: str, secret: Secret | None = None) -> str:
    """The Message-ID of a notice: always the same, so that one sent again after a crash is seen as one, but
    for one with another secret."""
    return f"<{derived('email', sending_id(notice, secret))}@{_wire_address(sender).rpartition('@')[2]}>"


def write_mail(
    notice: Notice, *, to: str, sender: str, sender_name: str, link: str, secret: Secret | None = None
) -> Mail:
    """The mail of a notice, as text and as HTML. It says what the notice says and nothing more of the person;
    `link` leads to the notice's page, or to the one that takes the secret.

    Raises ValueError for what is no address; one with a line break or a second one in it is none, so nothing
    can be smuggled in.
    """
    to, sender = _wire_address(to), _wire_address(sender)
    headers = [
        ("From", _mailbox("From", sender_name, sender)),
        ("To", to),
        ("Subject", encoded("Subject", notice.title)),
        ("Date", format_datetime(notice.created)),
        ("Message-ID", message_id(notice, sender, secret)),
        ("Auto-Submitted", "auto-generated"),  # RFC 3834: no out-of-office answers
        ("Content-Language", notice.locale),
    ]
    top = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return Mail(sender, to, top.encode() + _body(notice, link).as_bytes(), not (to + sender).isascii())


def encoded(name: str, text: str) -> str:
    """The value of a header that holds text, folded. Line breaks and runs of spaces in it become single
    spaces."""
    text = " ".join(text.split())
    if _is_plain(text):
        lines = textwrap.wrap(
            f"{name}: {text}", 78, break_long_words=False, break_on_hyphens=False, subsequent_indent=" "
        )
        if all(len(line) <= 78 for line in lines):
            return "\r\n".join(lines).removeprefix(f"{name}: ")
    return "\r\n ".join(_words(text, _LINE - len(name) - 2))


def _is_plain(text: str) -> bool:
    """Whether it means itself: printable ASCII in which no reader sees an encoded word."""
    return text.isascii() and text.isprintable() and "=?" not in text


def _words(text: str, first: int) -> Iterator[str]:
    """Encoded words that together are the text. The first has at most `first` octets, none more than 75.

    No letter is parted, nor one from the marks that belong to it.
    """
    room, taken = _room(first), b""
    for cluster in _clusters(text):
        piece = cluster.encode()
        if taken and len(taken) + len(piece) > room:
            yield _word(taken)
            room, taken = _room(_WORD), b""
        taken += piece
    yield _word(taken)


def _clusters(text: str) -> Iterator[str]:
    """Letters with the marks on them; parted where somebody piled up marks beyond all reason."""
    cluster = ""
    for letter in text:
        if cluster and (not unicodedata.combining(letter) or len((cluster + letter).encode()) > 24):
            yield cluster
            cluster = ""
        cluster += letter
    if cluster:
        yield cluster


def _room(octets: int) -> int:
    """How many bytes an encoded word of so many octets can hold."""
    return (octets - len(_OPEN) - len(_CLOSE)) // 4 * 3


def _word(content: bytes) -> str:
    return f"{_OPEN}{base64.b64encode(content).decode()}{_CLOSE}"


def _mailbox(name: str, display: str, address: str) -> str:
    """`display <address>`; the address on a line of its own when both do not fit on one."""
    display = " ".join(display.split())
    if not display:
        return address
    if not (_ATOMS.fullmatch(display) and "=?" not in display):
        display = "\r\n ".join(_words(display, _LINE - len(name) - 2))
    last = display.rpartition("\r\n")[2]
    gap = " " if len(f"{name}: {last} <{address}>".encode()) <= _LINE else "\r\n "
    return f"{display}{gap}<{address}>"


def _wire_address(address: str) -> str:
    """The address as SMTP takes it: its domain in ASCII (IDNA). Raises ValueError for what is none."""
    if not _ADDRESS.fullmatch(address) or not address.isprintable():
        raise ValueError("no e-mail address")
    local, _, domain = address.rpartition("@")
    try:
        domain = domain if domain.isascii() else domain.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError("no e-mail address") from error
    if len(f"{local}@{domain}".encode()) > _LONGEST_ADDRESS:
        raise ValueError("no e-mail address")
    return f"{local}@{domain}"


def _body(notice: Notice, link: str) -> EmailMessage:
    said = _SAID[notice.locale] | _SAID_BY_KIND.get(notice.kind, {}).get(notice.locale, {})
    lines = [line for line in notice.body.splitlines() if line]
    message = EmailMessage(policy=email.policy.SMTP.clone(cte_type="7bit"))
    message.set_content(
        "\n\n".join([said["greeting"], "\n".join(lines), f"{said['open']}: {link}", f"-- \n{said['why']}"])
    )
    message.add_alternative(
        _HTML.format(
            lang=notice.locale,
            title=escape(notice.title),
            greeting=escape(said["greeting"]),
            paragraphs="\n".join(f"<p>{escape(line)}</p>" for line in lines),
            link=escape(link),
            open=escape(said["open"]),
            why=escape(said["why"]),
        ),
        subtype="html",
    )
    return message
