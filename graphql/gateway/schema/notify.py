"""Notices and how they reach people."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import strawberry

from gateway.binding import enum, fill, view
from gateway.relay import connect
from gateway.scalars import DateTime
from gateway.schema.base import Connection, Info, Node, mutation, one, own, resolver, subscription
from gateway.schema.refs import ChargeRef, DocumentRef, DossierRef
from kit.errors import Unauthenticated
from motcua.notify.v1 import notify_pb2 as pb

if TYPE_CHECKING:
    from gateway.context import Context


@dataclass(frozen=True)
class Unread:
    """How many notices are left unread."""

    unread_notices: int


@enum(pb.NoticeChannel, "NOTICE_CHANNEL_")
class NoticeChannel(IntEnum):
    """Ways to reach people."""

    APP = 1
    EMAIL = 2
    SMS = 3
    ZALO = 4


@enum(pb.DeliveryState, "DELIVERY_STATE_")
class DeliveryState(IntEnum):
    """States of a delivery."""

    PENDING = 1
    SENDING = 2
    SENT = 3
    FAILED = 4
    ABANDONED = 5


@enum(pb.NoticeGroup, "NOTICE_GROUP_")
class NoticeGroup(IntEnum):
    """What notices are about."""

    DOSSIER = 1
    PAYMENT = 2
    DOCUMENT = 3
    WORK = 4
    ACCOUNT = 5


@view(pb.Notice, key="id")
class Notice(Node):
    kind: str = strawberry.field(description="Such as `dossier_received`.")
    group: NoticeGroup | None
    title: str
    body: str
    dossier: DossierRef | None = one("dossiers", "dossier_id")
    charge: ChargeRef | None = one("charges", "charge_id")
    document: DocumentRef | None = one("documents", "document_id")
    create_time: DateTime
    read_time: DateTime | None = strawberry.field(description="Null while unread.")
    deliveries: list[Delivery]


@view(pb.Delivery)
class Delivery:
    channel: NoticeChannel
    state: DeliveryState
    attempts: int
    send_time: DateTime | None


@view(pb.GetPreferencesResponse, pb.SetPreferencesResponse)
class NoticePreferences:
    preferences: list[NoticePreference]
    etag: str | None


@view(pb.Preference)
class NoticePreference:
    """Whether a group of notices goes out over a channel. The app always shows all."""

    group: NoticeGroup
    channel: NoticeChannel
    enabled: bool


@view(Unread)
class NoticesRead:
    unread_notices: int


@strawberry.input
class MarkNoticesReadInput:
    request_id: str | None = None
    notice_ids: list[strawberry.ID] | None = strawberry.field(
        default=None, description="Absent: all up to now."
    )


@strawberry.input
class NoticePreferenceInput:
    group: NoticeGroup
    channel: NoticeChannel
    enabled: bool


@strawberry.input
class SetNoticePreferencesInput:
    request_id: str | None = None
    preferences: list[NoticePreferenceInput] = strawberry.field(description="Those not named stay.")
    etag: str | None = None


@strawberry.type
class AccountNotices:
    """The notices of an account."""

    @resolver(Connection[Notice], description="Newest first. The owner's only.")
    async def notices(
        self: Any, info: Info, unread_only: bool = False, first: int = 20, after: str | None = None
    ) -> Any:
        context: Context = info.context
        own(context, self)

        async def fetch(size: int, token: str) -> Any:
            request = pb.ListNoticesRequest(unread_only=unread_only, page_size=size, page_token=token)
            reply = await context.call(context.services.notify.ListNotices, request)
            return reply.notices, reply.next_page_token, None

        return await connect(first, after, fetch)

    @resolver(int, description="How many the owner has not read.")
    async def unread_notices(self: Any, info: Info) -> Any:
        context: Context = info.context
        own(context, self)
        reply = await context.call(context.services.notify.GetUnreadCount, pb.GetUnreadCountRequest())
        return reply.unread_count

    @resolver(NoticePreferences, description="The channels that the owner chose.")
    async def notice_preferences(self: Any, info: Info) -> Any:
        context: Context = info.context
        own(context, self)
        return await context.call(context.services.notify.GetPreferences, pb.GetPreferencesRequest())


async def new_notices(context: Context) -> AsyncIterator[pb.Notice]:
    """The source of `notices`: each new notice of the caller, read as the caller. Raises Unauthenticated
    for a stranger."""
    if context.caller.kind not in ("citizen", "official"):
        raise Unauthenticated("SIGN_IN_REQUIRED", "notices need a signed-in caller")
    async with context.live.watch_notices(context.caller.subject) as ids:
        async for id in ids:
            request = pb.BatchGetNoticesRequest(ids=[id])
            reply = await context.call(context.services.notify.BatchGetNotices, request)
            for notice in reply.notices:
                yield notice


@strawberry.type
class NotifySubscription:
    """Subscriptions to notices."""

    @subscription(Notice, description="The caller's notices as they come.")
    async def notices(self, info: Info) -> AsyncIterator[Any]:
        async for notice in new_notices(info.context):
            yield notice


@strawberry.type
class NotifyMutation:
    """Mutations of notices."""

    @mutation(NoticesRead, "Marks notices of the caller as read.")
    async def mark_notices_read(self, info: Info, input: MarkNoticesReadInput) -> Any:
        context: Context = info.context
        request = fill(pb.MarkNoticesReadRequest(), input, subject="notice_ids")
        reply = await context.call(context.services.notify.MarkNoticesRead, request)
        return Unread(reply.unread_count)

    @mutation(NoticePreferences, "Chooses the channels of the caller's notices.")
    async def set_notice_preferences(self, info: Info, input: SetNoticePreferencesInput) -> Any:
        context: Context = info.context
        request = fill(pb.SetPreferencesRequest(), input)
        return await context.call(context.services.notify.SetPreferences, request)
