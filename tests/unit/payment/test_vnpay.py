"""The gateway's protocol: what is signed is believed, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payment import vnpay
from payment.vnpay import Outcome

MERCHANT = vnpay.Merchant("MOTCUA01", "a-secret")
NOON = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)


def notice(**changed: str) -> dict[str, str]:
    params = {
        "vnp_TmnCode": "MOTCUA01",
        "vnp_TxnRef": "MC00000000000001",
        "vnp_Amount": "2000000",
        "vnp_ResponseCode": "00",
        "vnp_TransactionStatus": "00",
        "vnp_TransactionNo": "14000001",
        "vnp_PayDate": "20261123120000",
        **changed,
    }
    return {**params, "vnp_SecureHash": vnpay.sign(params, MERCHANT.secret)}


def url(text: str = "Nộp lệ phí hồ sơ H32.15-261123-0001") -> str:
    return vnpay.payment_url(
        "https://gateway/pay",
        MERCHANT,
        txn_ref="MC00000000000001",
        amount=20_000,
        text=text,
        return_url="https://us/return?a=1",
        client_address="",
        locale="vi",
        created=NOON,
        expires=NOON,
    )


def test_the_signature_is_the_one_that_the_reference_computation_gives() -> None:
    # printf 'vnp_Amount=100&vnp_OrderInfo=a+b' | openssl dgst -sha512 -hmac secret
    assert vnpay.sign({"vnp_OrderInfo": "a b", "vnp_Amount": "100", "other": "x"}, "secret") == (
        "6fa56e592f1d48bb7aaee340142bed59644ea5c67aa89f31f959a644cef1f8ad859230f939006804bbca247426d4584fcf2352eb89af35f37c2283b12c030f2a"
    )


def test_the_payment_address_carries_hundredths_vietnam_time_and_a_plain_text() -> None:
    params = dict(parse_qsl(urlsplit(url()).query))
    assert params["vnp_Amount"] == "2000000"
    assert params["vnp_CreateDate"] == "20261123120000"
    assert params["vnp_OrderInfo"] == "nop le phi ho so h32.15-261123-0001"
    vnpay.verify(params, MERCHANT.secret)


@given(st.text(max_size=60))
def test_the_payment_address_verifies_whatever_its_text(text: str) -> None:
    vnpay.verify(dict(parse_qsl(urlsplit(url(text)).query)), MERCHANT.secret)


@pytest.mark.parametrize(
    ("code", "status", "outcome"),
    [
        ("00", "00", Outcome.PAID),
        ("07", "00", Outcome.SUSPECT),
        ("00", "07", Outcome.SUSPECT),
        ("00", "02", Outcome.FAILED),
        ("11", "02", Outcome.FAILED),
        ("24", "02", Outcome.FAILED),
        ("51", "02", Outcome.FAILED),
    ],
)
def test_codes_are_read_as_outcomes(code: str, status: str, outcome: Outcome) -> None:
    read = vnpay.read_notice(notice(vnp_ResponseCode=code, vnp_TransactionStatus=status), MERCHANT)
    assert (read.outcome, read.amount) == (outcome, 20_000)


@given(st.sampled_from(sorted(notice())), st.text(min_size=1, max_size=5))
def test_no_parameter_can_be_changed_under_the_signature(name: str, text: str) -> None:
    forged = notice()
    if forged[name].lower() == text.lower():
        return
    forged[name] = text
    with pytest.raises(vnpay.BadSignature):
        vnpay.read_notice(forged, MERCHANT)


@pytest.mark.parametrize("signature", ["", "0" * 128, "không"])
def test_a_notice_without_the_right_signature_is_not_read(signature: str) -> None:
    with pytest.raises(vnpay.BadSignature):
        vnpay.read_notice({**notice(), "vnp_SecureHash": signature}, MERCHANT)


@pytest.mark.parametrize(
    "changed",
    [
        {"vnp_TxnRef": ""},
        {"vnp_TmnCode": "OTHER"},
    ],
)
def test_a_signed_notice_that_makes_no_sense_is_malformed(changed: dict[str, str]) -> None:
    with pytest.raises(vnpay.Malformed):
        vnpay.read_notice(notice(**changed), MERCHANT)


def answer(order: tuple[str, ...], **values: str) -> dict[str, str]:
    params = {f"vnp_{name}": value for name, value in values.items()}
    joined = "|".join(params.get(f"vnp_{name}", "") for name in order)
    return {**params, "vnp_SecureHash": vnpay._hmac(joined, MERCHANT.secret)}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [("00", "paid"), ("01", "pending"), ("02", "failed"), ("04", "suspect"), ("07", "suspect")],
)
def test_an_inquiry_tells_the_state_of_a_transaction(status: str, outcome: str) -> None:
    said = answer(
        vnpay.QUERY_ANSWER_ORDER, ResponseCode="00", TxnRef="X", Amount="100", TransactionStatus=status
    )
    assert vnpay.read_query_answer(said, MERCHANT, "X").outcome == outcome


def test_an_inquiry_tells_an_unknown_transaction() -> None:
    said = answer(vnpay.QUERY_ANSWER_ORDER, ResponseCode="91", TxnRef="X")
    assert vnpay.read_query_answer(said, MERCHANT, "X").outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    "values", [{"ResponseCode": "99", "TxnRef": "X"}, {"ResponseCode": "00", "TxnRef": "Y"}]
)
def test_an_answer_about_something_else_decides_nothing(values: dict[str, str]) -> None:
    with pytest.raises(vnpay.Malformed):
        vnpay.read_query_answer(answer(vnpay.QUERY_ANSWER_ORDER, **values), MERCHANT, "X")


def test_an_unsigned_answer_decides_nothing() -> None:
    with pytest.raises(vnpay.BadSignature):
        vnpay.read_query_answer({"vnp_ResponseCode": "00"}, MERCHANT, "X")
    with pytest.raises(vnpay.BadSignature):
        vnpay.read_refund_answer({"vnp_ResponseCode": "00"}, MERCHANT)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("00", "accepted"), ("94", "repeated"), ("99", "later"), ("98", "later"), ("95", "refused")],
)
def test_a_refund_is_accepted_refused_or_still_unclear(code: str, expected: str) -> None:
    said = answer(vnpay.REFUND_ANSWER_ORDER, ResponseCode=code)
    assert vnpay.read_refund_answer(said, MERCHANT) == (expected, code)


@pytest.mark.parametrize(
    ("kind", "status", "back"),
    [("01", "00", False), ("02", "00", True), ("02", "05", True), ("01", "06", True), ("02", "09", False)],
)
def test_an_inquiry_tells_whether_the_money_went_back(kind: str, status: str, back: bool) -> None:
    values = {"ResponseCode": "00", "TxnRef": "X", "TransactionType": kind, "TransactionStatus": status}
    assert vnpay.read_refunded(answer(vnpay.QUERY_ANSWER_ORDER, **values), MERCHANT, "X") is back
    with pytest.raises(vnpay.Malformed):
        vnpay.read_refunded(answer(vnpay.QUERY_ANSWER_ORDER, **values), MERCHANT, "Y")


@pytest.mark.parametrize("amount", ["-1", "150", "1e9", "", "9" * 19, "٣٠٠"])
def test_an_amount_that_is_none_is_told_as_such(amount: str) -> None:
    assert vnpay.read_notice(notice(vnp_Amount=amount), MERCHANT).amount == vnpay.UNREADABLE


@pytest.mark.parametrize("time", ["yesterday", "", "2026112312000", "20261323120000", "00010101000000", "٢"])
def test_a_time_that_is_none_is_empty(time: str) -> None:
    assert vnpay.read_notice(notice(vnp_PayDate=time), MERCHANT).paid_on == ""
