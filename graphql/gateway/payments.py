"""What payment gateways call, and where they send browsers back to: forwarded to the payment service as
received."""

from __future__ import annotations

import logging
from urllib.parse import urlencode

import grpc
from google.protobuf.json_format import MessageToDict
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from gateway.context import RPC_TIMEOUT
from gateway.endpoint import BadRequest, GraphQL, bounded
from gateway.files import failure
from gateway.ids import to_global
from kit.errors import DomainError
from kit.status import from_rpc
from motcua.payment.v1 import payment_pb2 as pb

log = logging.getLogger(__name__)
_NOTICE = 64 * 1024  # bytes of a transfer notice


class Payments:
    """The handlers of `/payments`."""

    def __init__(self, graphql: GraphQL) -> None:
        self._payment = graphql.services.payment
        self._return_url = graphql.settings.payment_return_url

    async def vnpay_ipn(self, request: Request) -> Response:
        """VNPay's server-to-server notice. Always 200; what VNPay reads is RspCode, and it asks again
        after a 99."""
        try:
            reply = await self._payment.HandleVnpayIpn(
                pb.HandleVnpayIpnRequest(
                    parameters=dict(request.query_params),
                    repeated_parameters=len(request.query_params.multi_items()) > len(request.query_params),
                ),
                timeout=RPC_TIMEOUT,
            )
        except grpc.aio.AioRpcError as error:
            log.error("IPN not handled: %s", error.code().name)
            return JSONResponse({"RspCode": "99", "Message": "Unknown error"})
        return JSONResponse({"RspCode": reply.rsp_code, "Message": reply.message})

    async def vnpay_return(self, request: Request) -> Response:
        """The browser comes back: shows how it went, decides nothing."""
        try:
            reply = await self._payment.ReadVnpayReturn(
                pb.ReadVnpayReturnRequest(parameters=dict(request.query_params)), timeout=RPC_TIMEOUT
            )
        except grpc.aio.AioRpcError as error:
            known = from_rpc(error)
            return failure(known if isinstance(known, DomainError) else error, request)
        shown = MessageToDict(reply, always_print_fields_with_no_presence=True)
        shown["state"] = shown["state"].removeprefix("PAYMENT_STATE_")
        for name, kind in (("chargeId", "Charge"), ("dossierId", "Dossier")):
            shown[name] = to_global(kind, shown[name]) if shown[name] else None
        if self._return_url:
            query = urlencode({name: value for name, value in shown.items() if value is not None})
            return RedirectResponse(f"{self._return_url}?{query}", 303)
        return JSONResponse(shown, 200 if reply.valid else 400)

    async def transfer_notice(self, request: Request) -> Response:
        """A bank's signed notice of a transfer."""
        try:
            body = await bounded(request, _NOTICE)
        except BadRequest as error:
            return JSONResponse({"RspCode": "99", "Message": str(error)}, error.status)
        try:
            reply = await self._payment.HandleTransferNotice(
                pb.HandleTransferNoticeRequest(body=body, signature=request.headers.get("x-signature", "")),
                timeout=RPC_TIMEOUT,
            )
        except grpc.aio.AioRpcError as error:
            log.error("transfer notice not handled: %s", error.code().name)
            return JSONResponse({"RspCode": "99", "Message": "Unknown error"})
        return JSONResponse({"RspCode": reply.rsp_code, "Message": reply.message})
