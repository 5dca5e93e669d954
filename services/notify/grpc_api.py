"""The gRPC API of notify: protobuf to handlers and back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from kit.errors import FieldViolation, InvalidInput
from kit.grpc_server import current_caller
from kit.mongo import Request, etag
from motcua.notify.v1 import notify_pb2 as pb
from motcua.notify.v1 import notify_pb2_grpc
from notify import handlers
from notify.domain.delivery import State
from notify.domain.kinds import KINDS, Channel
from notify.domain.notice import Notice
from notify.domain.people import Choice, Preferences
from notify.handlers import Ports
from notify.store import GROUPS

_CHANNELS: Final = {
    Channel.APP: pb.NOTICE_CHANNEL_APP,
    Channel.EMAIL: pb.NOTICE_CHANNEL_EMAIL,
    Channel.SMS: pb.NOTICE_CHANNEL_SMS,
    Channel.ZALO: pb.NOTICE_CHANNEL_ZALO,
}
_STATES: Final = {
    State.PENDING: pb.DELIVERY_STATE_PENDING,
    State.SENDING: pb.DELIVERY_STATE_SENDING,
    State.SENT: pb.DELIVERY_STATE_SENT,
    State.FAILED: pb.DELIVERY_STATE_FAILED,
    State.ABANDONED: pb.DELIVERY_STATE_ABANDONED,
}
_GROUP_IN = {value: group for group, value in GROUPS.items()}
_CHANNEL_IN = {value: channel for channel, value in _CHANNELS.items()}
_Context = grpc.aio.ServicerContext[Any, Any]


class NotifyApi(notify_pb2_grpc.NotifyServiceServicer):
    """The servicer."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def ListNotices(self, request: pb.ListNoticesRequest, context: _Context) -> pb.ListNoticesResponse:
        page, unread = await handlers.list_notices(
            self._ports,
            current_caller(),
            unread_only=request.unread_only,
            size=_size(request.page_size),
            token=request.page_token,
        )
        return pb.ListNoticesResponse(
            notices=[_notice(notice) for notice in page.items],
            next_page_token=page.next_token,
            unread_count=unread,
        )

    async def BatchGetNotices(
        self, request: pb.BatchGetNoticesRequest, context: _Context
    ) -> pb.BatchGetNoticesResponse:
        found = await handlers.get_notices(self._ports, current_caller(), list(request.ids))
        return pb.BatchGetNoticesResponse(notices=[_notice(notice) for notice in found])

    async def GetUnreadCount(
        self, request: pb.GetUnreadCountRequest, context: _Context
    ) -> pb.GetUnreadCountResponse:
        unread = await handlers.count_unread(self._ports, current_caller())
        return pb.GetUnreadCountResponse(unread_count=unread)

    async def MarkNoticesRead(
        self, request: pb.MarkNoticesReadRequest, context: _Context
    ) -> pb.MarkNoticesReadResponse:
        # Marking twice is marking once: the request id has nothing to guard.
        unread = await handlers.mark_read(self._ports, current_caller(), list(request.ids))
        return pb.MarkNoticesReadResponse(unread_count=unread)

    async def GetPreferences(
        self, request: pb.GetPreferencesRequest, context: _Context
    ) -> pb.GetPreferencesResponse:
        found = await handlers.get_preferences(self._ports, current_caller())
        return pb.GetPreferencesResponse(preferences=_switches(found), etag=etag(found))

    async def SetPreferences(
        self, request: pb.SetPreferencesRequest, context: _Context
    ) -> pb.SetPreferencesResponse:
        caller = current_caller()
        changed = await handlers.set_preferences(
            self._ports,
            caller,
            _choices(request.preferences),
            request=Request.of(caller, request.request_id, request),
            etag=request.etag,
        )
        return pb.SetPreferencesResponse(preferences=_switches(changed), etag=etag(changed))


def _size(asked: int) -> int:
    if asked < 0:
        raise InvalidInput(violations=[FieldViolation("page_size", "NEGATIVE")])
    return min(asked or 20, 100)


def _notice(notice: Notice) -> pb.Notice:
    return pb.Notice(
        id=notice.id,
        recipient_id=notice.recipient,
        kind=notice.kind,
        group=GROUPS[KINDS[notice.kind].group],
        title=notice.title,
        body=notice.body,
        dossier_id=notice.about.dossier,
        charge_id=notice.about.charge,
        document_id=notice.about.document,
        create_time=_stamp(notice.created),
        read_time=_stamp(notice.read),
        deliveries=[
            pb.Delivery(
                channel=_CHANNELS[channel],
                state=_STATES[delivery.state],
                attempts=delivery.attempts,
                send_time=_stamp(delivery.sent),
            )
            for channel, delivery in notice.deliveries.items()
        ],
    )


def _switches(preferences: Preferences) -> list[pb.Preference]:
    return [
        pb.Preference(group=GROUPS[choice.group], channel=_CHANNELS[choice.channel], enabled=choice.on)
        for choice in preferences.all()
    ]


def _choices(switches: Sequence[pb.Preference]) -> list[Choice]:
    violations = [
        FieldViolation(f"preferences[{at}].{name}", "UNKNOWN_VALUE")
        for at, switch in enumerate(switches)
        for name, known in (("group", switch.group in _GROUP_IN), ("channel", switch.channel in _CHANNEL_IN))
        if not known
    ]
    if violations:
        raise InvalidInput(violations=violations)
    return [Choice(_GROUP_IN[one.group], _CHANNEL_IN[one.channel], one.enabled) for one in switches]


def _stamp(instant: datetime | None) -> Timestamp | None:
    if instant is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp
