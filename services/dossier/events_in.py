"""What this service hears: payments of its charges, and its own events for what follows from them."""

from __future__ import annotations

from datetime import UTC
from typing import Final

from dossier.handlers import Ports
from dossier.handlers.events import charge_paid, charge_refunded, keep_sights_again, settle_again
from kit.auth import Caller
from kit.consumer import Event, Subscription
from motcua.dossier.v1 import events_pb2 as ev
from motcua.payment.v1 import events_pb2 as pay

_PAYMENT = Caller("payment", "service")
# Money that never paid the charge: it came twice, late, or was another amount.
_SURPLUS = frozenset({"DOUBLE_PAYMENT", "WRONG_AMOUNT", "CHARGE_CANCELLED"})
_SELF = Caller("dossier", "service")


async def _paid(ports: Ports, event: Event) -> None:
    message: pay.ChargePaid = event.message
    at = message.pay_time.ToDatetime(UTC) if message.HasField("pay_time") else event.time
    await charge_paid(
        ports,
        _PAYMENT,
        dossier=message.charge.dossier_id,
        charge=message.charge.charge_id,
        event=event.id,
        at=at,
    )


async def _refunded(ports: Ports, event: Event) -> None:
    message: pay.RefundRequested | pay.PaymentRefunded = event.message
    if message.reason in _SURPLUS:
        return
    await charge_refunded(
        ports,
        _PAYMENT,
        dossier=message.charge.dossier_id,
        charge=message.charge.charge_id,
        amount=message.amount,
        done=isinstance(message, pay.PaymentRefunded),
        event=event.id,
        at=event.time,
    )


async def _settled(ports: Ports, event: Event) -> None:
    await settle_again(ports, _SELF, dossier=event.message.dossier.dossier_id)


async def _moved(ports: Ports, event: Event) -> None:
    await keep_sights_again(ports, _SELF, dossier=event.message.dossier.dossier_id)


SUBSCRIPTIONS: Final = (
    Subscription(
        "dossier-payments",
        "payment",
        {pay.ChargePaid: _paid, pay.RefundRequested: _refunded, pay.PaymentRefunded: _refunded},
    ),
    Subscription(
        "dossier-vault",
        "dossier",
        {
            ev.DossierSubmitted: _settled,
            ev.DossierSupplemented: _settled,
            ev.ResultSigned: _settled,
            ev.ResultHandedOver: _settled,
            ev.DossierReceived: _moved,
            ev.DossierRejected: _moved,
            ev.DossierHandedOff: _moved,
            ev.StepCompleted: _moved,
            ev.DossierStopped: _moved,
            ev.DossierWithdrawn: _moved,
        },
    ),
)


def subscriptions(ports: Ports) -> list[Subscription]:
    """What this service subscribes to, with its handlers."""
    return [wanted.bound(ports) for wanted in SUBSCRIPTIONS]
