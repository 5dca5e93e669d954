"""A limit or a fee that depends or is contradicted is flagged, and not read by half."""

from __future__ import annotations

import json
from typing import Any

import pytest

from catalog.importer import Record, read

NOTE_OF_5_002558 = (
    "Trong thời hạn 10 ngày làm việc, kể từ ngày nhận đủ hồ sơ theo quy định, Bộ Xây dựng ban hành quyết định"
)
NOTE_OF_1_000527 = (
    "- 07 ngày làm việc kể từ ngày nhận đủ hồ sơ đối với trường hợp thay đổi trong cùng địa bàn tỉnh\n"
    "- 17 ngày làm việc kể từ ngày nhận được đầy đủ hồ sơ đối với trường hợp thay đổi khác địa bàn"
)
NOTE_OF_2_001335 = (
    "- 12 ngày làm việc không kể thời gian bổ sung, hoàn thiện hồ sơ.\n"
    "- 15 ngày làm việc đối với trường hợp hồ sơ đề nghị cấp trên 03 cây trồng"
)


def content(modes: list[dict[str, Any]], **others: Any) -> Any:
    plain = {"code": "1.003204", "name": "Thủ tục", "field": "Hộ tịch", "modes": modes}
    found = read(json.dumps({**plain, **others}, ensure_ascii=False))
    assert isinstance(found, Record)
    return found.content


def mode(
    limit: str = "5 Ngày làm việc", fee: str = "", note: str = "", channel: str = "online"
) -> dict[str, str]:
    return {"channel": channel, "time_limit": limit, "fee": fee, "note": note}


def reasons(found: Any) -> set[str]:
    return {problem.reason for problem in found.problems}


@pytest.mark.proof("9.20")
@pytest.mark.parametrize(
    ("limit", "note"),
    [
        ("10 Ngày", NOTE_OF_5_002558),
        ("17 Ngày làm việc", NOTE_OF_1_000527),
        ("12 Ngày làm việc", NOTE_OF_2_001335),
        ("5 Ngày", "05 ngày, không kể ngày nghỉ, ngày lễ"),
        ("5 Ngày làm việc", "Không quá 05 ngày làm việc; trường hợp phức tạp kéo dài không quá 10 ngày"),
        ("15 Ngày làm việc", "Từ 10-15 ngày làm việc"),
        ("10 Ngày làm việc", "Mười lăm ngày kể từ ngày nhận đủ hồ sơ"),
        ("1 Ngày", "Không quy định cụ thể"),
        ("5 Ngày làm việc", "05 ngày làm việc kể từ ngày nhận được ý kiến của Bộ Công an"),
    ],
)
def test_a_limit_that_its_note_contradicts_or_makes_depend_is_not_read(limit: str, note: str) -> None:
    found = content([mode(limit, note=note)])
    assert found.modes[0].time_limit is None
    assert found.modes[0].raw_time_limit == limit
    assert reasons(found) & {"TIME_LIMIT_CONDITIONAL", "TIME_LIMIT_CONTRADICTED"}


@pytest.mark.parametrize(
    ("limit", "note"),
    [
        (
            "7 Ngày làm việc",
            "07 ngày làm việc, kể từ ngày nhận đủ hồ sơ (Sở Nội vụ: 03 ngày làm việc; xã: 04 ngày làm việc)",
        ),
        ("10 Ngày làm việc", "(Phí thẩm định)05 ngày làm việc, Bộ chấp thuận; 05 ngày làm việc, Sở công bố"),
        ("5 Ngày làm việc", "Nộp tại Bộ phận Một cửa từ 7 giờ 30 đến 11 giờ 30 các ngày làm việc"),
        ("3 Ngày", "Theo Thông tư ban hành ngày 11 tháng 01 năm 2022, trong 03 (ba) ngày"),
        (
            "5 Ngày làm việc",
            "05 (năm) ngày làm việc kể từ ngày nhận hồ sơ hợp lệ. Trường hợp không cấp phải nêu rõ lý do",
        ),
    ],
)
def test_a_limit_that_its_note_repeats_or_divides_is_read(limit: str, note: str) -> None:
    assert content([mode(limit, note=note)]).modes[0].time_limit is not None


@pytest.mark.proof("9.20")
@pytest.mark.parametrize(
    ("limit", "steps"),
    [
        ("10 Ngày", "Bước 1: nộp. Bước 2: Trong thời hạn 10 ngày làm việc kể từ ngày nhận đủ hồ sơ"),
        ("1 Ngày làm việc", "Trong thời hạn 03 ngày làm việc kể từ ngày nhận đủ hồ sơ, cơ quan kiểm tra"),
        ("20 Ngày làm việc", "- Đối với cảng A: 20 ngày làm việc\n- Đối với cảng B: 05 ngày làm việc"),
    ],
)
def test_a_limit_that_the_steps_contradict_is_not_read(limit: str, steps: str) -> None:
    assert content([mode(limit)], steps=steps).modes[0].time_limit is None


