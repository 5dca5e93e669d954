"""The local mail catcher, which development and the e2e tests read mail from."""

from __future__ import annotations

import asyncio
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import httpx
from aiosmtpd.smtp import SMTP

from dev.mailbox import Catcher, Folder, website
from dev.options import HOST


async def test_a_mail_is_kept_as_a_file_and_listed_newest_first(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "mail")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Catcher(folder), enable_SMTPUTF8=True), HOST, 0)
    port = server.sockets[0].getsockname()[1]
    for subject in ("Hồ sơ đã được tiếp nhận", "Biên lai điện tử"):
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = "khong-tra-loi@motcua.example", "an@example.vn", subject
        mail["Message-ID"] = f"<{subject.encode().hex()}@motcua.example>"
        mail.set_content("Kính gửi bà Nguyễn Thị An")
        await aiosmtplib.send(mail, hostname=HOST, port=port)
    server.close()
    await server.wait_closed()

    assert len(list((tmp_path / "mail").glob("*.eml"))) == 2
    browser = httpx.AsyncClient(transport=httpx.ASGITransport(app=website(folder)), base_url="http://mail")
    async with browser:
        listed = (await browser.get("/mails")).json()
        assert [entry["subject"] for entry in listed] == ["Biên lai điện tử", "Hồ sơ đã được tiếp nhận"]
        assert listed[0]["to"] == "an@example.vn"
        assert listed[0]["message_id"] == f"<{'Biên lai điện tử'.encode().hex()}@motcua.example>"
        assert (await browser.get("/mails?newest=1")).json() == listed[:1]
        assert (await browser.get("/mails?newest=all")).status_code == 400
        shown = await browser.get(f"/mails/{listed[0]['id']}")
        assert "Kính gửi bà Nguyễn Thị An" in shown.text
        assert "Subject: Biên lai điện tử" in shown.text
        assert (await browser.get("/mails/..%2F..%2Fsecrets")).status_code == 404
        assert (await browser.get("/")).status_code == 200
