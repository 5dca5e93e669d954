"""Failures on the wire: a gRPC status with `google.rpc.ErrorInfo` and, for bad input, `BadRequest`."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from kit import errors
from kit.errors import DomainError, FieldViolation, InvalidInput, Unavailable

T = TypeVar("T")
DOMAIN = "motcua.vn"
_DETAILS = "grpc-status-details-bin"
_BY_CODE: dict[str, type[DomainError]] = {
    error.code: error
    for error in (
        errors.NotFound,
        errors.AlreadyExists,
        errors.Conflict,
        errors.Forbidden,
        errors.Unauthenticated,
        errors.FailedPrecondition,
        errors.RateLimited,
        errors.Unavailable,
    )
}


def code_of(error: DomainError) -> grpc.StatusCode:
    """The gRPC status code of a failure."""
    return grpc.StatusCode[error.code]


def to_details(error: DomainError) -> tuple[tuple[str, bytes], ...]:
    """The failure as trailing metadata: a `google.rpc.Status` with its ErrorInfo and field violations."""
    status = status_pb2.Status(code=code_of(error).value[0], message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    status.details.append(_packed(info))
    if isinstance(error, InvalidInput) and error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(
                field=violation.field, reason=violation.reason, description=violation.description
            )
        status.details.append(_packed(bad))
    return ((_DETAILS, status.SerializeToString()),)


def from_rpc(error: grpc.aio.AioRpcError) -> Exception:
    """What a called service meant: its DomainError, `Unavailable` when it cannot be reached or is too slow,
    or the given error itself when it is neither (a masked INTERNAL, for one).

    Use: `except grpc.aio.AioRpcError as error: raise from_rpc(error) from error`.
    """
    code, message = error.code(), error.details() or ""
    reason = code.name
    metadata: dict[str, str] = {}
    violations: list[FieldViolation] = []
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS or not isinstance(value, bytes):
            continue
        for detail in status_pb2.Status.FromString(value).details:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo.FromString(detail.value)
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad = error_details_pb2.BadRequest.FromString(detail.value)
                violations = [FieldViolation(v.field, v.reason, v.description) for v in bad.field_violations]
    made: DomainError
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and reason == code.name and "larger than max" in message:
        made = InvalidInput("ANSWER_TOO_LARGE", message)  # of gRPC itself: nobody was counted
    elif code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):  # not ours: it was stopping
        made = Unavailable(reason, message)
    elif code is grpc.StatusCode.INVALID_ARGUMENT:
        made = InvalidInput(reason, message, violations=violations)
    elif code.name in _BY_CODE:
        made = _BY_CODE[code.name](reason, message)
    else:
        return error
    made.metadata = metadata
    return made


async def answered(call: Awaitable[T]) -> T:
    """What a called service answers. Raises what it meant by a failure (`from_rpc`)."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from error


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
