"""Keyset pages: where a page ends is in its token, so what comes or goes meanwhile shifts nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from kit.errors import InvalidInput

_LONGEST = 1024  # letters of a token


def narrowed(filter: Mapping[str, Any], field: str, beyond: str, value: Any) -> dict[str, Any]:
    """The filter, and only what lies beyond `value` in `field`; a range that is there is kept."""
    known = filter.get(field)
    limits = dict(known) if isinstance(known, Mapping) else {} if known is None else {"$in": [known]}
    if beyond in limits:
        value = min(value, limits[beyond]) if beyond == "$lt" else max(value, limits[beyond])
    return {**filter, field: {**limits, beyond: value}}


def make_token(order: str, value: Any, created: str) -> str:
    """What a client sends back to get what follows the entry with these values."""
    return base64.urlsafe_b64encode(json.dumps([order, value, created]).encode()).decode().rstrip("=")


def read_token(token: str, order: str) -> tuple[Any, str]:
    """The values in a token. Raises InvalidInput for one that no page of this order gave."""
    try:
        padded = token[:_LONGEST] + "=" * (-len(token[:_LONGEST]) % 4)
        made_for, value, created = json.loads(base64.urlsafe_b64decode(padded))
        f"{value}{created}".encode()  # halves of surrogate pairs, which JSON can name and no store can take
    except (ValueError, TypeError):
        made_for, value, created = None, None, None
    sane = isinstance(value, str) or (isinstance(value, (int, float)) and abs(value) < 2**63)
    if made_for != order or not sane or not isinstance(created, str):
        raise InvalidInput("INVALID_PAGE_TOKEN", "no page of this list gave this token")
    return value, created
