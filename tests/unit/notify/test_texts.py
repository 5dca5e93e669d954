"""What notices say: every kind in both languages, with the same parameters, written as each language does."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify import texts
from notify.domain.kinds import KINDS
from payment.domain.lifecycle import RefundReason

SAMPLES = {
    "due": "2026-11-25T09:30:00.000Z",
    "new_due": "2026-12-02T10:00:00.000Z",
    "at": "2026-11-23T05:00:00.000Z",
    "until": "2027-01-01T00:00:00.000Z",
    "amount": "1234567",
    "cause": "DOUBLE_PAYMENT",
}


def sample(kind: str) -> dict[str, str]:
    return {name: SAMPLES.get(name, f"[{name}]") for name in KINDS[kind].params}


@pytest.mark.parametrize("locale", texts.LOCALES)
def test_every_kind_has_a_template_with_exactly_its_parameters(locale: str) -> None:
    found = texts.templates(locale)
    assert {kind: template.params() for kind, template in found.items()} == {
        kind: KINDS[kind].params for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_both_languages_name_the_same_things_in_title_and_body(kind: str) -> None:
    vi, en = (texts.templates(locale)[kind] for locale in ("vi", "en"))
    assert _names(vi.title) == _names(en.title)
    assert [_names(line) for line in vi.lines] == [_names(line) for line in en.lines]


@pytest.mark.parametrize("locale", texts.LOCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_written(kind: str, locale: str) -> None:
    title, body = texts.write(kind, locale, sample(kind))
    assert title
    assert body
    assert "\n" not in title
    assert not {"{", "}"} & set(title + body)
    assert len(title) <= 100, "a title fits a phone's screen"


def test_times_and_amounts_are_written_as_the_language_does() -> None:
    assert texts.instant("2026-11-25T09:30:00.000Z", "vi") == "16:30 ngày 25/11/2026"
    assert texts.instant("2026-11-25T09:30:00.000Z", "en") == "16:30 on 25 November 2026"
    assert texts.instant("2026-12-31T17:00:00.000Z", "vi") == "00:00 ngày 01/01/2027", "Vietnam's day"
    assert (texts.amount("1234567", "vi"), texts.amount("1234567", "en")) == ("1.234.567 đ", "VND 1,234,567")
    assert texts.amount("0", "vi") == "0 đ"


def test_a_line_without_anything_to_say_is_left_out() -> None:
    params = sample("supplement_requested") | {"guidance": "", "reason": ""}
    _, body = texts.write("supplement_requested", "en", params)
    assert body.splitlines() == [
        "[by] asks you to complete the dossier “[procedure]”.",
        "What is missing (the officer writes): “[defects]”",
    ]


def test_a_missing_parameter_is_an_error_and_not_an_empty_text() -> None:
    params = sample("dossier_received")
    del params["code"]
    with pytest.raises(KeyError):
        texts.write("dossier_received", "vi", params)


def test_what_people_write_is_never_read_as_a_template() -> None:
    params = sample("dossier_stopped") | {"reason": "{by.__class__} {0} {reason}", "procedure": "}{"}
    _, body = texts.write("dossier_stopped", "vi", params)
    assert body.endswith("Lý do (cán bộ ghi): “{by.__class__} {0} {reason}”")


@given(st.text())
def test_a_title_is_one_line_and_a_text_has_no_control_characters_whatever_comes(evil: str) -> None:
    title, body = texts.write("document_deposited", "en", {"document": evil})
    assert not [letter for letter in title if ord(letter) < 32 or ord(letter) == 127]
    assert not [
        letter for letter in body if (ord(letter) < 32 and letter not in "\n\t") or letter in "\u202e\u2028"
    ]


def test_what_payment_says_in_codes_is_said_in_words_in_both_languages() -> None:
    vi, en = (texts._read(locale)["causes"] for locale in ("vi", "en"))
    assert vi.keys() == en.keys()
    assert vi.keys() == {"DossierRejected", "DossierWithdrawn", "DossierStopped", *RefundReason}
    _, body = texts.write("payment_refunded", "en", sample("payment_refunded"))
    assert body.endswith("Reason: it was paid twice")
    _, body = texts.write("payment_refunded", "en", sample("payment_refunded") | {"cause": "NEW_CODE"})
    assert "NEW_CODE" not in body
    assert "Reason" not in body


def test_a_very_long_parameter_is_cut() -> None:
    _, body = texts.write("document_deposited", "en", {"document": "x" * 100_000})
    assert len(body) < 3000
    assert "…" in body


def _names(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}
