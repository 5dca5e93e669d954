"""Who in the administration has a need to know: what identifies an applicant, and the papers of a dossier.

An agency has it while it holds a dossier, and for some days after it has let it go. Later, and at a counter
where somebody asks for something new, an official has it for a short time and a purpose that is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from dossier.domain.dossier import Dossier
from dossier.domain.records import rules_on
from dossier.domain.states import TERMINAL, State
from kit.ids import derived


@dataclass
class Sight:
    """A right of one holder to see one subject through one dossier, as lists find it.

    The holder is an agency, or the account of the official who said for what purpose. The subject is an
    account, a document or a dossier. It is good until an instant; None: until the holder lets the dossier go.
    """

    id: str
    holder: str
    subject: str
    dossier: str = ""
    purpose: str = ""
    until: datetime | None = None
    as_of: int = 0  # the revision of the dossier that says so
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    def follow(self, until: datetime | None, as_of: int) -> None:
        """Takes over what a later revision of the dossier says."""
        if as_of >= self.as_of:
            self.until, self.as_of = until, as_of

    def extend(self, until: datetime, purpose: str) -> None:
        """Lasts until then, for this purpose, unless it lasts longer already."""
        if self.until is not None and until > self.until:
            self.until, self.purpose = until, purpose


def sight_id(holder: str, subject: str, dossier: str) -> str:
    """The id of the right of a holder to a subject through a dossier; there is one for each."""
    return derived("sight", holder, subject, dossier)


def holders(d: Dossier) -> dict[str, datetime | None]:
    """The agencies with a need to know this dossier, and until when; None: as long as they hold it.

    The agency that has it holds it, and the receiving one, which answers to the applicant, until its end.
    """
    if d.state is State.DRAFT:
        return {}
    rule = timedelta(days=rules_on(d.updated).sight_days)
    holding = {d.current_agency, d.receiving_agency}
    found: dict[str, datetime | None] = {}
    for agency in dict.fromkeys([*d.agencies, d.current_agency, d.receiving_agency]):
        if agency not in holding:
            left = [line.at for line in d.hand_overs if line.from_agency == agency]
            found[agency] = (left[-1] if left else d.updated) + rule
        elif d.state in TERMINAL:
            ended = [change.at for change in d.transitions if change.target in TERMINAL]
            found[agency] = (ended[-1] if ended else d.updated) + rule
        else:
            found[agency] = None
    return found


def is_held(d: Dossier, agencies: list[str], at: datetime) -> bool:
    """Whether one of these agencies needs to know the dossier now."""
    known = holders(d)
    untils = [known[agency] for agency in agencies if agency in known]
    return any(until is None or at <= until for until in untils)


def subjects(d: Dossier) -> list[str]:
    """What there is to see through a dossier: itself, who it is about, who filed it for them, its papers."""
    named = [d.id, d.applicant] if d.assisted else [d.id, d.applicant, d.filed_by]
    return list(dict.fromkeys([*named, *(a.document for a in d.attachments), *d.results]))
