"""Argon2id hashes of passwords and activation codes, made in threads so that the event loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from zxcvbn import zxcvbn

from identity.domain.passwords import LONGEST
from kit.errors import Unavailable
from kit.text import nfc

_FEW = 10**8  # guesses: what an attacker makes online in years, and offline in hours
R = TypeVar("R")


class Passwords:
    """Hashes and verifies in `workers` threads; callers beyond `queue` are sent away, not piled up.

    `memory_kib`, `passes` and `lanes` are argon2's costs. Text is brought to NFC first: Vietnamese
    keyboards type the same password in several forms of Unicode.
    """

    def __init__(self, *, memory_kib: int, passes: int, lanes: int, workers: int, queue: int = 64) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=lanes)
        self._threads = ThreadPoolExecutor(workers, "argon2")
        self._room = workers + queue
        self._inside = 0
        self._nobody = self._hasher.hash("nobody's password")

    async def hash(self, password: str) -> str:
        """The hash to store, with its salt and costs in it. Raises Unavailable when too many wait."""
        return await self._run(self._hash, password)

    async def verify(self, stored: str, password: str) -> bool:
        """Whether the password belongs to the stored hash; takes as long when `stored` is empty."""
        return await self._run(self._verify, stored or self._nobody, password) and bool(stored)

    async def guessable(self, texts: Sequence[str], words: Sequence[str]) -> bool:
        """Whether each of the texts is found within 10^8 guesses by one who begins with these words.

        In a thread: zxcvbn takes up to 0.1 s for what looks like leetspeak, in slices of Python's 5 ms.
        """
        return await self._run(_guessable, texts, words)

    def outdated(self, stored: str) -> bool:
        """Whether the hash was made with other costs than those in force."""
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        """Ends the threads after the work in hand."""
        self._threads.shutdown(wait=True)

    def _hash(self, password: str) -> str:
        return self._hasher.hash(nfc(password))

    def _verify(self, stored: str, password: str) -> bool:
        text = nfc(password[: 4 * LONGEST])
        try:
            return self._hasher.verify(stored, text[:LONGEST]) and len(text) <= LONGEST
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[..., R], *arguments: object) -> R:
        if self._inside >= self._room:
            raise Unavailable("BUSY", "too many sign-ins at once; try again in a moment")
        self._inside += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        finally:
            self._inside -= 1


def _guessable(texts: Sequence[str], words: Sequence[str]) -> bool:
    return all(zxcvbn(text, user_inputs=list(words))["guesses"] < _FEW for text in texts if text)
