"""Secrets that must be read again, such as those of authenticator apps, encrypted where they are stored."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SHORTEST: Final = 32  # letters of a key's text
_NONCE: Final = 12  # bytes


class Sealer:
    """AES-256-GCM. The first key seals; all open, so that keys can be changed in peace: put the new one
    first, and take the old one out once what it sealed was used or replaced."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Raises ValueError for no key, and for one that is too short to be random."""
        if not keys or any(len(key) < SHORTEST for key in keys):
            raise ValueError(f"keys are random texts of at least {SHORTEST} letters")
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]

    def seal(self, text: str, of: str) -> str:
        """The text sealed for its owner: nobody can put it into another's document."""
        nonce = os.urandom(_NONCE)
        key = self._keys[0]
        sealed = nonce + AESGCM(key).encrypt(nonce, text.encode(), of.encode())
        return f"{_name(key)}.{base64.urlsafe_b64encode(sealed).decode()}"

    def open(self, sealed: str, of: str) -> str:
        """The text again. Raises ValueError when none of the keys opens it, or it is another's."""
        name, _, rest = sealed.partition(".")
        for key in self._keys:
            if _name(key) != name:
                continue
            raw = base64.urlsafe_b64decode(rest)
            try:
                return AESGCM(key).decrypt(raw[:_NONCE], raw[_NONCE:], of.encode()).decode()
            except InvalidTag:
                break
        raise ValueError("none of SECOND_FACTOR_KEYS opens this")

    def outdated(self, sealed: str) -> bool:
        """Whether another key than the first sealed it."""
        return sealed.partition(".")[0] != _name(self._keys[0])


def _name(key: bytes) -> str:
    return hashlib.sha256(b"name|" + key).hexdigest()[:12]
