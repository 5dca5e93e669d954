"""Time, ids, text and errors."""

from __future__ import annotations

import unicodedata
import uuid
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import clock, ids, status, text
from kit.errors import (
    Conflict,
    DomainError,
    FieldViolation,
    Forbidden,
    InvalidInput,
    NotFound,
    RateLimited,
    Unavailable,
)

INSTANTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


@given(INSTANTS, INSTANTS)
def test_instants_survive_text_and_sort_as_text(one: datetime, other: datetime) -> None:
    one, other = clock.to_ms(one), clock.to_ms(other)
    assert clock.from_text(clock.to_text(one)) == one
    assert (clock.to_text(one) < clock.to_text(other)) == (one < other)


def test_text_of_an_instant_is_utc_of_fixed_width() -> None:
    noon = datetime(2026, 11, 23, 12, 0, 0, 999, tzinfo=clock.VIETNAM)
    assert clock.to_text(noon) == "2026-11-23T05:00:00.000Z"
    with pytest.raises(ValueError, match="zone"):
        clock.to_text(datetime(2026, 1, 1))


def test_ids_rise_and_are_version_7_of_now() -> None:
    made = [ids.uuid7() for _ in range(5000)]
    assert made == sorted(set(made))
    last = uuid.UUID(made[-1])
    assert (last.version, last.variant) == (7, uuid.RFC_4122)
    at = datetime.fromtimestamp((last.int >> 80) / 1000, UTC)
    assert abs(at - datetime.now(UTC)) < timedelta(seconds=5)


def test_derived_ids_are_the_same_for_the_same_parts_only() -> None:
    assert ids.derived("a", "b") == ids.derived("a", "b")
    assert (
        len({ids.derived("a", "b"), ids.derived("ab"), ids.derived("a", "b", ""), ids.derived("b", "a")}) == 4
    )


@pytest.mark.parametrize("spelt", ["Đăng  ký KHAI SINH", "ĐĂNG KÝ khai sinh ", "dang ky khai sinh"])
def test_folding_leaves_no_accents_case_or_spare_spaces(spelt: str) -> None:
    assert text.fold(spelt) == "dang ky khai sinh"


@pytest.mark.parametrize("marks", ["\u0301\u0327", "\u0f73", "\u0344\u0327"])
def test_marks_without_end_take_no_time_without_end(marks: str) -> None:
    long = "a" + marks * 50_000
    composed = text.nfc(long)  # ordering that many marks alone would outlast the run's time limit
    text.fold(long)
    assert text.nfc(composed) == composed
    few = "a" + marks * 7
    assert text.nfc(few) == unicodedata.normalize("NFC", few)


@given(st.text())
def test_folding_twice_is_folding_once(any_text: str) -> None:
    assert text.fold(text.fold(any_text)) == text.fold(any_text)


def rpc_error(error: DomainError) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(*status.to_details(error))
    return grpc.aio.AioRpcError(status.code_of(error), grpc.aio.Metadata(), trailing, error.message)


@pytest.mark.parametrize(
    "error",
    [
        NotFound("NO_DOSSIER", "no such dossier", dossier="d1"),
        Forbidden("NOT_YOURS", "it is of another"),
        Conflict("STALE", revision=3),
        RateLimited("TOO_MANY", "slow down", retry_after=30),
        Unavailable("AWAY", "later"),
        InvalidInput(violations=[FieldViolation("form.name", "REQUIRED", "say who")], hint="x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failure_crosses_the_wire_whole(error: DomainError) -> None:
    arrived = status.from_rpc(rpc_error(error))
    assert type(arrived) is type(error)
    assert isinstance(arrived, DomainError)
    assert (arrived.reason, arrived.message, arrived.metadata) == (
        error.reason,
        error.message,
        error.metadata,
    )
    assert getattr(arrived, "violations", None) == getattr(error, "violations", None)


def test_too_slow_means_unavailable_and_a_masked_error_stays_what_it_is() -> None:
    def bare(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
        return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "why")

    slow = status.from_rpc(bare(grpc.StatusCode.DEADLINE_EXCEEDED))
    assert isinstance(slow, Unavailable)
    assert slow.reason == "DEADLINE_EXCEEDED"
    masked = bare(grpc.StatusCode.INTERNAL)
    assert status.from_rpc(masked) is masked
