"""What a dossier is made of: the papers of the national forms 01-06 and what is pinned of its procedure."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Any

from dossier.domain.states import Action, Party, State
from kit.clock import VIETNAM, vietnam_day
from kit.money import CURRENCY


class Channel(IntEnum):
    ONLINE = 1
    COUNTER = 2
    POST = 3


class TimeUnit(StrEnum):
    WORKING_DAY = "working_day"
    DAY = "day"
    HOUR = "hour"


class FeeNeededBy(StrEnum):
    """From when on a dossier does not go on without its fee: the procedure's rule."""

    EXAMINATION = "examination"
    RESULT = "result"
    NEVER = "never"


class Timeliness(StrEnum):
    NONE = ""
    EARLY = "early"
    ON_TIME = "on_time"
    OVERDUE = "overdue"


@dataclass(frozen=True)
class Limit:
    amount: int
    unit: TimeUnit


@dataclass(frozen=True)
class Rules:
    """Limits of the law as they stand from a day on."""

    valid_from: date
    supplement_days: int  # working days from receipt within which a supplement may be asked for, once
    apology_days: int  # days before expiry by which an apology must be made, once
    reception_hours: int  # working hours from filing within which it is received or refused
    sight_days: int  # days for which an agency that let a dossier go still sees whose it was, and its papers
    purpose_minutes: int  # minutes for which an official who said for what purpose sees them


# NĐ 118/2025 and its changes. A change of the law is a further line.
# The hours of reception are not verified against a source: the decree's own text was not at hand. The days
# and minutes of sight are a rule of our own.
RULES = (
    Rules(
        date(2025, 7, 1),
        supplement_days=3,
        apology_days=1,
        reception_hours=8,
        sight_days=30,
        purpose_minutes=60,
    ),
)


def rules_on(at: datetime) -> Rules:
    """The rules in force at an instant; before the first line, the first."""
    day = vietnam_day(at)
    return next((rules for rules in reversed(RULES) if rules.valid_from <= day), RULES[0])


@dataclass(frozen=True)
class Actor:
    """Who acts, in what capacities, and for which agency (empty: on the applicant's side)."""

    subject: str
    parties: frozenset[Party]
    agency: str = ""


@dataclass(frozen=True)
class Step:
    id: str
    name: str
    role: str
    agency: str = ""  # empty: the receiving agency
    working_hours: int = 0  # 0: not fixed


@dataclass(frozen=True)
class Component:
    id: str
    name: str
    required: bool
    document_types: tuple[str, ...] = ()


@dataclass(frozen=True)
class Procedure:
    """What a dossier needs of one version of a procedure. A version never changes."""

    code: str
    version: int
    name: str
    fileable: bool
    schema: dict[str, Any]
    cases: dict[str, tuple[Component, ...]]  # by id; those of "" are asked for in every case
    steps: tuple[Step, ...]
    limits: dict[Channel, Limit]
    channels: frozenset[Channel]
    result_type: str = ""
    result_name: str = ""
    refundable: bool = False
    fee_needed_by: FeeNeededBy = FeeNeededBy.RESULT

    @property
    def key(self) -> str:
        return f"{self.code}@{self.version}"

    def components(self, case: str) -> dict[str, Component] | None:
        """What is asked for in a case, by id; an empty one stands for the only one. None for no such case."""
        named = [known for known in self.cases if known]
        if not case and len(named) == 1:
            case = named[0]
        if case not in self.cases and (case or named):
            return None
        return {c.id: c for known in dict.fromkeys(("", case)) for c in self.cases.get(known, ())}

    def limit(self, channel: Channel) -> Limit | None:
        """The limit of a way of filing, else of any; None when the catalogue could not read one."""
        return self.limits.get(channel) or next(iter(self.limits.values()), None)


@dataclass(frozen=True)
class Attachment:
    component: str
    document: str
    version: int


@dataclass(frozen=True)
class Receipt:
    """Form 01."""

    code: str
    received: datetime
    due: datetime | None
    agency: str
    official: str


@dataclass(frozen=True)
class Supplement:
    """Form 02."""

    defects: list[str]
    reason: str
    guidance: str
    asked: datetime
    agency: str
    official: str
    answered: datetime | None = None


@dataclass(frozen=True)
class Apology:
    """Form 04."""

    original_due: datetime
    new_due: datetime
    reason: str
    at: datetime
    official: str


@dataclass(frozen=True)
class HandOver:
    """A line of form 06, the process control sheet."""

    step: str
    step_name: str
    from_agency: str
    from_official: str
    to_agency: str
    to_official: str
    at: datetime
    timeliness: Timeliness
    note: str = ""
    to_role: str = ""  # of the step that goes on there
    refunded: int = 0  # đồng: no hand-over, but a fee that went back while the dossier was here


@dataclass(frozen=True)
class Transition:
    source: State
    target: State
    action: Action
    at: datetime
    actor: str
    agency: str = ""
    note: str = ""


@dataclass(frozen=True)
class FeeLine:
    name: str
    amount: int
    quantity: int = 1
    currency: str = CURRENCY


@dataclass
class Charge:
    """What was asked of the applicant; payment makes a charge with the same id."""

    id: str
    lines: list[FeeLine]
    refundable: bool
    asked: datetime
    paid: datetime | None = None
    refund_asked: datetime | None = None  # from then on the money is not ours
    refunded: datetime | None = None
    refunded_amount: int = 0  # đồng

    @property
    def held(self) -> bool:
        """Whether it was paid and its money is still with us."""
        return self.paid is not None and not self.given_back

    @property
    def given_back(self) -> bool:
        """Whether its money went back, or is on its way."""
        return self.refund_asked is not None

    @property
    def total(self) -> int:
        return sum(line.amount for line in self.lines)


@dataclass(frozen=True)
class Happened:
    """An event: the name of its message in events.proto and who caused it. The rest it tells is in the
    dossier, written in the same moment."""

    name: str
    actor: str
    agency: str
    at: datetime
    detail: dict[str, str] = field(default_factory=dict)


def vietnam_midnight(day: date) -> datetime:
    """The instant at which a day begins in Vietnam."""
    return datetime(day.year, day.month, day.day, tzinfo=VIETNAM).astimezone(UTC)


def timeliness(at: datetime, due: datetime | None) -> Timeliness:
    """Early: finished on a day before the due day; on time: on the due day, not past the due time."""
    if due is None:
        return Timeliness.NONE
    if at > due:
        return Timeliness.OVERDUE
    return Timeliness.EARLY if vietnam_day(at) < vietnam_day(due) else Timeliness.ON_TIME


def apology_deadline(due: datetime, rules: Rules) -> datetime:
    """The end of the last day on which an apology may be made."""
    return vietnam_midnight(vietnam_day(due) - timedelta(days=rules.apology_days - 1))
