"""Every refusal has words: a reason raised anywhere has a Vietnamese and an English message."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest

from gateway.errors import ValidationProblem, problem
from gateway.messages import MESSAGES, text
from identity.domain.passwords import LONGEST, SHORTEST
from kit.errors import FieldViolation, InvalidInput

ROOT = Path(__file__).parents[2]
# What a message may repeat: never what somebody else typed.
SAFE = {"id", "found", "taken", "what", "left_megabytes", "left_documents"}
FAILURES = {
    "InvalidInput",
    "NotFound",
    "AlreadyExists",
    "Conflict",
    "Forbidden",
    "Unauthenticated",
    "FailedPrecondition",
    "RateLimited",
    "Unavailable",
}


def raised() -> Iterator[tuple[str, str]]:
    """Reasons written out where a DomainError or FieldViolation is made, and where."""
    for folder in ("services", "graphql/gateway"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                called = (
                    node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                )
                position = 0 if called in FAILURES else 1 if called == "FieldViolation" else None
                if position is None or len(node.args) <= position:
                    continue
                reason = node.args[position]
                if isinstance(reason, ast.Constant) and isinstance(reason.value, str):
                    yield reason.value, f"{file.relative_to(ROOT)}:{node.lineno}"


def test_every_reason_has_its_words_in_both_languages() -> None:
    missing = {reason: where for reason, where in raised() if reason not in MESSAGES}
    assert not missing


def test_messages_are_in_two_different_languages_and_name_nothing_unsafe() -> None:
    for reason, (vietnamese, english) in MESSAGES.items():
        assert vietnamese != english, reason
        assert all((vietnamese, english)), reason
        assert {name for _, name, _, _ in Formatter().parse(vietnamese) if name} <= SAFE, reason


def test_a_reason_nobody_translated_is_told_by_its_kind() -> None:
    assert text("SOMETHING_NEW", "vi", kind="FORBIDDEN") == "Bạn không có quyền làm việc này."
    assert text("SOMETHING_NEW", "en", kind="FORBIDDEN") == "You may not do this."


def test_what_was_found_is_told_at_the_field_too() -> None:
    refused = InvalidInput(
        "UNSUPPORTED_TYPE",
        violations=[FieldViolation("content", "UNSUPPORTED_TYPE")],
        found="EXE",
        taken="PDF",
    )
    told = problem(refused, "en")
    assert isinstance(told, ValidationProblem)
    assert told.violations[0].message == told.message
    assert "EXE" in told.message


@pytest.mark.parametrize(("locale", "words"), [("vi", "không rõ"), ("en", "unknown")])
def test_what_nobody_recognised_has_words(locale: str, words: str) -> None:
    assert words in text("UNSUPPORTED_TYPE", locale, {"found": "?", "taken": "PDF"})


@pytest.mark.parametrize("locale", ["vi", "en"])
def test_a_refused_password_is_told_how_long_it_has_to_be(locale: str) -> None:
    assert {str(SHORTEST), str(LONGEST)} <= set(text("PASSWORD_LENGTH", locale).split())
