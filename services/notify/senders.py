"""The ways out: e-mail over SMTP, and SMS or Zalo through an HTTP gateway where one is configured.

A sender never raises for what the other side does: it answers an `Outcome`. ACCEPT: the other side has taken
the message over. DEFER: trying again may help. REFUSE: it will not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urljoin

import aiosmtplib
import httpx

from notify.domain.delivery import ACCEPTED, Outcome, Step
from notify.domain.kinds import Secret
from notify.domain.notice import Notice, sending_id
from notify.mail import write_mail
from notify.texts import shown


class Sender(Protocol):
    """Brings one notice to one address."""

    async def send(self, notice: Notice, address: str, secret: Secret | None = None) -> Outcome:
        """What came of it. The secret, if there is one, is sent along and kept nowhere."""


def link_to(notice: Notice, portal: str, secret: Secret | None = None) -> str:
    """The page of the portal that takes the secret, else the one that the notice is about."""
    if secret is not None and secret.page:
        return urljoin(portal, secret.page)
    about = notice.about
    pages = {"dossiers": about.dossier, "charges": about.charge, "documents": about.document}
    for part, found in pages.items():
        if found:
            return urljoin(portal, f"{part}/{found}")
    return urljoin(portal, "notices")


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

    async def send(self, notice: Notice, address: str, secret: Secret | None = None) -> Outcome:
        """Sends it now, over a connection of its own."""
        try:
            mail = write_mail(
                notice,
                to=address,
                sender=self.sender,
                sender_name=self.sender_name,
                link=link_to(notice, self.portal, secret),
                secret=secret,
            )
        except ValueError:  # no address
            return Outcome(Step.REFUSE, "bad_address")
        try:
            await aiosmtplib.send(
                mail.content,
                sender=mail.sender,
                recipients=[mail.to],
                mail_options=["SMTPUTF8", "BODY=8BITMIME"] if mail.utf8 else [],
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

    async def send(self, notice: Notice, address: str, secret: Secret | None = None) -> Outcome:
        """Hands it to the gateway; a repeated send carries the same key."""
        sent = sending_id(notice, secret)
        typed = secret.text if secret is not None and not secret.page else ""
        text = (
            f"{notice.title}: {typed}" if typed else f"{notice.title}. {link_to(notice, self.portal, secret)}"
        )
        try:
            answer = await self.client.post(
                self.url,
                headers={"Authorization": f"Bearer {self.token}", "Idempotency-Key": sent},
                json={
                    "id": sent,
                    "to": "+84" + address.removeprefix("0") if address.startswith("0") else address,
                    "kind": notice.kind,
                    "locale": notice.locale,
                    "params": {name: shown(value) for name, value in notice.params.items()},
                    "text": text,
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
