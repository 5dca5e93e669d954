"""Mail that cannot be abused, and what the answers of the other side mean."""

from __future__ import annotations

import email
import email.policy
import json
from datetime import UTC, datetime
from email.message import EmailMessage
from html.parser import HTMLParser

import aiosmtplib
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify.domain.delivery import Outcome, Step
from notify.domain.kinds import KINDS, About, Secret
from notify.domain.notice import Notice, write_notice
from notify.mail import write_mail
from notify.senders import HttpGateway, judge, link_to
from notify.texts import write

NOW = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
PORTAL = "https://motcua.example/app/"


def notice(locale: str = "vi", kind: str = "dossier_rejected", id: str = "n1", **params: str) -> Notice:
    filled = {name: f"[{name}]" for name in KINDS[kind].params} | params
    title, body = write(kind, locale, filled)
    return write_notice(
        id=id,
        recipient="an",
        kind=kind,
        about=About(dossier="d1", charge="c1"),
        locale=locale,
        params=filled,
        title=title,
        body=body,
        channels=[],
        at=NOW,
    )


def mail(of: Notice, to: str = "an@example.vn") -> EmailMessage:
    """The mail as the other side reads it."""
    made = write_mail(
        of, to=to, sender="no-reply@motcua.example", sender_name="Một Cửa", link=link_to(of, PORTAL)
    )
    return email.message_from_bytes(made.content, policy=email.policy.default)


def part(of: EmailMessage, kind: str) -> str:
    found = of.get_body((kind,))
    assert found is not None
    return str(found.get_content())


@pytest.mark.parametrize("locale", ["vi", "en"])
def test_a_mail_says_the_same_as_text_and_as_html_in_the_readers_language(locale: str) -> None:
    made = mail(notice(locale))
    assert made["From"] == "Một Cửa <no-reply@motcua.example>"
    assert made["To"] == "an@example.vn"
    assert made["Subject"] == notice(locale).title
    assert made["Content-Language"] == locale
    assert made["Auto-Submitted"] == "auto-generated"
    for line in notice(locale).body.splitlines():
        assert line in part(made, "plain")
        assert line.replace('"', "&quot;") in part(made, "html")
    assert f'<html lang="{locale}">' in part(made, "html")


@given(st.text())
def test_nothing_that_people_write_becomes_markup_or_a_header(evil: str) -> None:
    made = mail(notice(reason=evil + "<script>x</script>", procedure=evil + "\r\nBcc: all@example.vn"))
    assert sorted(made.keys()) == sorted(
        [
            *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"),
            *("Content-Language", "Content-Type", "MIME-Version"),
        ]
    )

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.seen: set[str] = set()

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.seen.add(tag)

    reader = Tags()
    reader.feed(part(made, "html"))
    assert reader.seen <= {"html", "head", "meta", "title", "body", "main", "h1", "p", "a"}


def test_a_title_cannot_carry_a_header() -> None:
    forged = notice(kind="document_deposited", document="x\r\nBcc: all@example.vn")
    assert mail(forged)["Bcc"] is None
    forged.title = "x\r\nBcc: all@example.vn"  # even if it were stored like that
    assert mail(forged)["Bcc"] is None
    assert mail(forged)["Subject"] == "x Bcc: all@example.vn"


@pytest.mark.parametrize(
    "address", ["", "nobody", "a@b\r\nBcc: c@d.vn", "a@b, c@d", "An <a@b.vn>", "a b@c.vn", "@", "a@"]
)
def test_what_is_no_address_is_refused_before_anything_is_sent(address: str) -> None:
    with pytest.raises(ValueError, match="no e-mail address"):
        mail(notice(), to=address)


def test_the_message_id_depends_on_the_notice_alone() -> None:
    first, again = mail(notice("vi")), mail(notice("en"), to="other@example.vn")
    assert first["Message-ID"] == again["Message-ID"] != mail(notice(id="n2"))["Message-ID"]
    assert first["Message-ID"].endswith("@motcua.example>")


