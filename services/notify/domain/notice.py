"""A notice: one message to one account, with its deliveries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kit.errors import InvalidInput
from kit.ids import derived
from notify.domain.delivery import NEVER, Delivery, Retry
from notify.domain.kinds import KINDS, About, Channel, Secret


@dataclass(frozen=True)
class Created:
    """A person has a new notice."""


@dataclass(frozen=True)
class Read:
    """Its recipient has read it."""


@dataclass
class Notice:
    """One message to one account. The text is written once, in the language the account had then; the
    parameters stay, so that it can be written again. `trace` is what its deliveries belong to.
    `addresses` are where it goes instead of where its recipient is reached when it is sent."""

    id: str
    recipient: str
    kind: str
    about: About
    locale: str
    params: dict[str, str]
    title: str
    body: str
    created: datetime
    trace: str = ""
    read: datetime | None = None
    deliveries: dict[Channel, Delivery] = field(default_factory=dict)
    addresses: dict[Channel, str] = field(default_factory=dict)
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    @property
    def due(self) -> datetime:
        """The earliest instant at which one of its deliveries needs a look."""
        return min((delivery.due for delivery in self.deliveries.values()), default=NEVER)

    def mark_read(self, at: datetime) -> None:
        """Marks it as read; the first time counts."""
        if self.read is None:
            self.read = at
            self.events.append(Read())

    def claim(self, at: datetime, retry: Retry) -> dict[Channel, int]:
        """Takes every delivery that is due for one attempt: channel to the attempt's number."""
        claims = {channel: delivery.claim(at, retry) for channel, delivery in self.deliveries.items()}
        return {channel: attempt for channel, attempt in claims.items() if attempt}


def sending_id(notice: Notice, secret: Secret | None = None) -> str:
    """What tells those who pass it on that two messages are one: the notice's id; with a secret another id
    for each, for the later one is what serves."""
    return derived("sent", notice.id, secret.text) if secret is not None else notice.id


def write_notice(
    *,
    id: str,
    recipient: str,
    kind: str,
    about: About,
    locale: str,
    params: Mapping[str, str],
    title: str,
    body: str,
    channels: Sequence[Channel],
    at: datetime,
    trace: str = "",
    addresses: Mapping[Channel, str] | None = None,
) -> Notice:
    """A new notice with a delivery, due at once, for every channel but the app.

    Raises InvalidInput when the kind is unknown or the parameters are not exactly those of the kind.
    """
    if kind not in KINDS:
        raise InvalidInput("UNKNOWN_KIND", kind)
    if frozenset(params) != KINDS[kind].params:
        raise InvalidInput("WRONG_PARAMS", f"{kind} takes {sorted(KINDS[kind].params)}, not {sorted(params)}")
    notice = Notice(
        id=id,
        recipient=recipient,
        kind=kind,
        about=about,
        locale=locale,
        params=dict(params),
        title=title,
        body=body,
        created=at,
        trace=trace,
        addresses=dict(addresses or {}),
        deliveries={channel: Delivery(due=at) for channel in channels if channel is not Channel.APP},
    )
    notice.events.append(Created())
    return notice
