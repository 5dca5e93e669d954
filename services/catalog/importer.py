"""Reads one record of a crawl of the national procedure database into a version's content. Pure; never
guesses.

What is read: limits that name their amount and unit, fees in đồng whose amount is whole and unconditional,
and that nothing is asked, each where nothing else in the record says otherwise. All other texts stay raw in
the mode and are listed as problems:

| reason | the text |
|---|---|
| TIME_LIMIT_ABSENT | no limit at all |
| UNIT_MISSING | a bare number such as `1` |
| UNIT_UNSUPPORTED | months |
| AMOUNT_UNREADABLE | `120,000`, `1.5 Ngày làm việc`, `0` |
| TIME_LIMIT_CONDITIONAL | the note or the steps name other durations, by case or as an extension |
| TIME_LIMIT_CONTRADICTED | the note or the steps name the same amount in another unit |
| TIME_LIMIT_AMBIGUOUS | two ways of filing through one channel take differently long |
| TIME_LIMIT_CHANNELS_DIFFER | post and counter differ, online is twice as fast, or a unit is another |
| TIME_LIMIT_UNREADABLE | anything else |
| FEE_ABSENT | no fee text |
| FEE_FREE_UNCONFIRMED | `Miễn phí` whose note names who sets the fee, such as the provincial council |
| FEE_FREE_CONTRADICTED | `Miễn phí` in a record that speaks of a fee or how to pay it |
| FEE_TOO_SMALL | below 1.000 đ: `100 VNĐ` usually stands for 100.000 đ |
| CURRENCY_FOREIGN, CURRENCY_MISSING | a price not in đồng, or not said in what |
| FEE_CONDITIONAL | the note names a unit, a share, a period or another amount |
| FEE_AMBIGUOUS | two ways of filing through one channel cost differently |
| FEE_CHANNELS_DIFFER | the channels are apart by ten times, or free and not free |
| FEE_UNREADABLE | anything else |
| LEVEL_UNKNOWN, CHANNEL_UNKNOWN, VALUE_UNKNOWN | a value outside its list |
| TYPE_UNEXPECTED | a value of another type |
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from catalog.calendar import TimeLimit
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
from catalog.prose import FEES_APART, LIMITS_APART, read_fee, read_time_limit, speaks_of_fees
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
# What is unclear of one way of filing is unclear of all: only the note of one of them says so.
_UNCLEAR = frozenset(("FEE_CONDITIONAL", "FEE_FREE_UNCONFIRMED", "FEE_FREE_CONTRADICTED"))


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
        reasons: set[str] = set()
        steps = _string(self._raw.get("steps"))
        # The ways of filing mostly repeat one text, and holding it against long steps takes time.
        read_limit = cache(lambda text, note: read_time_limit(text, note, steps))
        doubtful = any(speaks_of_fees(text) for text in _texts_in({**self._raw, "modes": None}))
        for path, raw in self._objects("modes"):
            channel = _CHANNELS.get(_string(raw.get("channel")))
            if channel is None:
                self._flag(f"{path}.channel", raw.get("channel"), "CHANNEL_UNKNOWN")
                continue
            limit_text, fee_text, note = (_string(raw.get(key)) for key in ("time_limit", "fee", "note"))
            limit, reason = read_limit(limit_text, note)
            if reason:
                self._flag(f"{path}.time_limit", raw.get("time_limit"), reason)
            price, reason = read_fee(fee_text, note, doubtful=doubtful)
            if reason:
                self._flag(f"{path}.fee", raw.get("fee"), reason)
                reasons.add(reason)
            prices.setdefault(channel, set()).add(price)
            modes.append(Mode(channel, limit, limit_text, fee_text, note))
        if unclear := reasons & _UNCLEAR:
            read = {amount for amounts in prices.values() for amount in amounts if amount is not None}
            for reason in sorted(unclear) if read else ():
                self._flag("modes.fee", sorted(read), reason)
            return self._limits_that_agree(modes), ()
        return self._limits_that_agree(modes), self._fees_that_agree(prices)

    def _limits_that_agree(self, modes: list[Mode]) -> tuple[Mode, ...]:
        limits: dict[Channel, set[TimeLimit | None]] = {}
        for mode in modes:
            limits.setdefault(mode.channel, set()).add(mode.time_limit)
        torn = {channel for channel, found in limits.items() if len(found) > 1}
        for channel in torn:
            self._flag(
                f"modes.{channel}.time_limit", sorted(map(str, limits[channel])), "TIME_LIMIT_AMBIGUOUS"
            )
        found = {limit for several in limits.values() for limit in several if limit}
        amounts = [limit.amount for limit in found]
        units_differ = len({limit.unit for limit in found}) > 1
        on_paper = limits.get(Channel.POST, set()) | limits.get(Channel.COUNTER, set())
        paper_differs = len(on_paper - {None}) > 1
        if units_differ or paper_differs or (found and max(amounts) >= LIMITS_APART * min(amounts)):
            told = sorted({mode.raw_time_limit for mode in modes})
            self._flag("modes.time_limit", told, "TIME_LIMIT_CHANNELS_DIFFER")
            torn = set(limits)
        return tuple(replace(mode, time_limit=None) if mode.channel in torn else mode for mode in modes)

    def _fees_that_agree(self, prices: Mapping[Channel, set[int | None]]) -> tuple[FeeRule, ...]:
        fees: dict[Channel, int] = {}
        for channel, amounts in prices.items():
            if len(amounts) > 1:
                read = sorted(amount for amount in amounts if amount is not None)
                self._flag(f"modes.{channel}.fee", read, "FEE_AMBIGUOUS")
            elif (amount := next(iter(amounts))) is not None:
                fees[channel] = amount
        if fees and max(fees.values()) >= FEES_APART * min(fees.values()) and max(fees.values()) > 0:
            self._flag("modes.fee", sorted(set(fees.values())), "FEE_CHANNELS_DIFFER")
            return ()
        return tuple(FeeRule(FEE_NAME, channel, amount) for channel, amount in fees.items())

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


def _string(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _line(text: str) -> str:
    return " ".join(text.split())


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts_in(value: Any) -> Iterator[str]:
    """Every text in a JSON value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts_in(inner)
