"""Reads one record of a crawl of the national procedure database into a version's content. Pure; never
guesses.

What is read: limits that name their amount and unit, and fees in đồng whose amount is whole and
unconditional. All other texts stay raw in the mode and are listed as problems:

| reason | the text |
|---|---|
| TIME_LIMIT_ABSENT | no limit at all |
| UNIT_MISSING | a bare number such as `1` |
| UNIT_UNSUPPORTED | months |
| AMOUNT_UNREADABLE | `120,000`, `1.5 Ngày làm việc`, `0` |
| TIME_LIMIT_UNREADABLE | anything else |
| FEE_ABSENT | no fee text |
| FEE_FREE_UNCONFIRMED | `Miễn phí`, which often means 'set by the provincial council' |
| FEE_TOO_SMALL | below 1.000 đ: `100 VNĐ` usually stands for 100.000 đ |
| CURRENCY_FOREIGN, CURRENCY_MISSING | a price not in đồng, or not said in what |
| FEE_CONDITIONAL | the note names a unit, a share, a period or another amount |
| FEE_AMBIGUOUS | two ways of filing through one channel cost differently |
| FEE_UNREADABLE | anything else |
| LEVEL_UNKNOWN, CHANNEL_UNKNOWN, VALUE_UNKNOWN | a value outside its list |
| TYPE_UNEXPECTED | a value of another type |
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from catalog.calendar import TimeLimit, TimeUnit
from catalog.domain import (
    CODE,
    Case,
    Channel,
    Component,
    Content,
    FeeRule,
    Level,
    Mode,
    Problem,
    Result,
)
from kit.money import MOST
from kit.text import fold, nfc

FEE_NAME = "Phí, lệ phí"
_KEYS = frozenset(
    (
        *(
            "code",
            "name",
            "field",
            "decision",
            "levels",
            "kind",
            "audience",
            "ministry",
            "competent_authority",
        ),
        *("coordinating_agency", "steps", "modes", "components", "legal_bases", "conditions", "results"),
    )
)
_LEVELS = {"cap bo": Level.MINISTRY, "cap tinh": Level.PROVINCE, "cap xa": Level.COMMUNE}
_LEVELS["co quan khac"] = Level.OTHER
_CHANNELS = {"online": Channel.ONLINE, "counter": Channel.COUNTER, "post": Channel.POST}
_UNITS = {"ngay lam viec": TimeUnit.WORKING_DAY, "ngay": TimeUnit.DAY, "gio": TimeUnit.HOUR}
_LIMIT = re.compile(r"([1-9]\d{0,2}) (\D+)")
_AMOUNT = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d*")
_DONG = ("viet nam dong", "vnd")
_SUMS = re.compile(r"\d{1,3}(?:[.,]\d{3})+|\d+ ?(?:dong|d|vnd|nghin|trieu|usd)\b")
_CONDITIONS = re.compile(
    r"%|\bphan tram\b|\(?/ ?\w|\bmien (?:phi|le phi)|\bgiam\b|\btu (?:ngay|trang)\b|\bke tu\b|\bden het\b"
    r"|\btoi da\b|\btoi thieu\b|\bmoi\b|\btrang\b|\bhoi dong nhan dan\b|\bdong ?/|\btren \d|\b1 lan\b"
    r"|\bdoi voi\b|\btruong hop\b|\bkhi (?:mat|hong)\b|\bap dung\b"
)


@dataclass(frozen=True)
class Record:
    """A record that was read."""

    code: str
    content: Content


@dataclass(frozen=True)
class Refused:
    """A record that is none: not JSON, or without code, name or field."""

    code: str
    problem: Problem


def read(line: str) -> Record | Refused:
    """The content of one record given as JSON text."""
    try:
        raw = json.loads(nfc(line))
    except (ValueError, RecursionError):
        return Refused("", Problem("", line[:200], "NOT_JSON"))
    if not isinstance(raw, dict):
        return Refused("", Problem("", line[:200], "NOT_AN_OBJECT"))
    code = raw.get("code")
    if not isinstance(code, str) or not CODE.fullmatch(code):
        return Refused(str(code or "")[:60], Problem("code", str(code)[:200], "CODE_MALFORMED"))
    for key in ("name", "field"):
        value = raw.get(key)
        if not isinstance(value, str) or not value.strip() or len(value) > 2000:
            return Refused(code, Problem(key, str(value)[:200], "REQUIRED"))
    return Record(code, _Reader(raw).content())


class _Reader:
    """Reads fields and gathers what it could not read."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw
        self._problems: list[Problem] = []

    def content(self) -> Content:
        levels = [self._level(index, text) for index, text in enumerate(self._texts("levels"))]
        modes, fees = self._modes()
        for key in sorted(self._raw.keys() - _KEYS):
            self._flag(key, self._raw[key], "VALUE_UNKNOWN")
        return Content(
            name=_line(self._raw["name"]),
            field=_line(self._raw["field"]),
            levels=tuple(dict.fromkeys(level for level in levels if level)),
            modes=modes,
            fees=fees,
            decision=self._text("decision"),
            kind=self._text("kind"),
            audience=tuple(self._texts("audience")),
            ministry=self._text("ministry"),
            competent_authority=self._text("competent_authority"),
            coordinating_agency=self._text("coordinating_agency"),
            steps_text=self._text("steps"),
            cases=self._cases(),
            results=tuple(
                Result(_string(result.get("name")), _string(result.get("code")))
                for _, result in self._objects("results")
            ),
            legal_bases=tuple(text for text in [self._text("legal_bases")] if text),
            conditions=self._text("conditions"),
            problems=tuple(self._problems),
        )

    def _modes(self) -> tuple[tuple[Mode, ...], tuple[FeeRule, ...]]:
        modes: list[Mode] = []
        prices: dict[Channel, set[int | None]] = {}
        for path, raw in self._objects("modes"):
            channel = _CHANNELS.get(_string(raw.get("channel")))
            if channel is None:
                self._flag(f"{path}.channel", raw.get("channel"), "CHANNEL_UNKNOWN")
                continue
            limit_text, fee_text, note = (_string(raw.get(key)) for key in ("time_limit", "fee", "note"))
            limit, reason = read_time_limit(limit_text)
            if reason:
                self._flag(f"{path}.time_limit", raw.get("time_limit"), reason)
            price, reason = read_fee(fee_text, note)
            if reason:
                self._flag(f"{path}.fee", raw.get("fee"), reason)
            prices.setdefault(channel, set()).add(price)
            modes.append(Mode(channel, limit, limit_text, fee_text, note))
        fees = []
        for channel, amounts in prices.items():
            if len(amounts) > 1:
                self._flag(f"modes.{channel}.fee", sorted(a for a in amounts if a), "FEE_AMBIGUOUS")
                continue
            (amount,) = amounts
            if amount is not None:
                fees.append(FeeRule(FEE_NAME, channel, amount))
        return tuple(modes), tuple(fees)

    def _cases(self) -> tuple[Case, ...]:
        cases = []
        for number, (path, raw) in enumerate(self._objects("components"), 1):
            items = [item for item in _list(raw.get("items")) if isinstance(item, dict)]
            if len(items) != len(_list(raw.get("items"))):
                self._flag(f"{path}.items", raw.get("items"), "TYPE_UNEXPECTED")
            components = tuple(
                Component(
                    id=f"c{number}.{index}",
                    name=_string(item.get("name")),
                    originals=self._count(f"{path}.items[{index - 1}].originals", item.get("originals")),
                    copies=self._count(f"{path}.items[{index - 1}].copies", item.get("copies")),
                    code=_string(item.get("code")),
                )
                for index, item in enumerate(items, 1)
            )
            cases.append(Case(f"k{number}", _string(raw.get("case")), components))
        return tuple(cases)

    def _level(self, index: int, text: str) -> Level | None:
        level = _LEVELS.get(fold(text))
        if level is None:
            self._flag(f"levels[{index}]", text, "LEVEL_UNKNOWN")
        return level

    def _count(self, path: str, value: Any) -> int:
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1000:
            self._flag(path, value, "VALUE_UNKNOWN")
            return 0
        return value

    def _text(self, key: str) -> str:
        value = self._raw.get(key)
        if value is not None and not isinstance(value, str):
            self._flag(key, value, "TYPE_UNEXPECTED")
        return _string(value)

    def _texts(self, key: str) -> list[str]:
        values = self._raw.get(key)
        texts = [_line(value) for value in _list(values) if isinstance(value, str) and value.strip()]
        if values is not None and (not isinstance(values, list) or len(texts) != len(values)):
            self._flag(key, values, "TYPE_UNEXPECTED")
        return texts

    def _objects(self, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
        values = self._raw.get(key)
        if values is not None and not isinstance(values, list):
            self._flag(key, values, "TYPE_UNEXPECTED")
        for index, value in enumerate(_list(values)):
            if isinstance(value, dict):
                yield f"{key}[{index}]", value
            else:
                self._flag(f"{key}[{index}]", value, "TYPE_UNEXPECTED")

    def _flag(self, path: str, raw: Any, reason: str) -> None:
        text = "" if raw is None else raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)
        self._problems.append(Problem(path, text[:500], reason))


