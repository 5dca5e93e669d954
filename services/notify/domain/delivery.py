"""A delivery: one notice through one channel, as a typed graph with leases and retries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"  # the other side refused it for good
    ABANDONED = "abandoned"  # tried as often as we do


class Step(StrEnum):
    """What happens to a delivery."""

    CLAIM = "claim"
    ACCEPT = "accept"
    REFUSE = "refuse"
    DEFER = "defer"
    EXHAUST = "exhaust"


GRAPH: Final[Mapping[tuple[State, Step], State]] = {
    (State.PENDING, Step.CLAIM): State.SENDING,
    (State.SENDING, Step.CLAIM): State.SENDING,  # the lease ran out: whoever held it died
    (State.SENDING, Step.ACCEPT): State.SENT,
    (State.SENDING, Step.REFUSE): State.FAILED,
    (State.SENDING, Step.DEFER): State.PENDING,
    (State.SENDING, Step.EXHAUST): State.ABANDONED,
    (State.PENDING, Step.ACCEPT): State.SENT,  # the late answer of an attempt that had lost its lease
}

NEVER: Final = datetime(9999, 12, 31, tzinfo=UTC)
"""When something finished needs a look again; sorts after every real instant."""


@dataclass(frozen=True)
class Retry:
    """How often and how fast to try again: `first` doubles with each attempt up to `most`.

    `lease` is how long one attempt may hold a delivery; an attempt must be over well before.
    """

    attempts: int = 20
    first: timedelta = timedelta(seconds=15)
    most: timedelta = timedelta(hours=1)
    lease: timedelta = timedelta(minutes=2)

    def wait(self, attempt: int, jitter: float) -> timedelta:
        """The pause after the given attempt (1, 2, …): half to all of the step; `jitter` in [0, 1)."""
        return min(self.most, self.first * (1 << min(attempt - 1, 20))) * (0.5 + jitter / 2)


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt: ACCEPT, REFUSE (for good) or DEFER, and the class of the error."""

    step: Step
    error: str = ""


ACCEPTED: Final = Outcome(Step.ACCEPT)


@dataclass
class Delivery:
    """One notice through one channel. `due` is when it needs a worker's look: the next attempt while
    pending, the end of the lease while sending, NEVER when finished. `error` is the class of the last one."""

    state: State = State.PENDING
    attempts: int = 0
    due: datetime = NEVER
    error: str = ""
    sent: datetime | None = None

    def _go(self, step: Step, due: datetime) -> None:
        self.state = GRAPH[self.state, step]
        self.due = due

    def claim(self, at: datetime, retry: Retry) -> int:
        """Takes it for one attempt and answers the attempt's number; 0 when there is nothing to send.

        A lease that ran out after the last attempt ends the delivery: nobody knows whether it went out.
        """
        if at < self.due:
            return 0
        if self.state is State.SENDING:
            self.error = "lease_expired"
            if self.attempts >= retry.attempts:
                self._go(Step.EXHAUST, NEVER)
                return 0
        self.attempts += 1
        self._go(Step.CLAIM, at + retry.lease)
        return self.attempts

    def settle(self, attempt: int, outcome: Outcome, at: datetime, retry: Retry, jitter: float) -> None:
        """Records what came of an attempt. One that has lost its lease changes nothing, unless it got the
        message out."""
        holds = self.state is State.SENDING and attempt == self.attempts
        went_out = outcome.step is Step.ACCEPT and (self.state, Step.ACCEPT) in GRAPH
        if not (holds or went_out):
            return
        self.error = outcome.error
        if outcome.step is Step.ACCEPT:
            self.sent = at
            self._go(Step.ACCEPT, NEVER)
        elif outcome.step is Step.REFUSE:
            self._go(Step.REFUSE, NEVER)
        elif attempt >= retry.attempts:
            self._go(Step.EXHAUST, NEVER)
        else:
            self._go(Step.DEFER, at + retry.wait(attempt, jitter))
