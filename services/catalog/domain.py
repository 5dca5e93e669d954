"""A procedure (thủ tục hành chính) in its versions: what is asked, how long it takes and what it costs.

Editing makes a new version with the date it takes effect; a version never changes once it is there. On any
date the latest version that has begun governs, and it is in force unless it has ended.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from catalog.calendar import TimeLimit
from kit.errors import FailedPrecondition, FieldViolation, InvalidInput, NotFound
from kit.money import LONGEST_NAME, MOST, MOST_LINES, MOST_UNITS, wrong_items

MAX_VERSIONS = 200
MOST_FEES = 200
MOST_UNIT_NAMES = 20
LONGEST_UNIT = 40
MAX_FORM = 256 * 1024
CODE = re.compile(r"\d\.\d{6}(\.\d{3}\.\d{2}\.\d{2}\.[A-Z]\d{2,3})?")
STEP_ROLES = ("reception", "examiner", "leader", "clerk")


class Level(StrEnum):
    """Who decides: since 2025-07 there is no district."""

    MINISTRY = "ministry"
    PROVINCE = "province"
    COMMUNE = "commune"
    OTHER = "other"


class Channel(StrEnum):
    """A way of filing; a fee of ANY holds for all of them."""

    ANY = "any"
    ONLINE = "online"
    COUNTER = "counter"
    POST = "post"


class Source(StrEnum):
    """Where a version comes from: kept by us with form and steps; put by an official for reading only; or
    read from a crawl."""

    CURATED = "curated"
    EDITED = "edited"
    IMPORTED = "imported"


@dataclass(frozen=True)
class Mode:
    """One way of filing. `time_limit` is None when the record's text (kept raw) could not be read."""

    channel: Channel
    time_limit: TimeLimit | None = None
    raw_time_limit: str = ""
    raw_fee: str = ""
    note: str = ""


class FeeNeededBy(StrEnum):
    """From when on a dossier does not go on without its fee, also when that has been given back."""

    UNSAID = ""  # as RESULT
    EXAMINATION = "examination"
    RESULT = "result"
    NEVER = "never"


@dataclass(frozen=True)
class FeeRule:
    """A price in đồng. Rules of one name and channel are its tiers.

    `unit` is empty for a flat fee, else what is counted: `page`, or `page/copy` for pages in each of the
    copies. `amount` is the price of each unit from `from_unit` on; `cap` the most that the name may come to,
    per copy. `percent_of_counter` (1-100) instead takes that share of the counter fee of the same name.
    """

    name: str
    channel: Channel
    amount: int = 0
    unit: str = ""
    from_unit: int = 1
    cap: int = 0
    percent_of_counter: int = 0
    valid_from: date | None = None
    valid_to: date | None = None

    def holds(self, channel: Channel, on: date) -> bool:
        """Whether the rule is for that channel by name and valid on that date."""
        return self.channel is channel and _covers(self.valid_from, self.valid_to, on)


@dataclass(frozen=True)
class Component:
    """A paper that the dossier needs; `document_types` are the vault's types that fit, empty for any."""

    id: str
    name: str
    originals: int = 0
    copies: int = 0
    required: bool = False
    code: str = ""
    document_types: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """Components asked for in one case; those of the case with an empty id are asked for in every case."""

    id: str
    name: str
    components: tuple[Component, ...] = ()


@dataclass(frozen=True)
class Step:
    """A step of processing; an empty agency is the receiving one. `working_hours` 0: not fixed."""

    id: str
    name: str
    name_en: str
    role: str
    agency: str = ""
    working_hours: int = 0


@dataclass(frozen=True)
class Result:
    """What the procedure produces, and its document type in the vault."""

    name: str
    code: str = ""
    document_type: str = ""


@dataclass(frozen=True)
class Problem:
    """A text that could not be read without guessing: where, the raw text, and a stable reason."""

    field: str
    raw: str
    reason: str