def read_time_limit(text: str) -> tuple[TimeLimit | None, str]:
    """(limit, "") or (None, reason) of a limit's text."""
    text = text.strip()
    if not text:
        return None, "TIME_LIMIT_ABSENT"
    match = _LIMIT.fullmatch(text)
    unit = fold(match[2]) if match else ""
    if match and unit in _UNITS:
        return TimeLimit(int(match[1]), _UNITS[unit]), ""
    if match and unit in ("thang", "nam", "tuan"):
        return None, "UNIT_UNSUPPORTED"
    if re.fullmatch(r"[1-9]\d*", text):
        return None, "UNIT_MISSING"
    return None, "AMOUNT_UNREADABLE" if re.match(r"[\d.,]+", text) else "TIME_LIMIT_UNREADABLE"


def read_fee(text: str, note: str) -> tuple[int | None, str]:
    """(đồng, "") or (None, reason) of a fee's text and the note beside it."""
    text = text.strip()
    if not text:
        return None, "FEE_ABSENT"
    if fold(text) == "mien phi":
        return None, "FEE_FREE_UNCONFIRMED"
    folded = fold(note)
    amount_text = re.sub(r" ?VNĐ$", "", text)
    currency = "vnd" if amount_text != text else next((c for c in _DONG if folded.startswith(c)), "")
    if folded.startswith("usd"):
        return None, "CURRENCY_FOREIGN"
    if not currency:
        return None, "CURRENCY_MISSING"
    if not _AMOUNT.fullmatch(amount_text):
        return None, "FEE_UNREADABLE"
    amount = int(amount_text.replace(",", ""))
    if amount < 1000:
        return None, "FEE_TOO_SMALL"
    if amount > MOST:
        return None, "FEE_UNREADABLE"
    rest = folded.removeprefix(currency)
    others = {re.sub(r"\D", "", found) for found in _SUMS.findall(_without_laws(rest))} - {str(amount)}
    if others or _CONDITIONS.search(_without_laws(rest)):
        return None, "FEE_CONDITIONAL"
    return amount, ""


def _without_laws(folded: str) -> str:
    """The note without numbers of laws and dates, which are neither amounts nor units."""
    bare = re.sub(r"\d+/\d{4}(?:/[a-z0-9-]+)?", " ", folded)
    return re.sub(r"\d{1,2}/\d{1,2}/\d{4}", " ", bare)


def _string(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _line(text: str) -> str:
    return " ".join(text.split())


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
