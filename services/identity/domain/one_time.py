"""Secrets that serve once: links that set a new password or verify an e-mail, and codes that verify a phone.

An account asks for one, which opens a request; the secret itself is made when it is sent, so it is in no
event, no notice and no log. Several links may be open at once: somebody who asks again and again in the name
of the owner must not make the owner's link useless. The one that is used ends the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from kit.ids import derived

REQUEST_LASTS: Final = timedelta(minutes=30)  # from the asking to the sending
LINK_LASTS: Final = timedelta(minutes=30)
CODE_LASTS: Final = timedelta(minutes=10)
CODE_TRIES: Final = 5


class Purpose(StrEnum):
    """What a secret is for; RECOVER sets a new password."""

    RECOVER = "recover"
    VERIFY_EMAIL = "verify_email"
    VERIFY_PHONE = "verify_phone"


VERIFIES: Final = {Purpose.VERIFY_EMAIL: "email", Purpose.VERIFY_PHONE: "phone"}
"""Which contact of the account a purpose verifies."""


@dataclass(frozen=True)
class OneTime:
    """A request for a secret, or a secret as a hash: whose it is, for what, and the address it goes to.

    `hash` is the argon2id hash of a code and empty for a link, whose key is its hash; `tries` are those that
    a code has left.
    """

    account: str
    purpose: Purpose
    address: str
    expires: datetime
    hash: str = ""
    tries: int = 0

    def tried(self) -> OneTime:
        """With one try less."""
        return replace(self, tries=self.tries - 1)


def request_key(account: str, purpose: Purpose) -> str:
    """The key of the account's open request: asking again replaces it."""
    return derived("one-time request", account, purpose)


def code_key(account: str, purpose: Purpose) -> str:
    """The key of the account's code: a new one replaces it."""
    return derived("one-time code", account, purpose)
