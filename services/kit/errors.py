"""Expected failures. `reason` is a stable code that clients match; the message is English, for developers.

Pure, so that the domain may raise them; `kit.status` puts them on the wire and takes them off it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class FieldViolation:
    """One field of a request that is wrong: `field` is its path, `reason` a stable code."""

    field: str
    reason: str
    description: str = ""


class DomainError(Exception):
    """An expected failure: reason, message and what a translation needs (keywords become `metadata`).

    `code` is the name of the gRPC status code that it travels under.
    """

    code: ClassVar[str] = "UNKNOWN"

    def __init__(self, reason: str, message: str = "", **metadata: object) -> None:
        super().__init__(message or reason)
        self.reason = reason
        self.message = message or reason
        self.metadata = {key: str(value) for key, value in metadata.items()}

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class InvalidInput(DomainError):
    """The request itself is wrong, whatever the state."""

    code = "INVALID_ARGUMENT"

    def __init__(
        self,
        reason: str = "INVALID_INPUT",
        message: str = "",
        *,
        violations: Sequence[FieldViolation] = (),
        **metadata: object,
    ) -> None:
        super().__init__(
            reason, message or ", ".join(f"{v.field}: {v.reason}" for v in violations), **metadata
        )
        self.violations = list(violations)


class NotFound(DomainError):
    """It does not exist, or the caller must not learn that it does."""

    code = "NOT_FOUND"


class AlreadyExists(DomainError):
    """Something else already has that name, number or request id."""

    code = "ALREADY_EXISTS"


class Conflict(DomainError):
    """A stale etag or a lost race: load again and decide again."""

    code = "ABORTED"


class Forbidden(DomainError):
    """The caller is known and may not do this."""

    code = "PERMISSION_DENIED"


class Unauthenticated(DomainError):
    """The caller is not known: no token, an expired or a forged one."""

    code = "UNAUTHENTICATED"


class FailedPrecondition(DomainError):
    """Right request, wrong state."""

    code = "FAILED_PRECONDITION"


class RateLimited(DomainError):
    """Too many attempts; `retry_after` (seconds) is in the metadata when known."""

    code = "RESOURCE_EXHAUSTED"


class Unavailable(DomainError):
    """A part is down or too slow; the same request may succeed later."""

    code = "UNAVAILABLE"
