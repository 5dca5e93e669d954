"""Search: ranking, folding, filters and stable pages."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.domain import Case, Component, Content, Level, Procedure, Source
from catalog.search import Index
from kit.errors import InvalidInput

TODAY = date(2026, 11, 23)
NOW = datetime(2026, 11, 23, 5, tzinfo=UTC)
NAMES = {
    "1.001193": "Thủ tục đăng ký khai sinh",
    "1.003583": "Thủ tục đăng ký khai sinh lưu động",
    "1.004884": "Thủ tục đăng ký lại khai sinh",
    "2.000528": "Thủ tục đăng ký khai sinh có yếu tố nước ngoài",
    "2.000635": "Cấp bản sao Trích lục hộ tịch, bản sao Giấy khai sinh",
    "1.000894": "Thủ tục đăng ký kết hôn",
    "1.004222": "Đăng ký thường trú",
    "1.012784": "Tách thửa hoặc hợp thửa đất",
}


def procedure(code: str, name: str, source: Source = Source.IMPORTED, **changes: object) -> Procedure:
    content = replace(Content(name, "Hộ tịch", (Level.COMMUNE,), ()), **changes)  # type: ignore[arg-type]
    made = Procedure(code, revision=1)
    made.put(content, source=source, effective_from=date(2026, 1, 1), effective_to=None, at=NOW)
    return made


def index_of(*procedures: Procedure) -> Index:
    index = Index()
    for each in procedures:
        index.put(each, TODAY)
    return index


INDEX = index_of(*(procedure(code, name) for code, name in NAMES.items()))


def codes(query: str, index: Index = INDEX, size: int = 20) -> list[str]:
    return [entry.code for entry in index.search(query, size=size).entries]


@pytest.mark.parametrize(
    "query", ["khai sinh", "KHAI SINH", "dang ky khai sinh", "Đăng ký khai sinh", "đăng  ký\tkhai sinh!"]
)
def test_birth_registration_comes_first_however_it_is_typed(query: str) -> None:
    assert codes(query)[0] == "1.001193"


def test_an_exact_code_comes_before_everything() -> None:
    assert codes("2.000635") == ["2.000635"]
    assert codes("2.0005") == ["2.000528"]


def test_an_unfinished_last_word_finds_what_it_begins() -> None:
    assert codes("khai s")[0] == "1.001193"
    assert codes("thường tr") == ["1.004222"]


def test_all_words_in_the_name_come_before_words_elsewhere() -> None:
    elsewhere = procedure(
        "9.000001", "Cấp thẻ bảo hiểm", cases=(Case("", "", (Component("c", "Bản sao giấy khai sinh"),)),)
    )
    index = index_of(elsewhere, *(procedure(code, name) for code, name in NAMES.items()))
    assert codes("khai sinh", index)[-1] == "9.000001"


def test_when_nothing_has_all_words_the_nearest_are_found() -> None:
    assert codes("đăng ký khai sinh trực tuyến toàn trình")[:1] == ["1.001193"]
    assert codes("hoàn toàn không liên quan") == []


def test_an_empty_query_lists_all_with_the_curated_first() -> None:
    index = index_of(procedure("9.000001", "Z", Source.CURATED), procedure("1.000001", "A"))
    assert codes("", index) == codes("  ", index) == codes("!?", index) == ["9.000001", "1.000001"]


def test_filters_narrow_and_the_total_counts_what_is_left() -> None:
    index = index_of(
        procedure("1.000001", "Đăng ký A", field="Đất đai", audience=("Doanh nghiệp",)),
        procedure("1.000002", "Đăng ký B", levels=(Level.PROVINCE,), audience=("Công dân Việt Nam",)),
    )
    assert index.search("dang ky").total == 2
    assert [e.code for e in index.search("", field="dat dai").entries] == ["1.000001"]
    assert [e.code for e in index.search("", level=Level.PROVINCE).entries] == ["1.000002"]
    assert [e.code for e in index.search("", audience="doanh nghiệp").entries] == ["1.000001"]
    assert index.search("dang ky", field="Thuế").total == 0
    assert index.fields() == [("Đất đai", 1), ("Hộ tịch", 1)]


def test_only_what_is_in_force_is_found() -> None:
    future = Procedure("1.000001", revision=1)
    content = Content("Mai sau", "Hộ tịch", (Level.COMMUNE,), ())
    future.put(content, source=Source.CURATED, effective_from=date(2027, 1, 1), effective_to=None, at=NOW)
    index = index_of(future)
    assert codes("mai sau", index) == []
    index.put(future, date(2027, 1, 1))
    assert codes("mai sau", index) == ["1.000001"]


def test_a_changed_procedure_is_found_by_its_new_words_only() -> None:
    index = index_of(procedure("1.000001", "Tên cũ"))
    changed = procedure("1.000001", "Danh xưng mới")
    changed.revision = 2
    index.put(changed, TODAY)
    assert codes("tên cũ", index) == []
    assert codes("danh xưng", index) == ["1.000001"]


def test_an_older_revision_that_arrives_late_changes_nothing() -> None:
    newer = procedure("1.000001", "Danh xưng mới")
    newer.revision = 2
    index = index_of(newer, procedure("1.000001", "Tên cũ"))
    assert codes("danh xưng", index) == ["1.000001"]


@pytest.mark.parametrize("token", ["x", "AAAA", "bnVsbA", "WzEsMl0", "W3RydWUsImEiXQ", "é"])
def test_a_token_that_no_page_gave_is_refused(token: str) -> None:
    with pytest.raises(InvalidInput, match="INVALID_PAGE_TOKEN"):
        INDEX.search("", token=token)


@given(st.integers(1, 9), st.sampled_from(["", "khai sinh", "dang ky", "s"]))
def test_pages_together_are_the_whole_list_once(size: int, query: str) -> None:
    whole, token, pages = codes(query, size=100), "", []
    while True:
        hits = INDEX.search(query, size=size, token=token)
        assert hits.total == len(whole)
        pages += [entry.code for entry in hits.entries]
        token = hits.next_token
        if not token:
            break
    assert pages == whole


def test_a_page_goes_on_after_its_last_entry_even_when_that_one_is_gone() -> None:
    index = index_of(*(procedure(f"1.00000{n}", f"Thủ tục số {n}") for n in range(6)))
    first = index.search("", size=3)
    gone = procedure("1.000002", "x")
    gone.versions, gone.revision = [], 2
    index.put(gone, TODAY)
    rest = index.search("", size=3, token=first.next_token)
    assert [entry.code for entry in rest.entries] == ["1.000003", "1.000004", "1.000005"]


LETTERS = st.text("aăâbcdđeêghiklmnoôơpqrstuưvxyáàảãạếềểễệ ", min_size=1, max_size=30)


@given(LETTERS)
def test_accents_case_and_composition_never_matter(text: str) -> None:
    index = index_of(procedure("1.000001", f"Mẫu {text}"), procedure("1.000002", "Khác hẳn"))
    plain = codes(text, index)
    for variant in (text.upper(), unicodedata.normalize("NFD", text), f"  {text}  "):
        assert codes(variant, index) == plain
    bare = "".join(
        c for c in unicodedata.normalize("NFD", text.replace("đ", "d")) if not unicodedata.combining(c)
    )
    assert codes(bare, index) == plain


@given(st.text(max_size=100))
def test_any_query_gets_an_answer(query: str) -> None:
    assert INDEX.search(query).total <= len(INDEX)
