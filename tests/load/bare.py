"""The yardstick: a bare handler that makes the workspace query's RPCs and answers its bytes, without GraphQL.

It uses the same client of the services as the gateway, so that the difference is what GraphQL costs.

    IDENTITY_TARGET=… CATALOG_TARGET=… … python -m tests.load.bare PORT
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from typing import Any

import orjson
import uvicorn
from google.protobuf.timestamp_pb2 import Timestamp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.ids import to_global
from gateway.services import NAMES, Services
from kit.grpc_client import connect
from motcua.catalog.v1 import catalog_pb2 as catalog
from motcua.dossier.v1 import dossier_pb2 as dossier
from motcua.identity.v1 import identity_pb2 as identity
from motcua.notify.v1 import notify_pb2 as notify
from motcua.payment.v1 import payment_pb2 as payment


def build() -> Starlette:
    """The application; its services are where `<NAME>_TARGET` says."""
    services: Services | None = None

    async def workspace(request: Request) -> Response:
        nonlocal services
        if services is None:
            services = Services({name: os.environ[f"{name.upper()}_TARGET"] for name in NAMES}, connect)
        sizes = orjson.loads(await request.body())["variables"]
        answer = await _workspace(services, request.headers["authorization"], sizes)
        return Response(orjson.dumps(answer), media_type="application/json")

    async def cpu(_request: Request) -> Response:
        return PlainTextResponse(str(time.process_time()))

    return Starlette(routes=[Route("/", workspace, methods=["POST"]), Route("/cpu", cpu)])


async def _workspace(services: Services, authorization: str, sizes: Any) -> Any:
    metadata = (("authorization", authorization),)
    viewer = (await services.identity.GetAccount(identity.GetAccountRequest(), metadata=metadata)).account
    dossiers, notices, unread = await asyncio.gather(
        _dossiers(services, metadata, sizes["dossiers"]),
        services.notify.ListNotices(notify.ListNoticesRequest(page_size=sizes["notices"]), metadata=metadata),
        services.notify.GetUnreadCount(notify.GetUnreadCountRequest(), metadata=metadata),
    )
    return {
        "data": {
            "viewer": {
                "id": to_global("Account", viewer.id),
                "name": viewer.name,
                "kind": identity.AccountKind.Name(viewer.kind).removeprefix("ACCOUNT_KIND_"),
                "dossiers": dossiers,
                "notices": {
                    "nodes": [
                        {
                            "id": to_global("Notice", notice.id),
                            "title": notice.title,
                            "body": notice.body,
                            "createTime": instant(notice.create_time),
                            "readTime": instant(notice.read_time) if notice.HasField("read_time") else None,
                        }
                        for notice in notices.notices
                    ]
                },
                "unreadNotices": unread.unread_count,
            }
        }
    }


async def _dossiers(services: Services, metadata: Any, size: int) -> Any:
    page = await services.dossier.ListDossiers(dossier.ListDossiersRequest(page_size=size), metadata=metadata)
    names = {f"{item.procedure_code}@{item.procedure_version}" for item in page.dossiers}
    ids = [id for item in page.dossiers for id in item.charge_ids]
    procedures, charges = await asyncio.gather(
        services.catalog.BatchGetProcedures(
            catalog.BatchGetProceduresRequest(names=names, summary_only=True), metadata=metadata
        ),
        services.payment.BatchGetCharges(payment.BatchGetChargesRequest(ids=ids), metadata=metadata),
    )
    of = {f"{found.code}@{found.version}": found for found in procedures.procedures}
    by_id = {charge.id: charge for charge in charges.charges}
    last = len(page.dossiers) - 1
    cursor = f"0:{page.next_page_token}" if page.next_page_token else f"{last + 1}:"
    return {
        "edges": [
            {
                "node": {
                    "id": to_global("Dossier", item.id),
                    "code": item.code or None,
                    "state": dossier.DossierState.Name(item.state).removeprefix("DOSSIER_STATE_"),
                    "createTime": instant(item.create_time),
                    "dueTime": instant(item.due_time) if item.HasField("due_time") else None,
                    "procedureName": item.procedure_name,
                    "procedure": _procedure(of.get(f"{item.procedure_code}@{item.procedure_version}")),
                    "charges": [_charge(by_id[id]) for id in item.charge_ids if id in by_id],
                }
            }
            for item in page.dossiers
        ],
        "pageInfo": {
            "hasNextPage": page.next_page_token != "",
            "endCursor": urlsafe_b64encode(cursor.encode()).decode() if page.dossiers else None,
        },
    }


def instant(stamp: Timestamp) -> str:
    """As the API writes instants."""
    moment = datetime.fromtimestamp(stamp.seconds, UTC)
    return f"{moment.strftime('%Y-%m-%dT%H:%M:%S')}.{stamp.nanos // 1_000_000:03}Z"


def _procedure(found: catalog.Procedure | None) -> Any:
    return found and {"code": found.code, "name": found.name, "field": found.field}


def _charge(charge: payment.Charge) -> Any:
    return {
        "id": to_global("Charge", charge.id),
        "state": payment.ChargeState.Name(charge.state).removeprefix("CHARGE_STATE_"),
        "amount": {"amount": charge.amount, "currency": charge.currency},
    }


if __name__ == "__main__":
    uvicorn.run(
        build(), port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
