"""The local mail catcher: takes all mail over SMTP, delivers none, keeps it as files, lists it over HTTP.

python -m dev.mailbox FOLDER SMTP_PORT HTTP_PORT [HOST]
"""

import asyncio
import email
import email.policy
import logging
import sys
from datetime import UTC, datetime
from email.message import EmailMessage
from itertools import count
from pathlib import Path
from typing import Any

import uvicorn
from aiosmtpd.smtp import SMTP, Envelope
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dev.options import HOST

log = logging.getLogger("mailbox")
LARGEST = 10 * 2**20
PAGE = """<!doctype html><meta charset="utf-8"><title>Mail</title>
<style>body{font:15px/1.5 system-ui;margin:2rem auto;max-width:60rem}small{color:#666}</style>
<h1>Mail</h1><ol id="list"></ol><script>
fetch("/mails").then(r => r.json()).then(all => all.forEach(m => {
  const [li, a, s] = ["li", "a", "small"].map(tag => document.createElement(tag));
  a.href = "/mails/" + m.id; a.textContent = m.subject || "(no subject)";
  s.textContent = ` to ${m.to}, ${m.date}`;
  li.append(a, s); list.append(li);
}))</script>"""


class Folder:
    """Mails as .eml files whose names sort by arrival; a file appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._number = count()

    def keep(self, content: bytes) -> Path:
        """Stores one mail."""
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{next(self._number)}.eml"
        scratch = self.path / f".{name}"
        scratch.write_bytes(content)
        return scratch.rename(self.path / name)

    def newest(self) -> list[Path]:
        """All mails, newest first."""
        return sorted(self.path.glob("[0-9]*.eml"), reverse=True)


def read(path: Path) -> EmailMessage:
    """A stored mail, parsed."""
    return email.message_from_bytes(path.read_bytes(), policy=email.policy.default)


def summary(path: Path) -> dict[str, str]:
    """What a list shows of a mail."""
    mail = read(path)
    return {
        "id": path.stem,
        "to": str(mail["to"] or ""),
        "from": str(mail["from"] or ""),
        "subject": str(mail["subject"] or ""),
        "date": str(mail["date"] or ""),
        "message_id": str(mail["message-id"] or ""),
    }


class Catcher:
    """aiosmtpd's handler: the envelope's mail goes into the folder."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:
        """Keeps the mail and says in one line for whom it is (this is a tool of development only)."""
        content = envelope.content
        if not isinstance(content, bytes):
            return "554 no content"
        path = self.folder.keep(content)
        log.info("for %s: %s (%s)", ", ".join(envelope.rcpt_tos), summary(path)["subject"], path.name)
        return "250 kept"


def website(folder: Folder) -> Starlette:
    """The list for a browser at /, as JSON at /mails (`?newest=200`), each mail as text at /mails/{id}."""

    def listed(request: Request) -> Response:
        most = request.query_params.get("newest", "200")
        if not (most.isascii() and most.isdigit()):
            return PlainTextResponse("newest is a number of mails", status_code=400)
        return JSONResponse([summary(path) for path in folder.newest()[: int(most)]])

    def one(request: Request) -> Response:
        path = folder.path / f"{Path(request.path_params['id']).name}.eml"
        if not path.exists():
            return PlainTextResponse("no such mail", status_code=404)
        mail = read(path)
        body = mail.get_body(("plain", "html"))
        head = "".join(f"{name}: {value}\n" for name, value in mail.items())
        return PlainTextResponse(f"{head}\n{body.get_content() if body else ''}")

    return Starlette(
        routes=[
            Route("/", lambda _request: HTMLResponse(PAGE)),
            Route("/mails", listed),
            Route("/mails/{id}", one),
        ]
    )


async def serve(folder: Folder, smtp_port: int, http_port: int, host: str) -> None:
    """Serves both protocols until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    smtp = await loop.create_server(
        lambda: SMTP(Catcher(folder), enable_SMTPUTF8=True, data_size_limit=LARGEST, hostname="localhost"),
        host,
        smtp_port,
    )
    config = uvicorn.Config(website(folder), host=host, port=http_port, log_level="warning", access_log=False)
    await uvicorn.Server(config).serve()
    smtp.close()


def main(argv: list[str]) -> None:
    """Entry: folder, SMTP port, HTTP port; the address to listen on, else 127.0.0.1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("mail.log").setLevel(logging.WARNING)  # aiosmtpd tells every command
    asyncio.run(serve(Folder(Path(argv[0])), int(argv[1]), int(argv[2]), *argv[3:4] or [HOST]))


if __name__ == "__main__":
    main(sys.argv[1:])
