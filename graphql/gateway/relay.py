"""Keyset connections over services that page with tokens.

A page token starts a page; a cursor is a token and how far into its page to go (`token:3`), so that every
edge has one.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kit.errors import FieldViolation, InvalidInput

PAGE_LIMIT = 100


@dataclass(frozen=True)
class Page:
    """A page of a connection: its items, where it began (token and offset), and the token of the next
    page."""

    items: Sequence[Any]
    start: str
    offset: int
    next_token: str
    total: int | None = None

    def cursor(self, index: int) -> str:
        """The cursor of the item at that index."""
        if index == len(self.items) - 1 and self.next_token:
            return _cursor(self.next_token, 0)
        return _cursor(self.start, self.offset + index + 1)


@dataclass(frozen=True)
class Edge:
    """An item in its page."""

    page: Page
    index: int

    @property
    def node(self) -> Any:
        return self.page.items[self.index]

    @property
    def cursor(self) -> str:
        return self.page.cursor(self.index)


async def connect(
    first: int,
    after: str | None,
    fetch: Callable[[int, str], Awaitable[tuple[Sequence[Any], str, int | None]]],
) -> Page:
    """Fetches the page after a cursor. `fetch(size, token)` answers items, next token and the total if it
    is known.

    Raises InvalidInput for a size outside 1..100 and a cursor that is not ours.
    """
    if not 1 <= first <= PAGE_LIMIT:
        raise InvalidInput(
            violations=[FieldViolation("first", "PAGE_SIZE_OUT_OF_RANGE", f"must be 1 to {PAGE_LIMIT}")]
        )
    token, offset = _read(after) if after else ("", 0)
    items, next_token, total = await fetch(min(first + offset, PAGE_LIMIT), token)
    return Page(list(items)[offset:], token, offset, next_token, total)


def _cursor(token: str, offset: int) -> str:
    return urlsafe_b64encode(f"{offset}:{token}".encode()).decode()


def _read(cursor: str) -> tuple[str, int]:
    try:
        offset, colon, token = urlsafe_b64decode(cursor).decode().partition(":")
        if not colon or not 0 <= int(offset) <= PAGE_LIMIT:
            raise ValueError(cursor)
        return token, int(offset)
    except ValueError:
        raise InvalidInput(
            violations=[FieldViolation("after", "CURSOR_INVALID", "not a cursor of this list")]
        ) from None
