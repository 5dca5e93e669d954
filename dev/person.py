"""A person at the public API: what a browser or an app would send, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

PROBLEM = "... on Problem { reason message } ... on ValidationProblem { violations { field reason message } }"
CHUNK = 4 * 2**20  # bytes a PATCH
AGAIN = 0.2  # seconds before somebody patient asks once more
AWAY = (None, 502, 503)  # no answer, or somebody else's answer that there is none
JSON = dict[str, Any]


class Surprise(Exception):
    """The system did something that the person did not expect."""


@dataclass
class Tally:
    """What people went through: how often they had to send a request, unchanged, until it was answered."""

    at_once: int = 0
    second_try: int = 0
    more_tries: int = 0  # a client that tries again once would have shown a failure
    longest: float = 0.0  # seconds from the first try to the answer
    longest_effect: float = 0.0  # seconds until what somebody did showed elsewhere
    answered: list[float] = field(default_factory=list)  # moments on the monotonic clock

    def note(self, tries: int, began: float, *, well: bool = True) -> None:
        """One request, answered or given up now, after so many tries from `began` on."""
        now = time.monotonic()
        if not well or tries > 2:
            self.more_tries += 1
        elif tries == 2:
            self.second_try += 1
        else:
            self.at_once += 1
        self.longest = max(self.longest, now - began)
        if well:
            self.answered.append(now)


class Person:
    """Somebody with an HTTP client. Use as an async context manager.

    With `patience` (seconds) every request is sent again, unchanged and so with the same `requestId`, while
    nobody answers or the answer is that a service cannot be reached. `tally` is told of each.
    """

    def __init__(
        self,
        name: str,
        gateway: str,
        locale: str = "vi",
        patience: float = 0.0,
        tally: Tally | None = None,
    ) -> None:
        self.name = name
        self.gateway = gateway
        self.patience = patience
        self.tally = tally or Tally()
        self.token = ""
        self.refresh_token = ""
        self._http = httpx.AsyncClient(timeout=30, headers={"Accept-Language": locale})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._http.aclose()

    @property
    def headers(self) -> dict[str, str]:
        """What proves who asks; empty before sign-in."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    async def ask(self, document: str, **variables: Any) -> JSON:
        """Answers `data`. Raises Surprise for any error."""
        answer = await self._send(
            "POST",
            f"{self.gateway}/graphql",
            away=_unavailable,
            json={"query": document, "variables": variables},
            headers=self.headers,
        )
        if answer.status_code != 200:
            raise Surprise(f"{self.name}: HTTP {answer.status_code} {answer.text[:500]}")
        body = answer.json()
        if body.get("errors"):
            raise Surprise(f"{self.name}: {body}")
        return dict(body["data"])

    async def attempt(self, mutation: str, selection: str, **input: Any) -> JSON:
        """Runs a mutation and answers the member of its result union, with `__typename`."""
        title = mutation[0].upper() + mutation[1:]
        document = (
            f"mutation Do($input: {title}Input!) {{ done: {mutation}(input: $input) "
            f"{{ __typename {selection} {PROBLEM} }} }}"
        )
        given = {name: value for name, value in input.items() if value is not None}
        return dict((await self.ask(document, input={"requestId": str(uuid.uuid4()), **given}))["done"])

    async def do(self, mutation: str, answer: str, fields: str, **input: Any) -> JSON:
        """Runs a mutation that must answer an `answer`, with its `fields`. Raises Surprise otherwise."""
        done = await self.attempt(mutation, f"... on {answer} {{ {fields} }}", **input)
        if done["__typename"] != answer:
            raise Surprise(f"{self.name}: {mutation} answered {done}")
        return done

    async def refused(self, mutation: str, problem: str, **input: Any) -> JSON:
        """Runs a mutation that must answer this problem. Raises Surprise for anything else."""
        done = await self.attempt(mutation, "", **input)
        if done["__typename"] != problem:
            raise Surprise(f"{self.name}: {mutation} answered {done}, not {problem}")
        return done

    async def sign_in(self, identifier: str, password: str) -> None:
        """Opens a session; later requests carry its token."""
        done = await self.do(
            "signIn", "Session", "accessToken refreshToken", identifier=identifier, password=password
        )
        self.token, self.refresh_token = done["accessToken"], done["refreshToken"]

    async def prove(self, desk: Person, *, name: str, number: str, agency: str = "H32.15") -> JSON:
        """Shows the card at a counter and enters the code that is given out there; answers the account's
        `{name verified}`. The session carries on as that of somebody verified."""
        account = (await self.ask("{ viewer { id } }"))["viewer"]["id"]
        shown = await desk.do(
            "proveAccount",
            "AwaitedProof",
            "activationCode",
            accountId=account,
            name=name,
            number=number,
            papers=[{"kind": "CITIZEN_CARD", "number": number}],
            agency=agency,
        )
        fields = "name verified"
        proven = await self.do("confirmIdentity", "Account", fields, activationCode=shown["activationCode"])
        done = await self.do(
            "refreshSession", "Session", "accessToken refreshToken", refreshToken=self.refresh_token
        )
        self.token, self.refresh_token = done["accessToken"], done["refreshToken"]
        return proven

    async def upload(self, content: bytes, **about: Any) -> JSON:
        """Puts a file into the vault by tus and answers its document `{id title trust}`."""
        request = {
            "requestId": str(uuid.uuid4()),
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            **about,
        }
        fields = "url document { id title trust }"
        begun = await self.do("beginUpload", "Upload", fields, **request)
        await self._send_file(begun["url"], content)
        # The same request again answers the same upload, which is complete now.
        document = (await self.do("beginUpload", "Upload", fields, **request))["document"]
        if document is None:
            raise Surprise(f"{self.name}: the upload is complete but there is no document")
        return dict(document)

    async def download(self, document: str, *, first: int | None = None) -> bytes:
        """The bytes of a document, or its `first` ones by a range request. Raises Surprise when refused."""
        url = (await self.do("createDownload", "Download", "url", documentId=document))["url"]
        headers = {} if first is None else {"Range": f"bytes=0-{first - 1}"}
        answer = await self._send("GET", url, headers=headers)
        if answer.status_code != (200 if first is None else 206):
            raise Surprise(f"{self.name}: download answered HTTP {answer.status_code}")
        return answer.content

    async def get(self, url: str, **parameters: str) -> httpx.Response:
        """Opens a page as a browser would, following no redirect."""
        return await self._send("GET", url, params=parameters or None)

    async def patch(self, url: str, content: bytes) -> httpx.Response:
        """Sends the first bytes of an upload, as tus does."""
        tus = {
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": "0",
            "Content-Type": "application/offset+octet-stream",
        }
        return await self._http.patch(url, content=content, headers={**self.headers, **tus})

    async def post(self, url: str, body: JSON) -> httpx.Response:
        """Sends JSON to another site, such as the sandbox bank."""
        return await self._send("POST", url, json=body)

    async def _send(
        self,
        method: str,
        url: str,
        *,
        away: Callable[[httpx.Response], bool] = lambda answer: False,
        **content: Any,
    ) -> httpx.Response:
        began, tries = time.monotonic(), 0
        while True:
            tries += 1
            late = time.monotonic() >= began + self.patience
            try:
                answer = await self._http.request(method, url, **content)
                well = answer.status_code not in AWAY and not away(answer)
                if well or late:
                    self.tally.note(tries, began, well=well)
                    return answer
            except httpx.TransportError:
                if late:
                    self.tally.note(tries, began, well=False)
                    raise
            await asyncio.sleep(AGAIN)

    async def _send_file(self, url: str, content: bytes) -> None:
        """Sends the file by tus; with patience, goes on from where the upload stands after each break."""

        def go_on() -> None:  # in a thread: the client asks for the offset without a loop
            client = TusClient(url, headers=self.headers)
            client.uploader(file_stream=io.BytesIO(content), url=url, chunk_size=CHUNK).upload()

        began, tries = time.monotonic(), 0
        while True:
            tries += 1
            late = time.monotonic() >= began + self.patience
            try:
                await asyncio.to_thread(go_on)
                return self.tally.note(tries, began)
            except TusCommunicationError as error:  # 409: the break came after the bytes
                if error.status_code not in (*AWAY, 409) or late:
                    self.tally.note(tries, began, well=False)
                    raise Surprise(f"{self.name}: the upload failed: {error}") from error
            await asyncio.sleep(AGAIN)


def _unavailable(answer: httpx.Response) -> bool:
    """Whether a GraphQL answer says that a service behind it cannot be reached."""
    errors = answer.json().get("errors") or () if "json" in answer.headers.get("content-type", "") else ()
    return any(error.get("extensions", {}).get("code") == "UNAVAILABLE" for error in errors)
