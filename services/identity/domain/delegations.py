"""Delegations: one account asks another to act for it, in stated ways, until a stated instant.

A delegation begins with the delegate's acceptance. Until then it is a request, which tells neither side who
the other is: whoever asks learns from it neither a name nor whether anybody has the identifier that they
typed, and whoever is asked sees the last digits of a number and nothing that a stranger wrote.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from identity.domain.identifiers import FieldCheck
from kit.errors import FailedPrecondition, Forbidden

REQUEST_LASTS: Final = timedelta(days=14)
QUIET: Final = timedelta(days=30)  # after a refusal the same delegate is not asked again for so long


class Scope(StrEnum):
    """What a delegate may do for the principal."""

    FILE = "file"
    READ = "read"
    VAULT = "vault"
    PAY = "pay"


class State(StrEnum):
    """Where a delegation stands. One that is in force or expired was accepted, a lapsed one was not."""

    REQUESTED = "requested"
    IN_FORCE = "in_force"
    DECLINED = "declined"
    WITHDRAWN = "withdrawn"
    LAPSED = "lapsed"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True)
class DelegationRequested:
    """Somebody asked the delegate, who is told."""


@dataclass(frozen=True)
class DelegationGranted:
    """The delegate accepted: the delegation began."""


@dataclass(frozen=True)
class DelegationDeclined:
    """The delegate said no."""


@dataclass(frozen=True)
class DelegationRevoked:
    """A delegation ended before its time."""


@dataclass
class Delegation:
    """The principal lets the delegate act within the scopes until `until`, once the delegate has accepted.

    `delegate` is empty when nobody is to be asked: no account has the identifier, or the one that has it is
    not to be troubled. `target` is a hash of the identifier. `target_shown` is the end of it, for the
    principal's own list, `principal_shown` the end of the principal's number, for the one who is asked. A
    request lasts until `request_until`; None, of a release that knew no acceptance: until `until`. `revoked`
    is also when a request was declined or withdrawn, `mark` the request that made it.
    """

    id: str
    principal: str
    delegate: str
    scopes: tuple[Scope, ...]
    created: datetime
    until: datetime
    revoked: datetime | None = None
    accepted: datetime | None = None
    declined: bool = False
    request_until: datetime | None = None
    target: str = ""
    target_shown: str = ""
    principal_shown: str = ""
    mark: str = ""
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    @classmethod
    def requested(
        cls,
        delegation_id: str,
        *,
        principal: str,
        principal_shown: str,
        delegate: str,
        target: str,
        target_shown: str,
        scopes: Collection[Scope],
        until: datetime,
        mark: str,
        now: datetime,
    ) -> Delegation:
        """A new request. Its terms have passed `check_terms`; an empty delegate is never told of it."""
        return cls(
            delegation_id,
            principal,
            delegate,
            tuple(scope for scope in Scope if scope in scopes),
            now,
            until,
            request_until=min(until, now + REQUEST_LASTS),
            target=target,
            target_shown=target_shown,
            principal_shown=principal_shown,
            mark=mark,
            events=[DelegationRequested()] if delegate else [],
        )

    def state(self, now: datetime) -> State:
        """Where it stands at that instant."""
        if self.accepted is None:
            if self.revoked is not None:
                return State.DECLINED if self.declined else State.WITHDRAWN
            return State.LAPSED if now >= (self.request_until or self.until) else State.REQUESTED
        if self.revoked is not None:
            return State.REVOKED
        return State.EXPIRED if now >= self.until else State.IN_FORCE

    def accept(self, by: str, now: datetime) -> None:
        """The delegate agrees, and it begins; again changes nothing. Raises Forbidden for anybody else,
        FailedPrecondition (NOT_REQUESTED) when the request is over."""
        self._check_delegate(by)
        if self.state(now) is State.IN_FORCE:
            return
        self._check_requested(now)
        self.accepted = now
        self.events.append(DelegationGranted())

    def decline(self, by: str, now: datetime) -> None:
        """The delegate says no; again changes nothing. Raises as `accept` does."""
        self._check_delegate(by)
        if self.state(now) is State.DECLINED:
            return
        self._check_requested(now)
        self.revoked, self.declined = now, True
        self.events.append(DelegationDeclined())

    def revoke(self, by: str, now: datetime) -> None:
        """Ends it, by either side, or takes the request back; a delegate who does that has declined it.

        Ending it again changes nothing. Raises Forbidden for anybody else.
        """
        if by not in (self.principal, self.delegate):
            raise Forbidden("NOT_YOUR_DELEGATION", "only the two sides of a delegation may end it")
        if self.revoked is not None:
            return
        self.revoked = now
        if self.accepted is not None:
            self.events.append(DelegationRevoked())
        elif by == self.delegate:
            self.declined = True
            self.events.append(DelegationDeclined())

    def in_force(self, now: datetime) -> bool:
        """Whether it was accepted, and has neither run out nor been revoked."""
        return self.state(now) is State.IN_FORCE

    def allows(self, scope: Scope, now: datetime) -> bool:
        """Whether the delegate may do this for the principal at that instant."""
        return self.in_force(now) and scope in self.scopes

    def _check_delegate(self, by: str) -> None:
        if not by or by != self.delegate:
            raise Forbidden("NOT_YOUR_DELEGATION", "only the delegate decides about a request")

    def _check_requested(self, now: datetime) -> None:
        if self.state(now) is not State.REQUESTED:
            raise FailedPrecondition("NOT_REQUESTED", "the request is over", state=self.state(now).value)


def check_terms(
    check: FieldCheck, scopes: Collection[Scope], until: datetime | None, now: datetime
) -> datetime:
    """When a delegation that somebody asks for is to end. Raises InvalidInput when it names no scope or no
    instant to come, together with what `check` has noted already."""
    if not scopes:
        check.wrong("scopes", "REQUIRED", "at least one of file, read, vault, pay")
    if until is None:
        check.wrong("expire_time", "REQUIRED", "a delegation ends at a stated time")
    elif until <= now:
        check.wrong("expire_time", "IN_THE_PAST", "a delegation ends in the future")
    check.done()
    if until is None:
        raise AssertionError("`done` raised")
    return until
