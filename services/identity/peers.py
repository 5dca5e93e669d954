"""Outside systems that identity can ask: the national population database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Protocol

from kit.errors import Unavailable


@dataclass(frozen=True)
class CitizenData:
    """What the population database tells about a citizen for a dossier."""

    citizen_number: str
    name: str
    birth_date: date
    residence: str


class PopulationDatabase(Protocol):
    """The three calls of the national population database. Every call states its purpose, which is logged."""

    async def verify_citizen(self, citizen_number: str, name: str, *, purpose: str) -> bool:
        """Whether the number belongs to a person of that name."""

    async def verify_head_of_household(self, citizen_number: str, *, purpose: str) -> bool:
        """Whether the citizen is the head of a household."""

    async def fetch_citizen(self, citizen_number: str, *, purpose: str) -> CitizenData:
        """A citizen's data for a dossier."""


class NoPopulationDatabase:
    """Stands where no population database is connected: every call answers Unavailable."""

    async def verify_citizen(self, citizen_number: str, name: str, *, purpose: str) -> bool:
        """Raises Unavailable."""
        raise _not_connected()

    async def verify_head_of_household(self, citizen_number: str, *, purpose: str) -> bool:
        """Raises Unavailable."""
        raise _not_connected()

    async def fetch_citizen(self, citizen_number: str, *, purpose: str) -> CitizenData:
        """Raises Unavailable."""
        raise _not_connected()


def _not_connected() -> Unavailable:
    return Unavailable("POPULATION_DATABASE_NOT_CONNECTED", "no population database is connected")
