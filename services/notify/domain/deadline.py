"""The clocks of dossiers, for reminding officials."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from kit.clock import VIETNAM
from notify.domain.delivery import NEVER


@dataclass
class Deadline:
    """A dossier's clock as officials are reminded of it: a projection of dossier's events.

    `holder` is the official who has it; empty: whoever has `role` in `agency`. `reminded` names the reminders
    that went out for the present due time.
    """

    id: str
    code: str = ""
    procedure: str = ""
    agency: str = ""
    role: str = ""
    holder: str = ""
    due: datetime | None = None
    running: bool = False
    since: datetime | None = None  # when the present due time was set
    reminded: tuple[str, ...] = ()
    as_of: datetime | None = None
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    def follow(
        self,
        *,
        at: datetime,
        code: str,
        procedure: str,
        agency: str,
        due: datetime | None,
        running: bool,
        role: str | None = None,
        holder: str | None = None,
    ) -> None:
        """Takes over where the dossier stands as of an instant, unless newer is there.

        `role` and `holder` None: they stay, but a dossier that changes agency leaves them behind. A new due
        time is reminded of anew.
        """
        if self.as_of is not None and at < self.as_of:
            return
        if agency != self.agency:
            self.holder = self.role = ""
        if due != self.due:
            self.reminded, self.since = (), at
        self.as_of, self.code, self.procedure = at, code, procedure
        self.agency, self.due, self.running = agency, due, running
        self.role = self.role if role is None else role
        self.holder = self.holder if holder is None else holder

    def look(self) -> datetime:
        """When the next reminder is due; NEVER while the clock stands."""
        if self.due is None or not self.running:
            return NEVER
        waiting = {"desk_due_soon": warn_at(self.due, self.since), "desk_overdue": self.due}
        return min((at for kind, at in waiting.items() if kind not in self.reminded), default=NEVER)

    @property
    def received(self) -> bool:
        """Whether the dossier has been received, when it gets its code. Until then its due time is that of
        its reception."""
        return bool(self.code)

    def remind(self, at: datetime) -> str | None:
        """The reminder to send now, if any, noted as sent. What is overdue is not 'due soon'."""
        if at < self.look() or self.due is None:
            return None
        kind = "desk_overdue" if at >= self.due else "desk_due_soon"
        self.reminded = ("desk_due_soon", "desk_overdue") if kind == "desk_overdue" else ("desk_due_soon",)
        return kind


def warn_at(due: datetime, since: datetime | None = None) -> datetime:
    """When officials are warned of a due time that was set at `since`: a day before, and never on a Saturday
    or Sunday; two hours before, where that would be at once."""
    warn = (due - timedelta(days=1)).astimezone(VIETNAM)
    while warn.weekday() >= 5:
        warn -= timedelta(days=1)
    if since is not None and warn <= since:
        warn = due - timedelta(hours=2)
    return warn.astimezone(UTC)
