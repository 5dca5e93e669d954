"""Who is told, and how they want it: preferences, and what we keep of accounts and agencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from kit.errors import FieldViolation, InvalidInput
from notify.domain.kinds import KINDS, Channel, Group

# Paid-for and third-party channels wait for a person's own choice; the law wants consent asked, not assumed.
_DEFAULTS: Final[Mapping[Channel, bool]] = {
    Channel.APP: True,
    Channel.EMAIL: True,
    Channel.SMS: False,
    Channel.ZALO: False,
}


@dataclass(frozen=True)
class Choice:
    """One switch: whether a group of notices goes out over a channel."""

    group: Group
    channel: Channel
    on: bool


@dataclass
class Preferences:
    """What an account has chosen; the rest is as by default. `id` is the account's."""

    id: str
    chosen: dict[Group, dict[Channel, bool]] = field(default_factory=dict)
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    def wants(self, group: Group, channel: Channel) -> bool:
        """Whether notices of the group go out over the channel."""
        return self.chosen.get(group, {}).get(channel, _DEFAULTS[channel])

    def all(self) -> list[Choice]:
        """Every switch as it stands, chosen or by default."""
        return [Choice(group, channel, self.wants(group, channel)) for group in Group for channel in Channel]

    def choose(self, choices: Sequence[Choice]) -> None:
        """Sets switches. Raises InvalidInput, and changes nothing, when one would turn the app off."""
        violations = [
            FieldViolation(f"preferences[{at}]", "APP_ALWAYS_ON", "the app shows all notices")
            for at, choice in enumerate(choices)
            if choice.channel is Channel.APP and not choice.on
        ]
        if violations:
            raise InvalidInput(violations=violations)
        for choice in choices:
            self.chosen.setdefault(choice.group, {})[choice.channel] = choice.on


@dataclass(frozen=True)
class Post:
    """A role that an official holds in an agency between two ISO dates, both included (empty: no limit)."""

    agency: str
    role: str
    valid_from: str = ""
    valid_to: str = ""

    def held_on(self, date: str) -> bool:
        """Whether it is held on that ISO date."""
        return self.valid_from <= date and (not self.valid_to or date <= self.valid_to)


@dataclass
class Contact:
    """What we keep of an account to reach it: a projection of identity's events.

    `as_of` and `posts_as_of` are the times of the events it comes from: an older one that arrives late
    changes nothing.
    """

    id: str
    name: str = ""
    email: str = ""
    phone: str = ""
    locale: str = "vi"
    posts: tuple[Post, ...] = ()
    as_of: datetime | None = None
    posts_as_of: datetime | None = None
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    def address(self, channel: Channel) -> str:
        """Where the channel reaches the person; empty when it does not."""
        return {Channel.EMAIL: self.email, Channel.SMS: self.phone, Channel.ZALO: self.phone}.get(channel, "")

    def reach(self, *, at: datetime, email: str, phone: str, locale: str, name: str | None = None) -> None:
        """Takes over contact data as of an instant, unless newer is there; `name` None: it stays."""
        if self.as_of is not None and at < self.as_of:
            return
        self.as_of, self.email, self.phone = at, email, phone
        self.locale = locale if locale in ("vi", "en") else "vi"
        if name is not None:
            self.name = name

    def post(self, posts: Sequence[Post], at: datetime) -> None:
        """Takes over the roles held as of an instant, unless newer are there."""
        if self.posts_as_of is None or at >= self.posts_as_of:
            self.posts, self.posts_as_of = tuple(posts), at


@dataclass
class Desk:
    """The officials who hold a role in an agency: account to post. `id` is as `desk_id` makes it."""

    id: str
    members: dict[str, Post] = field(default_factory=dict)
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    def seat(self, account: str, post: Post) -> None:
        """Puts an official at the desk."""
        self.members[account] = post

    def leave(self, account: str) -> None:
        """Takes an official away from the desk."""
        self.members.pop(account, None)


def desk_id(agency: str, role: str) -> str:
    """The id of the desk of a role in an agency."""
    return f"{agency}|{role}"


@dataclass
class Agency:
    """What we keep of an agency: its names. `id` is its code."""

    id: str
    name: str = ""
    name_en: str = ""
    as_of: datetime | None = None
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    def rename(self, name: str, name_en: str, at: datetime) -> None:
        """Takes over its names as of an instant, unless newer are there."""
        if self.as_of is None or at >= self.as_of:
            self.name, self.name_en, self.as_of = name, name_en, at

    def label(self, locale: str) -> str:
        """How the agency is called in a language; its code when nothing better is known."""
        return (self.name_en if locale == "en" else "") or self.name or self.id


def channels_for(
    kind: str, contact: Contact, preferences: Preferences, working: frozenset[Channel]
) -> list[Channel]:
    """The channels a notice goes through: the app, and each that is configured, wanted and has an address.
    What was asked for goes by its own channels, wanted or not; identity says where to."""
    if KINDS[kind].app_only:
        return [Channel.APP]
    if KINDS[kind].channels:
        return [Channel.APP, *(channel for channel in KINDS[kind].channels if channel in working)]
    group = KINDS[kind].group
    return [
        channel
        for channel in Channel
        if channel is Channel.APP
        or (channel in working and preferences.wants(group, channel) and contact.address(channel))
    ]
