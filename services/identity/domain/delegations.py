"""Delegations: one account lets another act for it, in stated ways, until a stated instant."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from identity.domain.identifiers import FieldCheck
from kit.errors import Forbidden


class Scope(StrEnum):
    """What a delegate may do for the principal."""

    FILE = "file"
    READ = "read"
    VAULT = "vault"
    PAY = "pay"


@dataclass(frozen=True)
class DelegationGranted:
    """A delegation began."""


@dataclass(frozen=True)
class DelegationRevoked:
    """A delegation ended before its time."""


@dataclass
class Delegation:
    """The principal lets the delegate act within the scopes until `until`, unless it was revoked before."""

    id: str
    principal: str
    delegate: str
    scopes: tuple[Scope, ...]
    created: datetime
    until: datetime
    revoked: datetime | None = None
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    @classmethod
    def granted(
        cls,
        delegation_id: str,
        *,
        principal: str,
        delegate: str,
        scopes: Collection[Scope],
        until: datetime | None,
        now: datetime,
    ) -> Delegation:
        """A new delegation. Raises InvalidInput when it names no scope, oneself or a past time."""
        check = FieldCheck()
        if not scopes:
            check.wrong("scopes", "REQUIRED", "at least one of file, read, vault, pay")
        if principal == delegate:
            check.wrong("delegate_identifier", "DELEGATE_IS_SELF", "somebody else than oneself")
        if until is None:
            check.wrong("expire_time", "REQUIRED", "a delegation ends at a stated time")
        elif until <= now:
            check.wrong("expire_time", "IN_THE_PAST", "a delegation ends in the future")
        check.done()
        if until is None:
            raise AssertionError("`done` raised")
        ordered = tuple(scope for scope in Scope if scope in scopes)
        return cls(delegation_id, principal, delegate, ordered, now, until, events=[DelegationGranted()])

    def revoke(self, by: str, now: datetime) -> None:
        """Ends it, by either side; ending it again changes nothing. Raises Forbidden for anybody else."""
        if by not in (self.principal, self.delegate):
            raise Forbidden("NOT_YOUR_DELEGATION", "only the two sides of a delegation may end it")
        if self.revoked is None:
            self.revoked = now
            self.events.append(DelegationRevoked())

    def in_force(self, now: datetime) -> bool:
        """Whether it has begun, and neither run out nor been revoked."""
        return self.revoked is None and self.created <= now < self.until

    def allows(self, scope: Scope, now: datetime) -> bool:
        """Whether the delegate may do this for the principal at that instant."""
        return self.in_force(now) and scope in self.scopes
