"""Tells a signature from what only stands where one would be. Whether it holds is for a verifier."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import pkcs7


def certificates(signature: bytes) -> int:
    """How many certificates a CMS message (RFC 5652) carries; 0 for what is none. Zeros may follow it."""
    try:
        return len(pkcs7.load_der_pkcs7_certificates(_der(signature)))
    except (ValueError, UnsupportedAlgorithm):
        return 0


def _der(padded: bytes) -> bytes:
    """The DER value at the beginning, without what fills the room behind it."""
    if len(padded) < 4 or padded[0] != 0x30:
        raise ValueError("no CMS")
    if padded[1] < 0x80:
        return padded[: 2 + padded[1]]
    count = padded[1] & 0x7F
    return padded[: 2 + count + int.from_bytes(padded[2 : 2 + count], "big")]