def test_links_lead_to_what_the_notice_is_about() -> None:
    made = notice()
    assert link_to(made, PORTAL) == f"{PORTAL}dossiers/d1"
    made.about = About(charge="c1")
    assert link_to(made, PORTAL) == f"{PORTAL}charges/c1"
    made.about = About()
    assert link_to(made, PORTAL) == f"{PORTAL}notices"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ConnectionRefusedError(), Outcome(Step.DEFER, "connection")),
        (aiosmtplib.SMTPConnectError("down"), Outcome(Step.DEFER, "connection")),
        (aiosmtplib.SMTPServerDisconnected("gone"), Outcome(Step.DEFER, "connection")),
        (aiosmtplib.SMTPReadTimeoutError("slow"), Outcome(Step.DEFER, "timeout")),
        (aiosmtplib.SMTPConnectResponseError(421, "busy"), Outcome(Step.DEFER, "greeting_421")),
        (aiosmtplib.SMTPAuthenticationError(535, "no"), Outcome(Step.DEFER, "authentication_535")),
        (aiosmtplib.SMTPSenderRefused(550, "who", "me"), Outcome(Step.DEFER, "sender_550")),
        (aiosmtplib.SMTPDataError(451, "later"), Outcome(Step.DEFER, "data_451")),
        (aiosmtplib.SMTPDataError(554, "spam"), Outcome(Step.REFUSE, "data_554")),
        (aiosmtplib.SMTPNotSupported("SMTPUTF8"), Outcome(Step.REFUSE, "not_supported")),
        (
            aiosmtplib.SMTPRecipientsRefused([aiosmtplib.SMTPRecipientRefused(550, "unknown", "an")]),
            Outcome(Step.REFUSE, "recipient_550"),
        ),
        (
            aiosmtplib.SMTPRecipientsRefused([aiosmtplib.SMTPRecipientRefused(450, "grey", "an")]),
            Outcome(Step.DEFER, "recipient_450"),
        ),
    ],
)
def test_only_a_5xx_about_this_mail_is_for_good(error: Exception, outcome: Outcome) -> None:
    assert judge(error) == outcome


@pytest.mark.parametrize(
    ("status", "step"),
    [
        (200, Step.ACCEPT),
        (202, Step.ACCEPT),
        (400, Step.REFUSE),
        (404, Step.REFUSE),
        (401, Step.DEFER),
        (429, Step.DEFER),
        (302, Step.DEFER),
        (503, Step.DEFER),
    ],
)
async def test_a_short_message_goes_through_the_gateway_under_one_key(status: int, step: Step) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(status)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        gateway = HttpGateway(client, "https://sms.example/send", "t0ken", PORTAL)
        assert (await gateway.send(notice(), "0901000101")).step is step
        await gateway.send(notice(), "0901000101")
    assert [request.headers["Idempotency-Key"] for request in seen] == ["n1", "n1"]
    assert seen[0].headers["Authorization"] == "Bearer t0ken"
    assert b'"to":"+84901000101"' in seen[0].content


async def test_a_gateway_that_is_away_or_slow_is_tried_again() -> None:
    for error in (httpx.ConnectError("down"), httpx.ReadTimeout("slow")):

        def fail(request: httpx.Request, error: Exception = error) -> httpx.Response:
            raise error

        async with httpx.AsyncClient(transport=httpx.MockTransport(fail)) as client:
            outcome = await HttpGateway(client, "https://sms.example", "", PORTAL).send(
                notice(), "0901000101"
            )
        assert outcome.step is Step.DEFER


def test_a_mail_with_a_secret_leads_to_the_page_that_takes_it_and_is_a_mail_of_its_own() -> None:
    of = notice(kind="password_reset", at="2026-11-23T05:00:00.000Z")
    mails = []
    for text in ("first", "second"):
        secret = Secret("an@example.vn", text, f"quen-mat-khau#{text}")
        made = write_mail(
            of,
            to="an@example.vn",
            sender="no-reply@motcua.example",
            sender_name="Một Cửa",
            link=link_to(of, PORTAL, secret),
            secret=secret,
        )
        mails.append(email.message_from_bytes(made.content, policy=email.policy.default))
    assert f"Đặt mật khẩu mới: {PORTAL}quen-mat-khau#first" in part(mails[0], "plain")
    assert f'href="{PORTAL}quen-mat-khau#second"' in part(mails[1], "html")
    assert mails[0]["Message-ID"] != mails[1]["Message-ID"], "the later one would be dropped as a repeat"


async def test_a_code_is_in_the_text_of_an_sms_and_each_has_a_key_of_its_own() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    of = notice(kind="phone_verification", at="2026-11-23T05:00:00.000Z")
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        gateway = HttpGateway(client, "https://sms.example", "token", PORTAL)
        for code in ("000001", "000002"):
            await gateway.send(of, "0901000101", Secret("0901000101", code))
    texts = [json.loads(request.content)["text"] for request in seen]
    assert texts == [f"{of.title}: 000001", f"{of.title}: 000002"]
    assert len({request.headers["Idempotency-Key"] for request in seen}) == 2
