"""Reads time limits and fees out of the prose of a crawled record. Pure; never guesses.

A text is read when it says one thing and nothing beside it says another. Everything else gives a reason; they
are listed in `catalog.importer`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from catalog.calendar import TimeLimit, TimeUnit
from kit.money import MOST
from kit.text import fold, nfc

FEES_APART = 10  # times: ways of filing that differ so much show a slip of the pen, not a reduction
LIMITS_APART = 2  # times: a limit is the same for all ways of filing, or some days less online

_CURRENCIES = {"Việt Nam Đồng": "vnd", "VNĐ": "vnd", "USD": "usd"}
_UNITS = {"ngay lam viec": TimeUnit.WORKING_DAY, "ngay": TimeUnit.DAY, "gio": TimeUnit.HOUR}
_DAYS = {TimeUnit.DAY, TimeUnit.WORKING_DAY}
_LIMIT = re.compile(r"([1-9]\d{0,2}) (\D+)")
# `05 (năm) ngày làm việc`, `10-15 ngày`, `mười (10) ngày`, `0,5 ngày`; not the `11 tháng` of a date.
_DURATION = re.compile(
    r"(?<!\d)(?:(?P<least>\d{1,4}) ?(?:-|–|den|toi|hoac) ?)?(?P<amount>\d{1,4}(?:[.,/]\d{1,2})?)\)?"
    r" ?(?:\([^()]{1,30}\) ?)?"
    r"(?P<unit>ngay(?: ?\(?lam viec)?|gio|tuan|thang)\b(?! ?\d)"
)
_DATE = re.compile(r"ngay \d{1,2} (?:thang|/)|\d{1,2}/\d{1,2}/\d{4}|\d{1,2}/\d{4}")
_CLOCK = re.compile(
    r"\d{1,2} ?(?:gio|h|:) ?\d{2}\b|\b(?:tu|den|truoc|sau|luc|sang|chieu):? \d{1,2} ?(?:gio|h)\b"
)
_COUNTED_IN_WORDS = re.compile(
    r"(?<!\()\b(?:mot|hai|ba|bon|sau|bay|tam|chin|muoi(?: \w+)?|(?:hai|ba|bon|nam|sau) muoi(?: \w+)?)"
    r" (?:ngay|gio|tuan|thang)\b"
)
_DEPENDS = re.compile(
    r"\bkeo dai\b|\bgia han\b|\btuy (?:theo|thuoc|tung)\b|\bphu thuoc\b|\bchua quy dinh\b"
    r"|\bkhong (?:xac dinh|quy dinh) (?:thoi|cu the)|\bco the (?:dai|lau) hon\b"
    r"|\b(?:tinh|cong|bo sung) them\b"
)
_STEP = re.compile(r"buoc\b|b\d\b")
_RECEIVED = re.compile(
    r"\bnop\b|\bnhan\b"
    r"(?!(?: duoc)? (?:thong bao|bao cao|y kien|ket qua|to trinh|so lieu|phieu|van ban (?!de nghi)))"
)
_OF_AUTHORITY = re.compile(r"\btrong (?:thoi han|thoi gian|vong)\b.*\bke tu (?:ngay|khi)\b.*\bnhan\b")
_OF_APPLICANT = re.compile(r"\b(?:bo sung|hoan thien|sua doi|truoc ngay)\b")
_WHETHER_COMPLETE = re.compile(r"\b(?:hop le|day du|dung quy dinh|khong dat|tu choi|bo sung|sai sot)\b")
_BY_CASE = re.compile(r"\bdoi voi\b|\btruong hop\b|\bneu\b|\brieng\b")
_WITHOUT_REST_DAYS = re.compile(
    r"khong (?:ke|tinh|bao gom)(?: ca)?(?: cac)?(?: thoi gian)? ?ngay (?:nghi|le|thu)|\bngay lam viec\b"
)


@dataclass(frozen=True)
class Note:
    """The note beside a fee: what the fee is counted in (`vnd`, `usd` or empty), what is said of the fee in
    the brackets that follow, and what is said of the way of filing after them."""

    currency: str
    fee: str
    way: str


def part(note: str) -> Note:
    """The parts of a raw note such as `Việt Nam Đồng(/hồ sơ)- Nộp tại quầy`."""
    text = nfc(note).strip()
    currency = ""
    for words, name in _CURRENCIES.items():
        if text.startswith(words):
            currency, text = name, text.removeprefix(words).strip()
            break
    if not text.startswith("("):
        return Note(currency, "", text)
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return Note(currency, text[1:at], text[at + 1 :])
    return Note(currency, text[1:], text[1:])  # it never closes: nobody can tell where it ends


def _folded(text: str) -> str:
    """Folded line by line, since a line often ends what would be a sentence."""
    return "\n".join(fold(line) for line in text.splitlines())


def read_time_limit(text: str, note: str = "", steps: str = "") -> tuple[TimeLimit | None, str]:
    """(limit, "") or (None, reason) of a limit's text, held against its note and the record's steps."""
    text = text.strip()
    if not text:
        return None, "TIME_LIMIT_ABSENT"
    match = _LIMIT.fullmatch(text)
    unit = fold(match[2]) if match else ""
    if match and unit in _UNITS:
        limit = TimeLimit(int(match[1]), _UNITS[unit])
        reason = _against_note(limit, _folded(part(note).way)) or _against_steps(limit, _folded(steps))
        return (None, reason) if reason else (limit, "")
    if match and unit in ("thang", "nam", "tuan"):
        return None, "UNIT_UNSUPPORTED"
    if re.fullmatch(r"[1-9]\d*", text):
        return None, "UNIT_MISSING"
    return None, "AMOUNT_UNREADABLE" if re.match(r"[\d.,]+", text) else "TIME_LIMIT_UNREADABLE"


def _durations(folded: str) -> Iterator[tuple[str, TimeUnit | None, str]]:
    """(amount, unit, sentence) of every duration in a folded text; the unit is None for weeks and months, the
    amount as written, so that `0,5` and `10-15` are amounts that no whole number equals."""
    for sentence in re.split(r"[.;\n](?!\d)| [-+*] ", _CLOCK.sub(" ", _DATE.sub(" ", folded))):
        for found in _DURATION.finditer(sentence):
            unit = "ngay lam viec" if "lam viec" in found["unit"] else found["unit"]
            amount = found["amount"].lstrip("0") or "0"
            least = (found["least"] or "").lstrip("0")
            yield (f"{least}-{amount}" if least else amount), _UNITS.get(unit), sentence


def _against_note(limit: TimeLimit, way: str) -> str:
    found = list(_durations(way))
    unset = re.fullmatch(r"khong quy dinh(?: cu the)?[ .]*", way)
    if unset or _COUNTED_IN_WORDS.search(way) or (found and _DEPENDS.search(way)):
        return "TIME_LIMIT_CONDITIONAL"
    own = str(limit.amount)
    others = [amount for amount, _, _ in found if amount != own]
    if others and not _adds_up(limit.amount, [amount for amount, _, _ in found]):
        return "TIME_LIMIT_CONDITIONAL"
    if any(unit is not limit.unit for _, unit, _ in found):
        return "TIME_LIMIT_CONTRADICTED"
    if limit.unit is TimeUnit.DAY and _WITHOUT_REST_DAYS.search(way):
        return "TIME_LIMIT_CONTRADICTED"
    if any(_BY_CASE.search(sentence) or _begins_later(sentence) for _, _, sentence in found):
        return "TIME_LIMIT_CONDITIONAL"
    return ""


def _begins_later(sentence: str) -> bool:
    """Whether the time runs from something else than the receipt of the dossier."""
    _, since, after = sentence.partition("ke tu")
    return bool(since) and not _RECEIVED.search(after)


def _adds_up(whole: int, amounts: list[str]) -> bool:
    """Whether the amounts are the whole in parts, with or without the whole itself before them."""
    if not all(amount.isdigit() for amount in amounts):
        return False
    numbers = [int(amount) for amount in amounts]
    return sum(numbers) == whole or (numbers[0] == whole and sum(numbers[1:]) == whole)


def _against_steps(limit: TimeLimit, steps: str) -> str:
    """The steps name many durations. One of this very amount contradicts when it always has another unit, or
    all when none has this unit; so does an authority's step that takes longer than the whole, and a limit for
    all where the steps are told case by case."""
    if _told_by_case(steps):
        return "TIME_LIMIT_CONDITIONAL"
    found = list(_durations(steps))
    for amount, unit, sentence in found:
        longer = unit is limit.unit and amount.isdigit() and int(amount) > limit.amount
        if longer and _OF_AUTHORITY.search(sentence) and not _OF_APPLICANT.search(sentence):
            return "TIME_LIMIT_CONTRADICTED"
    same_amount = [unit for amount, unit, _ in found if amount == str(limit.amount)]
    for units in (same_amount, [unit for _, unit, _ in found] if len(found) > 1 else []):
        if units and limit.unit not in units and set(units) <= _DAYS:
            return "TIME_LIMIT_CONTRADICTED"
    return ""


def _told_by_case(steps: str) -> bool:
    """Whether two headings of the steps begin alike, or by `đối với` or `trường hợp`, and have different
    durations under them."""
    cases: dict[str, list[frozenset[str]]] = {}
    for heading, body in _sections(steps):
        if not _WHETHER_COMPLETE.search(heading) and (
            durations := frozenset(a for a, _, _ in _durations(body))
        ):
            words = heading.split()
            begin = "case" if words[0] in ("doi", "truong") else " ".join(words[:3])
            cases.setdefault(begin, []).append(durations)
    return any(len(set(found)) > 1 for found in cases.values())


def _sections(steps: str) -> Iterator[tuple[str, str]]:
    """(heading, text under it) of each line that has a heading: what stands before its first colon."""
    heading, body = "", ""
    for line in steps.replace(": - ", ":\n- ").splitlines():
        bare = line.lstrip("-+*•. 0123456789)")
        bare = bare[2:].strip() if bare[1:2] == ")" else bare
        begin, colon, rest = bare.partition(":")
        if colon and 2 < len(begin.split()) < 60 and not _STEP.match(begin):
            if heading:
                yield heading, body
            heading, body = begin, rest
        else:
            body += "\n" + line
    if heading:
        yield heading, body


_AMOUNT = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d*")
_SUMS = re.compile(r"\d{1,3}(?:[.,]\d{3})+|\d+ ?(?:dong|d|vnd|nghin|trieu|usd)\b")
_FLAT = re.compile(r"(?:dong|vnd)? ?/ ?(?:01 |1 )?(?:ho so|bo ho so|lan|thu tuc)\b")
# Words that may stand in the brackets of a fee that is the same for everybody: what it is called, its amount
# again in words, the circular that sets it. `Theo quy định` is not among them: it sends the reader elsewhere.
_SAME_FOR_ALL = frozenset(
    re.findall(
        r"\w+",
        """
        phi le muc cap lai doi dang ky tham dinh tra kiem giay chung nhan phep the chi hanh nghe lan ho so
        thong tu so ngay thang nam cua bo truong tai chinh cong an phap
        khong mot hai ba bon sau bay tam chin muoi tram nghin ngan trieu chuc lam viet dong vnd d
        """,
    )
)
_SET_ELSEWHERE = re.compile(r"\b(?:hoi dong|uy ban) nhan dan\b.*\b(?:quy|quyet) dinh\b")
# What a fee's brackets may hold beside `Miễn phí` and still mean that nothing is asked.
_NOTHING = re.compile(
    r"(?:khong(?: co| thu(?: phi| le phi)?| phai nop(?: phi| le phi)?| quy dinh)?|mien phi|mien le phi|mien"
    r"|phi, le phi: khong(?: co| quy dinh)?|le phi: khong(?: co| quy dinh)?)?[ .;,:-]*"
)
# Words with `phí` that are no fee of a procedure; any other makes a free procedure doubtful.
_NO_FEE = re.compile(
    r"\b(?:kinh|học|chi|viện|án|lãng|phung|công tác|sinh hoạt|đảng|đoàn|hội|bảo hiểm|tạp) phí\b"
    r"|\bphí (?:bảo hiểm|phạm|hoài)\b|\bmiễn phí\b"
)
_FEE_WORDS = re.compile(
    r"\bphí\b|\bmức thu\b|\bbiên lai\b|\bgiá dịch vụ\b|\bnghĩa vụ tài chính\b|\btiền (?:sử dụng|thuê) đất\b"
    r"|\b(?:nộp|thu) tiền\b|\bchuyển khoản\b|\bh(?:óa|oá) đơn\b|\bđồng ?/|\bđặt cọc\b"
    r"|\bký quỹ\b|\bthanh toán\b"
)


def speaks_of_fees(text: str) -> bool:
    """Whether a text names a fee or how it is paid. Takes the accented text: without accents `phí` is `phi`,
    as in `phi chính phủ`."""
    return bool(_FEE_WORDS.search(_NO_FEE.sub(" ", nfc(text).lower())))


def read_fee(text: str, note: str, *, doubtful: bool = False) -> tuple[int | None, str]:
    """(đồng, "") or (None, reason) of a fee's text and the note beside it; 0 đồng is free of charge.

    `Miễn phí` often stands for 'set by the provincial council'. It is believed when its brackets say that
    nothing is asked, or are not there, and when nothing else speaks of fees: neither the rest of the note
    nor, as `doubtful` says, the rest of the record.
    """
    text = text.strip()
    if not text:
        return None, "FEE_ABSENT"
    said = part(note)
    if fold(text) == "mien phi":
        if not _NOTHING.fullmatch(fold(said.fee)) or said.currency:
            return None, "FEE_FREE_UNCONFIRMED"
        return (None, "FEE_FREE_CONTRADICTED") if doubtful or speaks_of_fees(said.way) else (0, "")
    amount_text = re.sub(r" ?VNĐ$", "", text)
    if said.currency == "usd":
        return None, "CURRENCY_FOREIGN"
    if not said.currency and amount_text == text:
        return None, "CURRENCY_MISSING"
    if not _AMOUNT.fullmatch(amount_text):
        return None, "FEE_UNREADABLE"
    amount = int(amount_text.replace(",", ""))
    if amount < 1000:
        return None, "FEE_TOO_SMALL"
    if amount > MOST:
        return None, "FEE_UNREADABLE"
    rest = _without_laws(fold(said.fee))
    flat = _FLAT.match(rest)
    rest = rest[flat.end() :] if flat else rest
    others = {re.sub(r"\D", "", found) for found in _SUMS.findall(rest)} - {str(amount)}
    way = fold(said.way)
    by_case = not _SAME_FOR_ALL.issuperset(re.findall(r"[a-z]+", rest)) or _BY_CASE.match(way)
    if (
        others
        or by_case
        or "%" in rest
        or "/" in rest
        or _SET_ELSEWHERE.search(way)
        or speaks_of_fees(said.way)
    ):
        return None, "FEE_CONDITIONAL"
    return amount, ""


def _without_laws(folded: str) -> str:
    """The note without numbers of laws and dates, which are neither amounts nor units."""
    bare = re.sub(r"\d{1,2}/\d{1,2}/\d{4}", " ", folded)
    return re.sub(r"\d+/\d{4}(?:/[a-z0-9-]+)?", " ", bare)
