"""The ways out: e-mail over SMTP, and SMS or Zalo through an HTTP gateway where one is configured.

A sender never raises for what the other side does: it answers an `Outcome`. ACCEPT: the other side has taken
the message over. DEFER: trying again may help. REFUSE: it will not.
"""

from __future__ import annotations

import email.policy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from html import escape
from typing import Final, Protocol
from urllib.parse import urljoin

import aiosmtplib
import httpx

from kit.ids import derived
from notify.domain.delivery import ACCEPTED, Outcome, Step
from notify.domain.notice import Notice


class Sender(Protocol):
    """Brings one notice to one address."""

    async def send(self, notice: Notice, address: str) -> Outcome:
        """What came of it."""


_WORDS: Final = {
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


_ADDRESS = re.compile(r"[^\s@,;:<>()\[\]\\\"]+@[^\s@,;:<>()\[\]\\\"]+")


def link_to(notice: Notice, portal: str) -> str:
    """The page of the portal that the notice is about."""
    about = notice.about
    pages = {"dossiers": about.dossier, "charges": about.charge, "documents": about.document}
    for part, found in pages.items():
        if found:
            return urljoin(portal, f"{part}/{found}")
    return urljoin(portal, "notices")


def message_id(notice: Notice, sender: str) -> str:
    """The Message-ID of a notice: always the same, so that one sent again after a crash is seen as one."""
    return f"<{derived('email', notice.id)}@{sender.rpartition('@')[2]}>"


def write_email(notice: Notice, *, to: str, sender: str, sender_name: str, portal: str) -> EmailMessage:
    """The mail of a notice, as text and as HTML. It says what the notice says and nothing more of the person.

    Raises ValueError or MessageError for what is no address; one with a line break or a second one in it is
    none, so nothing can be smuggled in.
    """
    if not _ADDRESS.fullmatch(to):
        raise ValueError("no e-mail address")
    words = _WORDS[notice.locale]
    link = link_to(notice, portal)
    lines = [line for line in notice.body.splitlines() if line]
    message = EmailMessage(policy=email.policy.SMTP)
    message["From"] = Address(sender_name, addr_spec=sender)
    message["To"] = Address(addr_spec=to)
    message["Subject"] = notice.title
    message["Date"] = format_datetime(notice.created)
    message["Message-ID"] = message_id(notice, sender)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    message.set_content(
        "\n\n".join([words["greeting"], "\n".join(lines), f"{words['open']}: {link}", f"-- \n{words['why']}"])
    )
    message.add_alternative(
        _HTML.format(
            lang=notice.locale,
            title=escape(notice.title),
            greeting=escape(words["greeting"]),
            paragraphs="\n".join(f"<p>{escape(line)}</p>" for line in lines),
            link=escape(link),
            open=escape(words["open"]),
            why=escape(words["why"]),
        ),
        subtype="html",
    )
    message["Content-Language"] = notice.locale  # set any earlier, it would move into the text part
    return message


@dataclass(frozen=True)
class Smtp:
    """Sends mail through one SMTP server. `tls`: none, starttls or implicit; `timeout`: seconds of a step."""

    host: str
    port: int
    sender: str
    sender_name: str
    portal: str
    username: str = ""
    password: str = ""
    tls: str = "none"
    timeout: float = 15.0

    async def send(self, notice: Notice, address: str) -> Outcome:
        """Sends it now, over a connection of its own."""
        try:
            message = write_email(
                notice, to=address, sender=self.sender, sender_name=self.sender_name, portal=self.portal
            )
        except (ValueError, MessageError):  # see write_email
            return Outcome(Step.REFUSE, "bad_address")
        try:
            await aiosmtplib.send(
                message,
                hostname=self.host,
                port=self.port,
                username=self.username or None,
                password=self.password or None,
                use_tls=self.tls == "implicit",
                start_tls=self.tls == "starttls",
                timeout=self.timeout,
            )
        except (aiosmtplib.SMTPException, OSError) as error:
            return judge(error)
        return ACCEPTED


def judge(error: Exception) -> Outcome:
    """What an SMTP failure means. Only a 5xx about this recipient or this message is for good; one about us
    (sign-in, our sender address, a greeting) is a matter of configuration that mail must survive."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        codes: Sequence[int] = [refused.code for refused in error.recipients]
        permanent = bool(codes) and all(code >= 500 for code in codes)
        return Outcome(Step.REFUSE if permanent else Step.DEFER, f"recipient_{codes[0] if codes else 0}")
    if isinstance(error, aiosmtplib.SMTPDataError):
        return Outcome(Step.REFUSE if error.code >= 500 else Step.DEFER, f"data_{error.code}")
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return Outcome(Step.DEFER, f"{_snake(error)}_{error.code}")
    if isinstance(error, TimeoutError):
        return Outcome(Step.DEFER, "timeout")
    if isinstance(error, aiosmtplib.SMTPNotSupported):
        return Outcome(Step.REFUSE, "not_supported")  # an address that this server cannot write to
    return Outcome(Step.DEFER, "connection")


def _snake(error: Exception) -> str:
    return {
        aiosmtplib.SMTPAuthenticationError: "authentication",
        aiosmtplib.SMTPSenderRefused: "sender",
        aiosmtplib.SMTPHeloError: "helo",
        aiosmtplib.SMTPConnectResponseError: "greeting",
    }.get(type(error), "smtp")


@dataclass(frozen=True)
class HttpGateway:
    """Sends short messages (SMS, Zalo) over HTTP through a gateway. Providers differ; the contract is ours:

    `POST url` with a bearer token and `Idempotency-Key`, JSON `{id, to, kind, locale, params, text}`.
    2xx: taken over. 408, 429 and 5xx: later. Other 4xx: refused for good, but 401 and 403 are our settings.
    """

    client: httpx.AsyncClient
    url: str
    token: str
    portal: str

    async def send(self, notice: Notice, address: str) -> Outcome:
        """Hands it to the gateway; a repeated send carries the same key."""
        try:
            answer = await self.client.post(
                self.url,
                headers={"Authorization": f"Bearer {self.token}", "Idempotency-Key": notice.id},
                json={
                    "id": notice.id,
                    "to": "+84" + address.removeprefix("0") if address.startswith("0") else address,
                    "kind": notice.kind,
                    "locale": notice.locale,
                    "params": notice.params,
                    "text": f"{notice.title}. {link_to(notice, self.portal)}",
                },
            )
        except httpx.TimeoutException:
            return Outcome(Step.DEFER, "timeout")
        except httpx.HTTPError:
            return Outcome(Step.DEFER, "connection")
        if answer.is_success:
            return ACCEPTED
        later = answer.status_code in (401, 403, 408, 429) or not 400 <= answer.status_code < 500
        return Outcome(Step.DEFER if later else Step.REFUSE, f"http_{answer.status_code}")
