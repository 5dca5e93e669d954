"""Failures as clients see them: expected ones as typed problems in the caller's language, all others
masked."""

from __future__ import annotations

import logging
import re
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from graphql import GraphQLError

from gateway.messages import MESSAGES, text
from kit import errors
from kit.errors import DomainError

log = logging.getLogger(__name__)
# How graphql-core begins when it tells of a variable that does not fit.
_VARIABLE = re.compile(r"Variable '\$(?P<name>\w+)' has invalid value(?: at (?P<path>[.\w\[\]]+))?: ")
_MAPS = ("quantities",)  # fields of requests whose keys come from clients


@dataclass(frozen=True)
class Violation:
    """One field of an input that is wrong."""

    field: str
    reason: str
    message: str


@dataclass(frozen=True)
class Problem:
    """An expected failure: a stable reason for programs, a message for people."""

    reason: str
    message: str


@dataclass(frozen=True)
class ValidationProblem(Problem):
    violations: list[Violation] = field(default_factory=list)


@dataclass(frozen=True)
class Conflict(Problem):
    accounts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Forbidden(Problem):
    pass


@dataclass(frozen=True)
class Unauthenticated(Problem):
    pass


@dataclass(frozen=True)
class NotFound(Problem):
    pass


@dataclass(frozen=True)
class WrongState(Problem):
    pass


@dataclass(frozen=True)
class RateLimited(Problem):
    retry_after: int | None = None


PROBLEMS: dict[type[DomainError], type[Problem]] = {
    errors.InvalidInput: ValidationProblem,
    errors.Conflict: Conflict,
    errors.AlreadyExists: Conflict,
    errors.Forbidden: Forbidden,
    errors.Unauthenticated: Unauthenticated,
    errors.NotFound: NotFound,
    errors.FailedPrecondition: WrongState,
    errors.RateLimited: RateLimited,
}
"""What is a member of every mutation's result. Unavailable is not: it says nothing about the request."""

_CODES: dict[type[DomainError], str] = {
    errors.InvalidInput: "INVALID_INPUT",
    errors.Conflict: "CONFLICT",
    errors.AlreadyExists: "CONFLICT",
    errors.Forbidden: "FORBIDDEN",
    errors.Unauthenticated: "UNAUTHENTICATED",
    errors.NotFound: "NOT_FOUND",
    errors.FailedPrecondition: "WRONG_STATE",
    errors.RateLimited: "RATE_LIMITED",
    errors.Unavailable: "UNAVAILABLE",
}


def problem(error: DomainError, locale: str) -> Problem | None:
    """The union member for an expected failure, or None when there is none for it."""
    kind = PROBLEMS.get(type(error))
    if kind is None:
        return None
    message = text(error.reason, locale, error.metadata, kind=_CODES[type(error)])
    if isinstance(error, errors.InvalidInput):
        return ValidationProblem(
            error.reason,
            message,
            violations(error, locale),
        )
    if kind is RateLimited:
        seconds = error.metadata.get("retry_after", "")
        return RateLimited(error.reason, message, int(float(seconds)) if seconds else None)
    if kind is Conflict:
        return Conflict(error.reason, message, tuple(error.metadata.get("accounts", "").split()))
    return kind(error.reason, message)


def violations(error: errors.InvalidInput, locale: str) -> list[Violation]:
    """What is wrong, with the API's names and in the caller's language."""
    return [
        Violation(
            api_field(v.field),
            v.reason,
            text(v.reason, locale, error.metadata if v.reason == error.reason else None, kind="FIELD"),
        )
        for v in error.violations
    ]


def api_field(path: str) -> str:
    """A field as the API names it: `fees[0].valid_to` of a service is `fees[0].validTo`.

    What follows a map's name is a key that the client chose, and JSON pointers lead into the client's own
    form: both stay.
    """
    if path.startswith("/"):
        return path
    names, dot, key = path.partition(".") if path.partition(".")[0] in _MAPS else (path, "", "")
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), names) + dot + key


def formatted(error: GraphQLError, locale: str) -> dict[str, Any]:
    """An error of the answer's `errors`.

    A mistake in the document is told as it is, an expected failure with its code and reason; anything else is
    masked, with an id under which the log has the rest.
    """
    original: BaseException | None = error
    while isinstance(original, GraphQLError):
        original = original.original_error
    answer: dict[str, Any] = {"message": error.message}
    if error.locations:
        answer["locations"] = [location.formatted for location in error.locations]
    if error.path is not None:
        answer["path"] = error.path
    if original is None:
        answer["extensions"] = {"code": "BAD_REQUEST"} | (error.extensions or {})
        if (reason := answer["extensions"].get("reason")) in MESSAGES:
            answer["message"] = text(reason, locale)
            if (at := _VARIABLE.match(error.message)) is not None:
                wrong = Violation((at["path"] or at["name"]).lstrip("."), reason, answer["message"])
                answer["extensions"]["violations"] = [asdict(wrong)]
    elif isinstance(original, DomainError) and type(original) in _CODES:
        code = _CODES[type(original)]
        answer["message"] = text(original.reason, locale, original.metadata, kind=code)
        answer["extensions"] = {"code": code, "reason": original.reason}
        if isinstance(original, errors.InvalidInput) and original.violations:
            answer["extensions"]["violations"] = [asdict(v) for v in violations(original, locale)]
    else:
        error_id = uuid.uuid4().hex
        log.error("unexpected failure %s at %s", error_id, error.path, exc_info=original)
        answer["message"] = text("INTERNAL", locale, {"id": error_id})
        answer["extensions"] = {"code": "INTERNAL", "id": error_id}
    return answer
