"""What dossiers announce and charges follow."""

from __future__ import annotations

from payment.domain.charge import Charge
from payment.domain.lifecycle import ChargeState
from payment.handlers import Ports


async def charge_requested(ports: Ports, charge: Charge) -> Charge:
    """A dossier asks for a fee: the charge exists once, and is void when the dossier has ended already."""
    made = await ports.charges.create(lambda _: charge, id=charge.id)
    verdict = await ports.closed.reason(charge.dossier)
    if verdict and made.state is ChargeState.DUE:
        made = await ports.charges.change(
            made.id, lambda c: c.close(refundable=True, reason=verdict, now=ports.clock())
        )
    return made


async def dossier_closed(ports: Ports, *, dossier: str, refundable: bool, reason: str, event: str) -> None:
    """A dossier ended without a result: what is unpaid falls away, what is paid goes back by the rule.

    Remembered first, for a charge whose request is still under way.
    """
    await ports.closed.close(dossier, reason)
    token = ""
    while True:
        page = await ports.charges.page({"dossier": dossier}, size=100, token=token)
        for charge in page.items:
            await ports.charges.change(
                charge.id,
                lambda c: c.close(refundable=refundable, reason=reason, now=ports.clock()),
                handled=event,
            )
        token = page.next_token
        if not token:
            break
    ports.wake()