@dataclass(frozen=True)
class Content:
    """All that a version says. `form` is a JSON Schema (2020-12) as canonical JSON text, empty for none."""

    name: str
    field: str
    levels: tuple[Level, ...]
    modes: tuple[Mode, ...]
    name_en: str = ""
    decision: str = ""
    kind: str = ""
    audience: tuple[str, ...] = ()
    ministry: str = ""
    competent_authority: str = ""
    coordinating_agency: str = ""
    steps_text: str = ""
    fees: tuple[FeeRule, ...] = ()
    cases: tuple[Case, ...] = ()
    steps: tuple[Step, ...] = ()
    results: tuple[Result, ...] = ()
    legal_bases: tuple[str, ...] = ()
    conditions: str = ""
    form: str = ""
    refundable_on_rejection: bool = False
    fee_needed_by: FeeNeededBy = FeeNeededBy.UNSAID
    problems: tuple[Problem, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what is set: the same words give the same one, also after a field is added here."""
        plain = json.dumps(_set(self), ensure_ascii=False, sort_keys=True, default=str)
        return hashlib.sha256(plain.encode()).hexdigest()


@dataclass(frozen=True)
class Version:
    """One version, numbered from 1. Dates are inclusive. `shipped`: from the project's own files."""

    number: int
    source: Source
    effective_from: date
    effective_to: date | None
    published: datetime
    fingerprint: str
    content: Content
    shipped: bool = False


@dataclass(frozen=True)
class Published:
    """Event: a version was put."""

    code: str
    version: int
    name: str
    effective_from: date


@dataclass
class Procedure:
    """The aggregate; its id is its code."""

    id: str
    versions: list[Version] = field(default_factory=list)
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    def in_force(self, on: date) -> Version | None:
        """The version in force on a date, if any: the latest begun one, unless it has ended."""
        begun = [version for version in self.versions if version.effective_from <= on]
        if not begun:
            return None
        latest = max(begun, key=lambda version: version.number)
        return latest if _covers(None, latest.effective_to, on) else None

    def version(self, number: int) -> Version:
        """The version of that number. Raises NotFound."""
        if not 1 <= number <= len(self.versions):
            raise NotFound("PROCEDURE_NOT_FOUND", "no such version", procedure=f"{self.id}@{number}")
        return self.versions[number - 1]

    def put(
        self,
        content: Content,
        *,
        source: Source,
        effective_from: date,
        effective_to: date | None,
        at: datetime,
        shipped: bool = False,
    ) -> bool:
        """Adds a version unless the latest one says the same; answers whether it did.

        `shipped` content comes from the project's files at every start: it adds nothing that an earlier
        version
        said, and nothing any more once an official has put a version.
        """
        fingerprint = content.fingerprint
        kept = [version for version in self.versions if version.source is not Source.IMPORTED]
        if shipped and kept and (not kept[-1].shipped or any(v.fingerprint == fingerprint for v in kept)):
            return False
        said = (source, fingerprint, effective_from, effective_to)
        if said in [(v.source, v.fingerprint, v.effective_from, v.effective_to) for v in self.versions[-1:]]:
            return False
        if len(self.versions) >= MAX_VERSIONS:
            raise FailedPrecondition("TOO_MANY_VERSIONS", f"at most {MAX_VERSIONS}", procedure=self.id)
        if effective_to is not None and effective_to < effective_from:
            raise InvalidInput(violations=[FieldViolation("procedure.effective_to", "BEFORE_EFFECTIVE_FROM")])
        number = len(self.versions) + 1
        self.versions.append(
            Version(number, source, effective_from, effective_to, at, fingerprint, content, shipped)
        )
        self.events.append(Published(self.id, number, content.name, effective_from))
        return True

    def take_import(self, content: Content, *, on: date, at: datetime) -> ImportOutcome:
        """Merges a crawled record. What people keep wins: while a version of theirs is in force or yet to
        come, nothing changes; else the record becomes a version from `on`, unless the last imported one says
        the same."""
        governing = [self.in_force(on), *(v for v in self.versions if v.effective_from > on)]
        if any(version is not None and version.source is not Source.IMPORTED for version in governing):
            return ImportOutcome.KEPT_CURATED
        imported = [version for version in self.versions if version.source is Source.IMPORTED]
        if imported and imported[-1].fingerprint == content.fingerprint:
            return ImportOutcome.UNCHANGED
        first = not self.versions
        self.put(content, source=Source.IMPORTED, effective_from=on, effective_to=None, at=at)
        return ImportOutcome.CREATED if first else ImportOutcome.UPDATED


class ImportOutcome(StrEnum):
    """What an import did to one record."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    KEPT_CURATED = "kept_curated"
    REFUSED = "refused"


@dataclass(frozen=True)
class FeeLine:
    """One line of a quote: `amount` is the line's total in đồng."""

    name: str
    amount: int
    quantity: int


@dataclass(frozen=True)
class Quote:
    """What a filing costs; `known` is false when the fee could not be read and an official must set it."""

    lines: tuple[FeeLine, ...]
    known: bool

    @property
    def total(self) -> int:
        """The sum of the lines in đồng."""
        return sum(line.amount for line in self.lines)


def quote(fees: Sequence[FeeRule], channel: Channel, quantities: Mapping[str, int], on: date) -> Quote:
    """The fee of one filing through a channel on a date.

    A name's rules for the channel win over its rules for ANY. Units not given: `copy` is 1, any other is an
    InvalidInput (violation `quantities.<unit>`), never a guess. What costs nothing has no line. No valid
    rule at
    all: not known. Raises InvalidInput AMOUNT_NOT_CHARGEABLE for more than can be charged at once.
    """
    if len(quantities) > MOST_UNIT_NAMES:
        raise InvalidInput(
            violations=[FieldViolation("quantities", "TOO_MANY", f"at most {MOST_UNIT_NAMES}")]
        )
    wrong = [
        FieldViolation(f"quantities.{unit[:40]}", "OUT_OF_RANGE", "1 to 100000")
        for unit, count in quantities.items()
        if not 1 <= count <= 100_000
    ]
    if wrong:
        raise InvalidInput(violations=wrong)
    lines, known = [], False
    for name in dict.fromkeys(rule.name for rule in fees):
        rules = _rules(fees, name, channel, on)
        if not rules:
            continue
        share = rules[0].percent_of_counter
        if share:
            rules = [rule for rule in _rules(fees, name, Channel.COUNTER, on) if not rule.percent_of_counter]
            if not rules:
                return Quote((), known=False)
        amount, quantity = _price(rules, quantities)
        known = True
        if amount := (amount * share + 50) // 100 if share else amount:
            lines.append(FeeLine(name, amount, quantity))
    if lines and (errors := wrong_items(lines)):
        raise InvalidInput("AMOUNT_NOT_CHARGEABLE", violations=errors)
    return Quote(tuple(lines), known)


def _rules(fees: Sequence[FeeRule], name: str, channel: Channel, on: date) -> list[FeeRule]:
    named = [rule for rule in fees if rule.name == name]
    return [rule for rule in named if rule.holds(channel, on)] or [
        rule for rule in named if rule.holds(Channel.ANY, on)
    ]


def _price(rules: Sequence[FeeRule], quantities: Mapping[str, int]) -> tuple[int, int]:
    unit = rules[0].unit
    if not unit:
        return sum(rule.amount for rule in rules), 1
    counted, _, repeated = unit.partition("/")
    count = _quantity(counted, quantities)
    times = _quantity(repeated, quantities) if repeated else 1
    tiers = sorted(rules, key=lambda rule: rule.from_unit)
    amount = 0
    for tier, following in zip(tiers, [*tiers[1:], None], strict=True):
        last = count if following is None else min(count, following.from_unit - 1)
        amount += tier.amount * max(0, last - tier.from_unit + 1)
    caps = [rule.cap for rule in rules if rule.cap]
    return min([amount, *caps]) * times, count * times


def _quantity(unit: str, quantities: Mapping[str, int]) -> int:
    if unit in quantities:
        return quantities[unit]
    if unit == "copy":
        return 1
    raise InvalidInput(violations=[FieldViolation(f"quantities.{unit}", "REQUIRED", f"how many {unit}")])


def check(code: str, content: Content, *, curated: bool, form_faults: Sequence[str] = ()) -> None:
    """Refuses content that could not be served. Raises InvalidInput with every violation found.

    `form_faults` is what is wrong with its form as a JSON Schema. Curated content must be ready to file: a
    limit for each way of filing, at least one step, and a form.
    """
    found: list[FieldViolation] = []

    def wrong(path: str, reason: str, text: str = "") -> None:
        found.append(FieldViolation(f"procedure.{path}", reason, text))

    if not CODE.fullmatch(code):
        wrong("code", "MALFORMED", "such as 1.001193 or 1.001193.000.00.00.H32")
    for name in ("name", "field"):
        if not getattr(content, name).strip():
            wrong(name, "REQUIRED")
    if len(content.name) > 2000:
        wrong("name", "TOO_LONG", "at most 2000 characters")
    if not content.levels:
        wrong("levels", "REQUIRED")
    for index, mode in enumerate(content.modes):
        if mode.channel is Channel.ANY:
            wrong(f"modes[{index}].channel", "REQUIRED")
        if mode.time_limit and not 0 <= mode.time_limit.amount <= 3660:
            wrong(f"modes[{index}].time_limit.amount", "OUT_OF_RANGE")
        if curated and mode.time_limit is None:
            wrong(f"modes[{index}].time_limit", "REQUIRED")
    if len(content.fees) > MOST_FEES or len({rule.name for rule in content.fees}) > MOST_LINES:
        wrong("fees", "TOO_MANY", f"at most {MOST_FEES}, of {MOST_LINES} names")
    for index, rule in enumerate(content.fees[:MOST_FEES]):
        for reason in _fee_errors(rule, content.fees):
            wrong(f"fees[{index}]", reason)
    for index, step in enumerate(content.steps):
        if step.role not in STEP_ROLES:
            wrong(f"steps[{index}].role", "UNKNOWN", ", ".join(STEP_ROLES))
        if step.working_hours < 0:
            wrong(f"steps[{index}].working_hours", "OUT_OF_RANGE")
    parts: dict[str, list[str]] = {
        "steps": [step.id for step in content.steps],
        "cases": [case.id for case in content.cases],
        "components": [component.id for case in content.cases for component in case.components],
    }
    for part, ids in parts.items():
        if len(set(ids)) != len(ids) or ("" in ids and part != "cases"):
            wrong(part, "IDS_NOT_UNIQUE", "every id is given and used once")
    if len(content.form.encode()) > MAX_FORM:
        wrong("form", "TOO_LONG", f"at most {MAX_FORM} bytes")
    for text in form_faults:
        wrong("form", "NOT_A_SCHEMA", text)
    if curated:
        for name in ("modes", "steps", "form"):
            if not getattr(content, name):
                wrong(name, "REQUIRED", "a curated procedure can be filed")
    if found:
        raise InvalidInput(violations=found)


def _fee_errors(rule: FeeRule, fees: Sequence[FeeRule]) -> list[str]:
    reasons = []
    if not rule.name.strip():
        reasons.append("NAME_REQUIRED")
    if len(rule.name) > LONGEST_NAME or len(rule.unit) > LONGEST_UNIT:
        reasons.append("TOO_LONG")
    negative = rule.amount < 0 or rule.cap < 0
    if negative or not 1 <= rule.from_unit <= MOST_UNITS or not 0 <= rule.percent_of_counter <= 100:
        reasons.append("OUT_OF_RANGE")
    if rule.amount > MOST or rule.cap > MOST:
        reasons.append("AMOUNT_TOO_LARGE")
    if rule.valid_from and rule.valid_to and rule.valid_to < rule.valid_from:
        reasons.append("ENDS_BEFORE_IT_BEGINS")
    if rule.percent_of_counter and not any(
        other.name == rule.name and other.channel is Channel.COUNTER and not other.percent_of_counter
        for other in fees
    ):
        reasons.append("NO_COUNTER_FEE")
    tiers = [other for other in fees if (other.name, other.channel) == (rule.name, rule.channel)]
    if any(other.unit != rule.unit for other in tiers if _overlap(other, rule)):
        reasons.append("UNITS_DIFFER")
    if sum(other.from_unit == rule.from_unit for other in tiers if _overlap(other, rule)) > 1:
        reasons.append("TIERS_OVERLAP")
    return reasons


def _overlap(one: FeeRule, other: FeeRule) -> bool:
    return (one.valid_from or date.min) <= (other.valid_to or date.max) and (
        other.valid_from or date.min
    ) <= (one.valid_to or date.max)


def _set(value: Any) -> Any:
    if is_dataclass(value):
        return {name: _set(inner) for name, inner in vars(value).items() if inner not in ("", 0, None, ())}
    return [_set(inner) for inner in value] if isinstance(value, tuple) else value


def _covers(begin: date | None, end: date | None, on: date) -> bool:
    return (begin or date.min) <= on <= (end or date.max)


def name_of(code: str, number: int) -> str:
    """`code@version`, as a dossier pins it."""
    return f"{code}@{number}"


def split_name(name: str) -> tuple[str, int]:
    """(code, version) of `code@version`; version 0, the one in force, when it is missing. Raises
    InvalidInput."""
    code, sign, number = name.partition("@")
    if not CODE.fullmatch(code) or (sign and not re.fullmatch(r"[1-9]\d{0,4}", number)):
        raise InvalidInput(violations=[FieldViolation("name", "MALFORMED", "code or code@version")])
    return code, int(number or 0)
