"""What dossiers announce and charges follow."""

from __future__ import annotations

from typing import Final

from kit.consumer import Event, Subscription
from kit.errors import InvalidInput
from kit.money import CURRENCY
from motcua.dossier.v1 import events_pb2 as dossier
from payment.domain import charge
from payment.domain.records import Line
from payment.handlers import Ports, dossiers


async def _requested(ports: Ports, event: Event) -> None:
    message: dossier.PaymentRequested = event.message
    about = message.dossier
    if message.total != sum(line.amount for line in message.lines):
        raise InvalidInput("TOTAL_DIFFERS", "the lines do not add up to the total", total=message.total)
    await dossiers.charge_requested(
        ports,
        charge.create(
            id=message.charge_id,
            payer=about.applicant_id,
            dossier=about.dossier_id,
            agency=about.receiving_agency,
            lines=[Line(line.name, line.amount, max(line.quantity, 1)) for line in message.lines],
            now=ports.clock(),
            currency=message.currency or CURRENCY,
            dossier_code=about.code,
            procedure_code=about.procedure_code,
            procedure_name=about.procedure_name,
            agencies=[about.deciding_agency, about.current_agency, about.actor_agency],
            refundable_on_rejection=message.refundable_on_rejection,
        ),
    )


async def _closed(ports: Ports, event: Event) -> None:
    message: dossier.DossierRejected | dossier.DossierWithdrawn | dossier.DossierStopped = event.message
    await dossiers.dossier_closed(
        ports,
        dossier=message.dossier.dossier_id,
        refundable=message.refundable,
        reason=type(message).__name__,
        event=event.id,
    )


# A dossier's events come in order, so a charge is requested before it is void.
SUBSCRIPTIONS: Final = (
    Subscription(
        "payment-charges",
        "dossier",
        {
            dossier.PaymentRequested: _requested,
            dossier.DossierRejected: _closed,
            dossier.DossierWithdrawn: _closed,
            dossier.DossierStopped: _closed,
        },
    ),
)


def subscriptions(ports: Ports) -> list[Subscription]:
    """What this service subscribes to, with its handlers."""
    return [wanted.bound(ports) for wanted in SUBSCRIPTIONS]
