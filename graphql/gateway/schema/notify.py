"""Notices and how they reach people."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.binding import Info, Part, fill
from gateway.context import Context
from gateway.relay import Page, connect
from gateway.schema.base import connection, mutation
from gateway.schema.identity import own
from kit.errors import Unauthenticated
from motcua.identity.v1 import identity_pb2 as identity
from motcua.notify.v1 import notify_pb2 as pb

part = Part('''
extend type Account {
  """Newest first. The owner's only."""
  notices(unreadOnly: Boolean! = false, first: Int! = 20, after: String): NoticeConnection!
  unreadNotices: Int!
  noticePreferences: NoticePreferences!
}
extend type Subscription {
  """The caller's notices as they come."""
  notices: Notice!
}

type Notice implements Node {
  id: ID!
  """Such as `dossier_received`."""
  kind: String!
  group: NoticeGroup
  title: String!
  body: String!
  dossier: Dossier
  charge: Charge
  document: Document
  createTime: DateTime!
  """Null while unread."""
  readTime: DateTime
  deliveries: [Delivery!]!
}
type Delivery { channel: NoticeChannel! state: DeliveryState! attempts: Int! sendTime: DateTime }
type NoticePreferences { preferences: [NoticePreference!]! etag: String }
"""Whether a group of notices goes out over a channel. The app always shows all."""
type NoticePreference { group: NoticeGroup! channel: NoticeChannel! enabled: Boolean! }
type NoticesRead { unreadNotices: Int! }

input MarkNoticesReadInput {
  requestId: String
  """Absent: all up to now."""
  noticeIds: [ID!]
}
input NoticePreferenceInput { group: NoticeGroup! channel: NoticeChannel! enabled: Boolean! }
input SetNoticePreferencesInput {
  requestId: String
  """Those not named stay."""
  preferences: [NoticePreferenceInput!]!
  etag: String
}
''')
part.enum("NoticeChannel", pb.NoticeChannel, "Ways to reach people.")
part.enum("DeliveryState", pb.DeliveryState, "States of a delivery.")
part.enum("NoticeGroup", pb.NoticeGroup, "What notices are about.")
part.type("Notice", pb.Notice, key="id")
part.type("Delivery", pb.Delivery)
part.type("NoticePreferences", pb.GetPreferencesResponse, pb.SetPreferencesResponse)
part.type("NoticePreference", pb.Preference)
connection(part, "Notice")


@dataclass(frozen=True)
class NoticesRead:
    unread_notices: int


part.type("NoticesRead", NoticesRead)


@part.resolve("Account.notices")
async def notices(
    account: identity.Account, info: Info, first: int, unread_only: bool, after: str | None = None
) -> Page:
    context: Context = info.context
    own(context, account)

    async def fetch(size: int, token: str) -> Any:
        request = pb.ListNoticesRequest(unread_only=unread_only, page_size=size, page_token=token)
        reply = await context.call(context.services.notify.ListNotices, request)
        return reply.notices, reply.next_page_token, None

    return await connect(first, after, fetch)


@part.resolve("Account.unreadNotices")
async def unread_notices(account: identity.Account, info: Info) -> int:
    context: Context = info.context
    own(context, account)
    reply = await context.call(context.services.notify.GetUnreadCount, pb.GetUnreadCountRequest())
    return int(reply.unread_count)


@part.resolve("Account.noticePreferences")
async def notice_preferences(account: identity.Account, info: Info) -> Any:
    context: Context = info.context
    own(context, account)
    return await context.call(context.services.notify.GetPreferences, pb.GetPreferencesRequest())


async def new_notices(context: Context) -> AsyncIterator[pb.Notice]:
    """The source of `notices`: each new notice of the caller, read as the caller. Raises Unauthenticated for a
    stranger."""
    if context.caller.kind not in ("citizen", "official"):
        raise Unauthenticated("SIGN_IN_REQUIRED", "notices need a signed-in caller")
    async with context.live.watch_notices(context.caller.subject) as ids:
        async for id in ids:
            request = pb.BatchGetNoticesRequest(ids=[id])
            reply = await context.call(context.services.notify.BatchGetNotices, request)
            for notice in reply.notices:
                yield notice


part.resolve("Notice.dossier")(lambda notice, info: info.context.dossiers.load(notice.dossier_id))
part.resolve("Notice.charge")(lambda notice, info: info.context.charges.load(notice.charge_id))
part.resolve("Notice.document")(lambda notice, info: info.context.documents.load(notice.document_id))


@mutation(part, "markNoticesRead", "NoticesRead", "Marks notices of the caller as read.")
async def mark_notices_read(context: Context, input: Mapping[str, Any]) -> Any:
    request = fill(pb.MarkNoticesReadRequest(), input, subject="noticeIds")
    reply = await context.call(context.services.notify.MarkNoticesRead, request)
    return NoticesRead(reply.unread_count)


@mutation(part, "setNoticePreferences", "NoticePreferences", "Chooses the channels of the caller's notices.")
async def set_notice_preferences(context: Context, input: Mapping[str, Any]) -> Any:
    request = fill(pb.SetPreferencesRequest(), input)
    return await context.call(context.services.notify.SetPreferences, request)
