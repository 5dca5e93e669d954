"""VietQR codes: built as the standard says, read back, and never misread."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payment import vietqr
from payment.vietqr import Transfer

TEXT = st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.-", min_size=1, max_size=25)
TRANSFERS = st.builds(
    Transfer,
    bank_bin=st.from_regex(r"[0-9]{6}", fullmatch=True),
    account=st.from_regex(r"[0-9A-Z]{1,19}", fullmatch=True),
    amount=st.none() | st.integers(1, 10**13 - 1),
    purpose=st.just("") | TEXT,
)


def test_the_checksum_is_the_standards_own_example() -> None:
    assert vietqr.crc("123456789") == "29B1"


def test_a_code_looks_as_the_standard_says() -> None:
    assert vietqr.build(Transfer("970436", "1032026001", 20_000, "MC01")) == (
        "00020101021238540010A00000072701240006970436011010320260010208QRIBFTTA"
        "5303704540520000" + "5802VN" + "62080804MC01" + "6304" + "20DF"
    )


def test_a_code_without_amount_is_static() -> None:
    assert vietqr.build(Transfer("970436", "1")).startswith("000201010211")


@given(TRANSFERS)
def test_what_was_built_is_read_back(transfer: Transfer) -> None:
    assert vietqr.parse(vietqr.build(transfer)) == transfer


@given(TRANSFERS, st.data())
def test_a_code_with_one_letter_changed_is_not_read(transfer: Transfer, data: st.DataObject) -> None:
    code = vietqr.build(transfer)
    at = data.draw(st.integers(0, len(code) - 1))
    letter = data.draw(st.sampled_from("0123456789ABCZ").filter(lambda c: c != code[at]))
    with pytest.raises(vietqr.NotVietQr):
        vietqr.parse(code[:at] + letter + code[at + 1 :])


@given(st.text(max_size=120))
def test_anything_else_is_refused_and_never_breaks_the_reader(text: str) -> None:
    with pytest.raises(vietqr.NotVietQr):
        vietqr.parse(text)
    with pytest.raises(vietqr.NotVietQr):
        vietqr.parse(text + "6304" + vietqr.crc(text + "6304"))


@pytest.mark.parametrize(
    "transfer",
    [
        Transfer("97043", "1"),
        Transfer("970436", ""),
        Transfer("970436", "1", 0),
        Transfer("970436", "1", 10**13),
        Transfer("970436", "1", 1, "Lệ phí"),
        Transfer("970436", "1", 1, "x" * 26),
    ],
)
def test_what_no_code_can_carry_is_refused(transfer: Transfer) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        vietqr.build(transfer)
