"""Identifiers: UUIDv7 (RFC 9562) as text, which sorts by time of making, and ids derived from names."""

from __future__ import annotations

import os
import time
import uuid

_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
_last = 0


def uuid7() -> str:
    """A new id. Ids of one process rise strictly; ids of several sort by millisecond.

    48 bits of Unix milliseconds, 12 bits of their fraction (RFC 9562, method 3), 62 random bits.
    """
    global _last
    stamp = time.time_ns() * 4096 // 1_000_000
    _last = stamp = max(stamp, _last + 1)
    random = int.from_bytes(os.urandom(8), "big") & 0x3FFF_FFFF_FFFF_FFFF
    value = (stamp >> 12) << 80 | 7 << 76 | (stamp & 0xFFF) << 64 | 2 << 62 | random
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def derived(*parts: str) -> str:
    """The same id for the same parts, always: for what an event or a natural key causes exactly once."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(parts)))
