"""Server-to-server notices: each is sent until the merchant answers 00 or 02, or often enough."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time

import httpx

from sandbox.ledger import Ledger, Notice
from sandbox.settings import Settings

log = logging.getLogger(__name__)


class Notices:
    """Delivers what the ledger has queued; `wake` says that there is something new."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._http = httpx.AsyncClient(timeout=10, trust_env=False)
        self._new = asyncio.Event()

    def wake(self) -> None:
        """Looks at the queue at once."""
        self._new.set()

    async def deliver(self) -> None:
        """Runs until cancelled."""
        while True:
            self._new.clear()
            await asyncio.gather(*map(self._send, self._ledger.due_notices()))
            due = self._ledger.next_due()
            pause = None if due is None else max(0.0, due - time.time())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._new.wait(), pause)

    async def close(self) -> None:
        """Lets go of the connections."""
        await self._http.aclose()

    async def _send(self, notice: Notice) -> None:
        payload = json.loads(notice.payload)
        try:
            if notice.kind == "ipn":
                response = await self._http.get(f"{self._settings.vnpay_ipn_url}?{payload['query']}")
            else:
                response = await self._http.post(
                    self._settings.bank_notice_url,
                    content=payload["body"],
                    headers={"content-type": "application/json", "x-signature": payload["signature"]},
                )
            answer = str(response.json().get("RspCode", response.status_code))
        except (httpx.HTTPError, ValueError, AttributeError) as error:
            answer = type(error).__name__
        log.info("notice %s of %s answered %s", notice.id, notice.subject, answer)
        heard = answer in ("00", "02")
        again: float | None = None
        if heard and notice.repeats > 0:
            again = time.time()
        elif not heard and notice.tries + 1 < self._settings.sandbox_tries:
            again = time.time() + self._settings.sandbox_retry_seconds
        self._ledger.answered(notice, answer, again=again, repeat=heard and notice.repeats > 0)