@pytest.mark.proof("9.20")
@pytest.mark.parametrize(("online", "counter"), [("30,000", "300,000"), ("Miễn phí", "50,000")])
def test_channels_that_are_ten_times_apart_are_not_read(online: str, counter: str) -> None:
    note = "" if online == "Miễn phí" else "Việt Nam Đồng"
    modes = [mode(fee=online, note=note), mode(fee=counter, note="Việt Nam Đồng", channel="counter")]
    found = content(modes)
    assert found.fees == ()
    assert "FEE_CHANNELS_DIFFER" in reasons(found)


@pytest.mark.proof("9.20")
@pytest.mark.parametrize(
    ("online", "counter", "post"),
    [
        ("3 Ngày làm việc", "3 Ngày", "3 Ngày"),
        ("5 Ngày làm việc", "10 Ngày làm việc", "10 Ngày làm việc"),
        ("14 Ngày", "14 Ngày", "20 Ngày"),
    ],
)
def test_limits_of_channels_that_cannot_all_hold_are_not_read(online: str, counter: str, post: str) -> None:
    found = content([mode(online), mode(counter, channel="counter"), mode(post, channel="post")])
    assert [one.time_limit for one in found.modes] == [None, None, None]
    assert "TIME_LIMIT_CHANNELS_DIFFER" in reasons(found)


def test_a_limit_that_is_a_little_shorter_online_is_read() -> None:
    found = content([mode("4 Ngày làm việc"), mode("5 Ngày làm việc", channel="counter")])
    assert all(one.time_limit for one in found.modes)


@pytest.mark.proof("9.20")
def test_two_limits_of_one_channel_are_not_read() -> None:
    found = content([mode("1 Ngày làm việc"), mode("3 Ngày làm việc")])
    assert [one.time_limit for one in found.modes] == [None, None]
    assert "TIME_LIMIT_AMBIGUOUS" in reasons(found)


@pytest.mark.proof("9.20")
@pytest.mark.parametrize(
    "note", ["", "(Không)", "(Không có)", "(Không quy định.)", "(Không thu lệ phí)Nộp tại quầy"]
)
def test_what_is_free_in_the_whole_record_is_read_as_free(note: str) -> None:
    found = content([mode(fee="Miễn phí", note=note)])
    assert [(fee.channel, fee.amount) for fee in found.fees] == [("online", 0)]


@pytest.mark.parametrize(
    ("note", "others"),
    [
        ("(Mức lệ phí cụ thể do Hội đồng nhân dân tỉnh quyết định)", {}),
        ("(Chưa quy định.)", {}),
        ("(Theo quy định của Luật phí và lệ phí)", {}),
        ("(Không có) - Nộp phí khi nhận kết quả", {}),
        ("", {"steps": "Bước 3: nộp lệ phí và nhận kết quả"}),
        ("", {"legal_bases": "Thông tư 85/2019/TT-BTC quy định mức thu, chế độ thu, nộp"}),
        ("", {"components": [{"case": None, "items": [{"name": "Biên lai thu phí"}]}]}),
        ("VNĐ", {}),
    ],
)
def test_what_is_free_but_speaks_of_fees_is_not_read(note: str, others: dict[str, Any]) -> None:
    found = content([mode(fee="Miễn phí", note=note)], **others)
    assert found.fees == ()
    assert reasons(found) & {"FEE_FREE_UNCONFIRMED", "FEE_FREE_CONTRADICTED"}


def test_a_budget_or_a_tuition_is_no_fee_of_the_procedure() -> None:
    steps = "Hỗ trợ kinh phí, học phí và chi phí đào tạo cho ngân hàng phi tín dụng, miễn phí"
    assert content([mode(fee="Miễn phí")], steps=steps).fees


def test_what_one_way_of_filing_says_of_a_condition_holds_for_all() -> None:
    modes = [mode(fee="20,000 VNĐ"), mode(fee="20,000 VNĐ", note="(bằng 50% mức thu)", channel="counter")]
    assert content(modes).fees == ()


@pytest.mark.parametrize("size", [1_000, 100_000])
@pytest.mark.parametrize("piece", ["1", "(", "10 ngày ", "đối với a: 1 ngày\n", "- ", "phí ", "một "])
def test_hostile_prose_takes_time_in_proportion_to_its_length(piece: str, size: int) -> None:
    text = piece * (size // len(piece))
    content([mode("5 Ngày làm việc", "20,000 VNĐ", text), mode(fee="Miễn phí", note=text)], steps=text)
