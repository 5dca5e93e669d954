"""Where notices and what we keep of accounts, agencies and dossiers are stored, and what is announced."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from kit.clock import Clock, to_text
from kit.mongo import Database, Index, Store
from motcua.notify.v1 import events_pb2, notify_pb2
from notify.domain.deadline import Deadline
from notify.domain.kinds import KINDS, Group
from notify.domain.notice import Created, Notice, Read
from notify.domain.people import Agency, Contact, Desk, Preferences

GROUPS = {
    Group.DOSSIER: notify_pb2.NOTICE_GROUP_DOSSIER,
    Group.PAYMENT: notify_pb2.NOTICE_GROUP_PAYMENT,
    Group.DOCUMENT: notify_pb2.NOTICE_GROUP_DOCUMENT,
    Group.WORK: notify_pb2.NOTICE_GROUP_WORK,
    Group.ACCOUNT: notify_pb2.NOTICE_GROUP_ACCOUNT,
}


def notices(database: Database, now: Clock) -> Store[Notice]:
    """Notices; those with a delivery that needs a look are found by `due`."""
    return Store(
        database,
        "notices",
        Notice,
        announce=_announce,
        scalars=lambda notice: {
            "recipient": notice.recipient,
            "unread": int(notice.read is None),
            "due": notice.due,
        },
        indexes=[Index("recipient", "created"), Index("recipient", "unread", "created"), Index("due")],
        context="notify",
        now=now,
    )


def preferences(database: Database, now: Clock) -> Store[Preferences]:
    """Preferences by account."""
    return Store(database, "preferences", Preferences, now=now)


def contacts(database: Database, now: Clock) -> Store[Contact]:
    """Contact data by account."""
    return Store(database, "contacts", Contact, now=now)


def desks(database: Database, now: Clock) -> Store[Desk]:
    """Officials by agency and role."""
    return Store(database, "desks", Desk, now=now)


def agencies(database: Database, now: Clock) -> Store[Agency]:
    """Names of agencies by code."""
    return Store(database, "agencies", Agency, now=now)


def deadlines(database: Database, now: Clock) -> Store[Deadline]:
    """Clocks of dossiers; those of which to remind someone are found by `look`."""
    return Store(
        database,
        "deadlines",
        Deadline,
        scalars=lambda deadline: {"look": to_text(deadline.look())},
        indexes=[Index("look")],
        now=now,
    )


def _announce(notice: Notice, event: Any) -> Message:
    if isinstance(event, Created):
        return events_pb2.NoticeCreated(
            notice_id=notice.id,
            recipient_id=notice.recipient,
            kind=notice.kind,
            group=GROUPS[KINDS[notice.kind].group],
            dossier_id=notice.about.dossier,
        )
    if isinstance(event, Read):
        return events_pb2.NoticesRead(recipient_id=notice.recipient, notice_ids=[notice.id])
    raise TypeError(f"{type(event).__name__} is no event of a notice")
