"""Agencies: the bodies that receive, examine and decide, the days they exist and who took over from them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Any

from identity.domain.identifiers import FieldCheck
from identity.domain.names import organisation_name_of
from kit.errors import FailedPrecondition


class Level(StrEnum):
    """The levels of government since July 2025, and the ministries."""

    MINISTRY = "ministry"
    PROVINCE = "province"
    COMMUNE = "commune"


@dataclass(frozen=True)
class AgencyChanged:
    """An agency was created or changed."""


@dataclass(frozen=True)
class AgencyDetails:
    """What an admin states about an agency. The days are its first and its last, None: still there."""

    name: str
    name_en: str
    level: Level
    parent: str
    valid_from: date
    valid_to: date | None
    successor: str
    address: str
    phone: str
    reception: bool


@dataclass
class Agency:
    """One agency; its id is its code, such as H32.15. It is never deleted: old dossiers keep their agency."""

    id: str
    details: AgencyDetails
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    @classmethod
    def new(cls, code: str, details: AgencyDetails) -> Agency:
        """A new agency."""
        return cls(code, details, events=[AgencyChanged()])

    def change(self, details: AgencyDetails) -> None:
        """Replaces what is known of it; nothing happens when nothing differs."""
        if details != self.details:
            self.details = details
            self.events.append(AgencyChanged())

    def valid_on(self, day: date) -> bool:
        """Whether the agency exists on that day."""
        return self.details.valid_from <= day and (
            self.details.valid_to is None or day <= self.details.valid_to
        )


def agency_details(
    code: str,
    *,
    name: str,
    name_en: str,
    level: Level | None,
    parent: str,
    valid_from: str,
    valid_to: str,
    successor: str,
    address: str,
    phone: str,
    reception: bool,
) -> AgencyDetails:
    """Checks what was given for the agency with this code. Raises InvalidInput."""
    check = FieldCheck()
    if not is_agency_code(code):
        check.wrong("agency.code", "AGENCY_CODE_SHAPE", "groups of letters and digits joined by dots")
    if level is None:
        check.wrong("agency.level", "REQUIRED", "ministry, province or commune")
    first = check.day("agency.valid_from", valid_from)
    last = check.day("agency.valid_to", valid_to)
    if first is None and not valid_from:
        check.wrong("agency.valid_from", "REQUIRED", "the day the agency began to exist")
    if first and last and last < first:
        check.wrong("agency.valid_to", "BEFORE_START", "the last day comes before the first")
    if successor and not valid_to:
        check.wrong("agency.valid_to", "REQUIRED", "an agency with a successor has a last day")
    for path, other in (("agency.parent", parent), ("agency.successor", successor)):
        if other == code:
            check.wrong(path, "AGENCY_ITSELF", "an agency is not its own parent or successor")
    if len(address) > 500 or len(phone) > 50:
        check.wrong("agency.address", "TOO_LONG", "at most 500 characters, and 50 for the phone")
    checked_name = check.read("agency.name", name, organisation_name_of, required=True)
    checked_name_en = check.read("agency.name_en", name_en, organisation_name_of)
    check.done()
    if level is None or first is None:
        raise AssertionError("`done` raised")
    return AgencyDetails(
        name=checked_name,
        name_en=checked_name_en,
        level=level,
        parent=parent,
        valid_from=first,
        valid_to=last,
        successor=successor,
        address=address.strip(),
        phone=phone.strip(),
        reception=reception,
    )


def is_agency_code(text: str) -> bool:
    """Whether the text is shaped like an agency's code: `H32`, `H32.15`, `H15.50.05.13`, `000.00.12.H29`."""
    return re.fullmatch(r"[A-Z0-9]{2,4}(\.[A-Z0-9]{2,4}){0,5}", text) is not None


def check_no_cycle(code: str, chain: list[Agency]) -> None:
    """Raises FailedPrecondition when the agencies above an agency, or after it, lead back to it."""
    if any(agency.id == code for agency in chain):
        raise FailedPrecondition("AGENCY_CYCLE", "the parents or successors lead back to it", agency=code)
