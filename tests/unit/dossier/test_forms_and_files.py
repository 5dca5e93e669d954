"""Forms against schemas, files against their names, uploads and download tokens: the pure parts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dossier.domain.document import (
    Details,
    Document,
    Part,
    Purpose,
    Ticket,
    Trust,
    Upload,
    Version,
)
from dossier.limiter import Limiter
from kit import schemas
from kit.errors import DomainError, FailedPrecondition, InvalidInput, RateLimited, Unauthenticated

NOW = datetime(2026, 11, 23, 2, tzinfo=UTC)
SECRET = b"k" * 32


def test_violations_point_at_the_field_and_never_repeat_the_value() -> None:
    schema = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "pattern": "^[A-Z]"},
            "born": {"type": "string", "format": "date"},
            "parents": {"type": "array", "items": {"type": "object", "required": ["name"]}},
            "a/b": {"type": "integer"},
        },
    }
    form = {"name": "bí mật", "born": "hôm qua", "parents": [{}], "a/b": "x"}
    found = schemas.violations(json.dumps(schema), form)
    assert [(v.field, v.reason) for v in found] == [
        ("/a~1b", "TYPE"),
        ("/born", "FORMAT"),
        ("/name", "PATTERN"),
        ("/parents/0/name", "REQUIRED"),
    ]
    assert "bí mật" not in str(found)


def test_a_schema_cannot_make_us_fetch_anything() -> None:
    for schema in ({"$ref": "http://203.0.113.1/schema.json"}, {"$ref": "file:///etc/passwd"}):
        with pytest.raises(FailedPrecondition) as error:
            schemas.violations(json.dumps(schema), {"a": 1})
        assert error.value.reason == "BAD_SCHEMA"
    with pytest.raises(FailedPrecondition):
        schemas.violations(json.dumps({"type": "nonsense"}), {})


def test_at_most_fifty_violations_are_told() -> None:
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    assert len(schemas.violations(json.dumps(schema), {f"f{n}": "x" for n in range(500)})) == 50


def upload(size: int = 100) -> Upload:
    return Upload(
        id="u",
        owner="an",
        vault="an",
        purpose=Purpose.DOCUMENT,
        size=size,
        filename="a.pdf",
        content_type="",
        expires=NOW + timedelta(hours=1),
        created=NOW,
        details=Details(),
    )


@given(st.lists(st.tuples(st.integers(0, 120), st.integers(1, 60)), max_size=30))
def test_the_offset_is_the_sum_of_the_parts_and_never_passes_the_size(
    tries: list[tuple[int, int]],
) -> None:
    u = upload()
    for offset, size in tries:
        before = u.offset
        try:
            u.append(Part("k", size), offset, NOW)
        except DomainError:
            assert u.offset == before
        else:
            assert offset == before
        assert u.offset == sum(part.size for part in u.parts) <= u.size


def test_an_expired_upload_takes_nothing_more() -> None:
    with pytest.raises(FailedPrecondition) as error:
        upload().append(Part("k", 1), 0, NOW + timedelta(hours=1))
    assert error.value.reason == "UPLOAD_EXPIRED"


@given(st.text(max_size=60))
def test_a_token_that_we_did_not_sign_is_refused_whatever_it_is(token: str) -> None:
    with pytest.raises(Unauthenticated):
        Ticket.read(token, SECRET, NOW)


def test_a_token_says_what_was_signed_until_it_expires() -> None:
    made = Ticket("doc", 2, "an", int(NOW.timestamp()) + 60)
    assert Ticket.read(made.signed(SECRET), SECRET, NOW) == made
    for secret, at in ((b"other", NOW), (SECRET, NOW + timedelta(seconds=60))):
        with pytest.raises(Unauthenticated):
            Ticket.read(made.signed(SECRET), secret, at)


def document(**fields: Any) -> Document:
    version = Version(1, "0" * 64, 10, "application/pdf", "a.pdf", NOW, "an")
    return Document(
        **{
            "id": "d",
            "owner": "an",
            "details": Details(title="Cũ"),
            "trust": Trust.OWN_SCAN,
            "versions": [version],
            "created": NOW,
            **fields,
        }
    )


def test_trust_rises_by_an_officer_and_falls_with_a_new_version() -> None:
    d = document()
    d.verify(trust=Trust.CERTIFIED_COPY, by="o", agency="H32.15", at=NOW)
    with pytest.raises(FailedPrecondition) as error:
        d.verify(trust=Trust.OFFICER_SCAN, by="o", agency="H32.15", at=NOW)
    assert error.value.reason == "TRUSTED_MORE"
    d.add_version(d.versions[0])
    assert (d.trust, d.verified_by, d.newest.number) == (Trust.OWN_SCAN, "", 2)


def test_a_result_is_deposited_once_and_has_one_version() -> None:
    d = document(owner="H32.15", dossier="x")
    for _ in range(2):
        d.deposit(owner="an", by="leader", agency="H32.15", at=NOW)
    assert (d.owner, d.trust, len(d.events)) == ("an", Trust.SIGNED_ORIGINAL, 1)
    with pytest.raises(FailedPrecondition):
        d.add_version(d.versions[0])


def test_details_are_checked_field_by_field() -> None:
    with pytest.raises(InvalidInput) as error:
        Details(type="Loại Lạ", title="x" * 301, issued="2026-13-01").checked()
    assert {(v.field, v.reason) for v in error.value.violations} == {
        ("type", "BAD_TYPE"),
        ("title", "TOO_LONG"),
        ("issue_date", "BAD_DATE"),
    }
    with pytest.raises(InvalidInput):
        Details(issued="2026-02-02", expires="2026-02-01").checked()


def test_tries_are_limited_by_key_and_refilled_with_time() -> None:
    moment = 0.0
    limiter = Limiter(3, 30.0, keys=2, monotonic=lambda: moment)
    for _ in range(3):
        limiter.check("a")
    with pytest.raises(RateLimited) as error:
        limiter.check("a")
    assert error.value.metadata["retry_after"] == "10"
    limiter.check("b")
    moment = 10.0
    limiter.check("a")
    limiter.check("c")
    assert len(limiter._left) <= 2
