"""Reading crawled records: what is clear is read, everything else stays raw and is flagged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.calendar import TimeLimit, TimeUnit
from catalog.domain import Channel, FeeRule, Level
from catalog.importer import FEE_NAME, Record, Refused, read
from catalog.prose import read_fee, read_time_limit
from kit.text import fold


def record(**changes: Any) -> str:
    plain = {
        "code": "1.001193",
        "name": "Thủ tục đăng ký khai sinh",
        "field": "Hộ tịch",
        "decision": "163/QĐ-BTP",
        "levels": ["Cấp xã"],
        "kind": None,
        "audience": ["Công dân Việt Nam"],
        "ministry": "bo-tu-phap",
        "competent_authority": None,
        "coordinating_agency": None,
        "steps": "Bước 1",
        "modes": [{"channel": "online", "time_limit": "3 Ngày làm việc", "fee": "8,000 VNĐ", "note": None}],
        "components": [{"case": None, "items": [{"name": "Giấy chứng sinh", "originals": 1, "copies": 0}]}],
        "legal_bases": "Luật 60/2014/QH13",
        "conditions": None,
        "results": [{"name": "Giấy khai sinh", "code": "KQ.G15.000031"}],
    }
    return json.dumps({**plain, **changes}, ensure_ascii=False)


def accepted(line: str) -> Record:
    got = read(line)
    assert isinstance(got, Record)
    return got


def flags(line: str) -> list[tuple[str, str, str]]:
    return [(p.field, p.raw, p.reason) for p in accepted(line).content.problems]


def test_a_clear_record_is_read_whole() -> None:
    content = accepted(record()).content
    assert content.name == "Thủ tục đăng ký khai sinh"
    assert content.levels == (Level.COMMUNE,)
    assert content.modes[0].time_limit == TimeLimit(3, TimeUnit.WORKING_DAY)
    assert content.fees == (FeeRule(FEE_NAME, Channel.ONLINE, 8000),)
    assert content.cases[0].components[0].name == "Giấy chứng sinh"
    assert content.results[0].code == "KQ.G15.000031"
    assert content.problems == ()


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("5 Ngày làm việc", 5, TimeUnit.WORKING_DAY),
        ("30 Ngày", 30, TimeUnit.DAY),
        ("8 Giờ", 8, TimeUnit.HOUR),
        (" 120 ngày LÀM VIỆC ", 120, TimeUnit.WORKING_DAY),
    ],
)
def test_a_limit_with_amount_and_unit_is_read(text: str, amount: int, unit: TimeUnit) -> None:
    assert read_time_limit(text) == (TimeLimit(amount, unit), "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "TIME_LIMIT_ABSENT"),
        ("1", "UNIT_MISSING"),
        ("1100", "UNIT_MISSING"),
        ("120,000", "AMOUNT_UNREADABLE"),
        ("1.5 Ngày làm việc", "AMOUNT_UNREADABLE"),
        ("0", "AMOUNT_UNREADABLE"),
        ("0 Ngày", "AMOUNT_UNREADABLE"),
        ("4 Tháng", "UNIT_UNSUPPORTED"),
        ("5 bữa", "AMOUNT_UNREADABLE"),
        ("Không quy định", "TIME_LIMIT_UNREADABLE"),
    ],
)
def test_any_other_limit_is_flagged_and_never_guessed(text: str, reason: str) -> None:
    assert read_time_limit(text) == (None, reason)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("20,000 VNĐ", ""),
        ("20,000", "Việt Nam Đồng"),
        ("20,000", "Việt Nam Đồng(Thông tư 199/2016/TT-BTC ngày 08/11/2016)"),
        ("20,000", "VNĐ(20.000 đồng)"),
    ],
)
def test_a_whole_unconditional_fee_in_dong_is_read(text: str, note: str) -> None:
    assert read_fee(text, note) == (20_000, "")


@pytest.mark.parametrize(
    ("text", "note", "reason"),
    [
        ("", "", "FEE_ABSENT"),
        ("Miễn phí", "(Do Hội đồng nhân dân tỉnh quyết định)", "FEE_FREE_UNCONFIRMED"),
        ("100 VNĐ", "", "FEE_TOO_SMALL"),
        ("10", "USD(/bản)", "CURRENCY_FOREIGN"),
        ("10,000", "", "CURRENCY_MISSING"),
        ("1100,000 VNĐ", "", "FEE_UNREADABLE"),
        ("2,000", "Việt Nam Đồng(/trang)", "FEE_CONDITIONAL"),
        ("20,000 VNĐ", "(Bằng 50% mức thu)", "FEE_CONDITIONAL"),
        ("20,000 VNĐ", "(từ ngày 01/01/2026: 40.000 đồng)", "FEE_CONDITIONAL"),
        ("20,000 VNĐ", "Hội đồng nhân dân tỉnh quyết định", "FEE_CONDITIONAL"),
        ("8,000 VNĐ", "Miễn lệ phí cho người thuộc hộ nghèo", "FEE_CONDITIONAL"),
        ("mười đồng VNĐ", "", "FEE_UNREADABLE"),
    ],
)
def test_any_other_fee_is_flagged_and_never_guessed(text: str, note: str, reason: str) -> None:
    assert read_fee(text, note) == (None, reason)


def test_what_could_not_be_read_stays_raw() -> None:
    line = record(modes=[{"channel": "counter", "time_limit": "1", "fee": "100 VNĐ", "note": "ghi chú"}])
    mode = accepted(line).content.modes[0]
    assert (mode.raw_time_limit, mode.raw_fee, mode.note) == ("1", "100 VNĐ", "ghi chú")
    assert mode.time_limit is None
    assert flags(line) == [
        ("modes[0].time_limit", "1", "UNIT_MISSING"),
        ("modes[0].fee", "100 VNĐ", "FEE_TOO_SMALL"),
    ]


def test_two_prices_for_one_channel_are_flagged_and_neither_is_taken() -> None:
    modes = [
        {"channel": "online", "time_limit": "1 Ngày", "fee": fee, "note": None}
        for fee in ("10,000 VNĐ", "20,000 VNĐ")
    ]
    assert flags(record(modes=modes)) == [("modes.online.fee", "[10000, 20000]", "FEE_AMBIGUOUS")]
    assert accepted(record(modes=modes)).content.fees == ()


def test_values_outside_their_lists_are_flagged() -> None:
    mode = {"channel": "pigeon", "time_limit": None, "fee": None, "note": None}
    assert flags(record(levels=["Cấp xã", "Cấp huyện"], modes=[mode], extra=1)) == [
        ("levels[1]", "Cấp huyện", "LEVEL_UNKNOWN"),
        ("modes[0].channel", "pigeon", "CHANNEL_UNKNOWN"),
        ("extra", "1", "VALUE_UNKNOWN"),
    ]


def test_values_of_another_type_are_flagged() -> None:
    found = flags(
        record(kind=7, audience="x", results="y", components=[1, {"case": None, "items": [2]}], modes=[None])
    )
    assert {(path, reason) for path, _, reason in found} == {
        (path, "TYPE_UNEXPECTED")
        for path in ("kind", "audience", "results", "components[0]", "components[1].items", "modes[0]")
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "NOT_JSON"),
        ("{", "NOT_JSON"),
        ("[" * 100_000, "NOT_JSON"),
        ("[]", "NOT_AN_OBJECT"),
        ("null", "NOT_AN_OBJECT"),
        (record(code="abc"), "CODE_MALFORMED"),
        (record(code=None), "CODE_MALFORMED"),
        (record(name=" "), "REQUIRED"),
        (record(field=3), "REQUIRED"),
    ],
)
def test_what_is_no_record_is_refused(line: str, reason: str) -> None:
    got = read(line)
    assert isinstance(got, Refused)
    assert got.problem.reason == reason


def test_text_is_stored_composed() -> None:
    assert accepted(record(name="Đa\u0306ng ky\u0301")).content.name == "Đăng ký"


def test_the_same_record_has_the_same_fingerprint_and_another_one_has_not() -> None:
    one, same, other = (accepted(line).content for line in (record(), record(), record(decision="1/QĐ")))
    assert one.fingerprint == same.fingerprint != other.fingerprint


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([*json.loads(record()), "other"])


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_whatever_a_record_holds_it_is_read_or_refused_and_never_crashes(changes: dict[str, Any]) -> None:
    got = read(record(**changes))
    assert isinstance(got, Record | Refused)
    if isinstance(got, Record):
        assert got == read(record(**changes))


@given(st.text(max_size=60))
def test_any_line_of_text_is_refused_calmly(line: str) -> None:
    assert isinstance(read(line), Refused)


TEXTS = st.text(max_size=30) | st.sampled_from(
    ["3 Ngày", "20,000 VNĐ", "1", "Miễn phí", "100 VNĐ", "7 Ngày làm việc"]
)


@given(st.lists(st.tuples(st.sampled_from(["online", "counter", "post"]), TEXTS, TEXTS, TEXTS), max_size=4))
def test_every_text_is_either_read_exactly_or_kept_raw_and_flagged(
    rows: list[tuple[str, str, str, str]],
) -> None:
    modes = [
        {"channel": channel, "time_limit": limit, "fee": fee, "note": note}
        for channel, limit, fee, note in rows
    ]
    content = accepted(record(modes=modes)).content
    flagged = {problem.field for problem in content.problems}
    for index, mode in enumerate(content.modes):
        where = {f"modes[{index}].time_limit", f"modes.{mode.channel}.time_limit", "modes.time_limit"}
        assert (mode.time_limit is None) == bool(where & flagged)
        if mode.time_limit:
            assert mode.raw_time_limit.startswith(str(mode.time_limit.amount))
    for rule in content.fees:
        texts = {mode.raw_fee for mode in content.modes if mode.channel is rule.channel}
        if rule.amount == 0:
            assert {fold(text) for text in texts} == {"mien phi"}
            continue
        assert {f"{rule.amount:,}", str(rule.amount)} & {text.removesuffix("VNĐ").strip() for text in texts}
