"""The agencies' side: receiving, processing, deciding, closing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from dossier.domain.dossier import (
    Dossier,
)
from dossier.domain.records import (
    Actor,
    FeeLine,
    Limit,
    TimeUnit,
    rules_on,
)
from dossier.domain.states import Action
from dossier.handlers import WORKING_ROLES, Ports, words
from dossier.handlers.common import (
    act,
    applicant_verified,
    due_of,
    not_verified,
    settle,
    step_due_of,
    wrong,
)
from dossier.handlers.sight import View, open_dossier
from kit.auth import Caller, allow, official
from kit.errors import (
    FailedPrecondition,
)
from kit.ids import derived
from kit.money import CURRENCY, LONGEST_NAME, MOST, MOST_LINES, MOST_UNITS


@allow(official("reception"))
async def receive_dossier(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    note: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Form 01: code and due time."""
    seen = await open_dossier(ports, caller, id)
    dossier, at = seen.dossier, ports.clock()
    note = words("note", note)
    code, due, window, step_due = dossier.code, dossier.due, at, dossier.step_due
    if Action.RECEIVE in dossier.allowed(seen.actor, at):
        due = await due_of(ports, at, dossier.limit)
        window = await ports.catalog.due(at, Limit(rules_on(at).supplement_days, TimeUnit.WORKING_DAY))
        step_due = await step_due_of(ports, at, dossier.step)
        code = await ports.codes.assign(dossier.id, dossier.receiving_agency, at)

    def receive(d: Dossier, who: Actor, _: datetime) -> None:
        d.receive(who, at, code=code, due=due, supplement_until=window, step_due=step_due, note=note)

    return await act(ports, caller, seen, receive, request=request, etag=etag)


@allow(official("reception", "examiner", "leader"))
async def reject_dossier(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    reason: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Form 03: not received, or refused on examination."""
    seen = await open_dossier(ports, caller, id)
    reason = words("reason", reason, required=True)
    return await act(
        ports, caller, seen, lambda d, who, at: d.reject(who, at, reason=reason), request=request, etag=etag
    )


@allow(official("reception", "examiner", "leader"))
async def request_supplement(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    defects: Sequence[str],
    reason: str,
    guidance: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Form 02."""
    seen = await open_dossier(ports, caller, id)
    if len(defects) > 50:
        raise wrong("defects", "TOO_MANY", "at most 50")
    listed = [clean for defect in defects if (clean := words("defects", defect, limit=500))]
    reason = words("reason", reason, required=not listed)
    guidance = words("guidance", guidance)

    def ask(d: Dossier, who: Actor, at: datetime) -> None:
        d.ask_supplement(who, at, defects=listed, reason=reason, guidance=guidance)

    return await act(ports, caller, seen, ask, request=request, etag=etag)


@allow(official("reception", "examiner", "leader"))
async def request_payment(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    quantities: Mapping[str, int],
    lines: Sequence[FeeLine],
    request: Any = None,
    etag: str = "",
) -> View:
    """Asks for the procedure's fee; lines of one's own only where the catalogue does not know the fee."""
    seen = await open_dossier(ports, caller, id)
    if len(lines) > MOST_LINES:
        raise wrong("lines", "TOO_MANY", f"at most {MOST_LINES}")
    dossier = seen.dossier
    asked, refundable = list(lines), dossier.refundable
    if Action.REQUEST_PAYMENT in dossier.allowed(seen.actor, ports.clock()):
        quote = await ports.catalog.quote(dossier.procedure, dossier.version, dossier.channel, quantities)
        if quote.known and lines:
            raise wrong("lines", "FEE_IS_KNOWN", "the catalogue says what this costs")
        if not quote.known and not lines:
            raise FailedPrecondition("FEE_UNKNOWN", "the catalogue does not know this fee: say the lines")
        asked = quote.lines if quote.known else [_checked_line(line) for line in lines]
        refundable = quote.refundable

    def ask(d: Dossier, who: Actor, at: datetime) -> None:
        charge = derived("charge", d.id, str(len(d.charges) + 1))
        d.ask_payment(who, at, charge=charge, lines=asked, refundable=refundable)

    return await act(ports, caller, seen, ask, request=request, etag=etag)


@allow(official("reception", "examiner", "leader"))
async def hand_off(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    agency: str,
    to_official: str,
    note: str,
    to_step: str = "",
    request: Any = None,
    etag: str = "",
) -> View:
    """Hands the dossier to another agency, to an official who works there, or back to an earlier step."""
    seen = await open_dossier(ports, caller, id)
    note, known = words("note", note), seen.dossier
    if to_step and not agency:
        there = next((at for at, step in enumerate(known.steps) if step.id == to_step), None)
        agency = known.current_agency if there is None else known.route.place(there)
    agency = agency or known.current_agency
    if agency != known.current_agency and not await ports.identity.exists(agency):
        raise wrong("to_agency", "UNKNOWN_AGENCY", "no such agency today")
    if to_official:
        account = await ports.identity.account(to_official)
        if account is None or not any(
            held == agency and role in WORKING_ROLES for held, role in account.roles
        ):
            raise wrong("to_official_id", "NOT_OF_THIS_AGENCY", "no official of that agency")
    step_due = await step_due_of(ports, ports.clock(), known.step_after(agency, to_step))

    def hand(d: Dossier, who: Actor, at: datetime) -> None:
        d.hand_off(
            who, at, agency=agency, official=to_official, note=note, step_due=step_due, to_step=to_step
        )

    return await act(ports, caller, seen, hand, request=request, etag=etag)


@allow(official("reception", "examiner", "leader", "clerk"))
async def complete_step(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    step: str,
    note: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Goes on to the next step."""
    seen = await open_dossier(ports, caller, id)
    note = words("note", note)
    step_due = await step_due_of(ports, ports.clock(), seen.dossier.step_after())

    def complete(d: Dossier, who: Actor, at: datetime) -> None:
        d.complete_step(who, at, expected=step, note=note, step_due=step_due)

    return await act(ports, caller, seen, complete, request=request, etag=etag)


@allow(official("reception", "examiner", "leader"))
async def extend_deadline(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    due: datetime,
    reason: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Form 04: an apology with a new due time."""
    seen = await open_dossier(ports, caller, id)
    reason = words("reason", reason, required=True)

    def extend(d: Dossier, who: Actor, at: datetime) -> None:
        d.extend_deadline(who, at, due=due, reason=reason)

    return await act(ports, caller, seen, extend, request=request, etag=etag)


@allow(official("reception", "examiner", "leader"))
async def stop_dossier(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    reason: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Form 05, or the acceptance of a withdrawal."""
    seen = await open_dossier(ports, caller, id)
    reason = words("reason", reason)
    return await act(
        ports, caller, seen, lambda d, who, at: d.stop(who, at, reason=reason), request=request, etag=etag
    )


@allow(official("reception", "leader"))
async def decline_withdrawal(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    reason: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """The dossier stays where it was before the withdrawal was asked for."""
    seen = await open_dossier(ports, caller, id)
    reason = words("reason", reason, required=True)

    def decline(d: Dossier, who: Actor, at: datetime) -> None:
        d.decline_withdrawal(who, at, reason=reason)

    return await act(ports, caller, seen, decline, request=request, etag=etag)


@allow(official("leader"))
async def sign_result(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    document: str,
    note: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Makes an uploaded file of the agency the result, and the applicant its owner."""
    seen = await open_dossier(ports, caller, id)
    note = words("note", note)
    found = await ports.documents.find(document) if document else None
    if found is None or found.dossier != id:
        raise FailedPrecondition("RESULT_MISSING", "the result of this dossier has to be uploaded first")
    found.newest.check_readable()

    def sign(d: Dossier, who: Actor, at: datetime) -> None:
        d.sign_result(who, at, document=document, note=note)

    done = await act(ports, caller, seen, sign, request=request, etag=etag)
    await settle(ports, done.dossier)
    return done


@allow(official("reception", "clerk"))
async def hand_over_result(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    note: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """The applicant, who must have been proven, has the result; the dossier is closed."""
    seen = await open_dossier(ports, caller, id)
    note = words("note", note)
    handed = Action.HAND_OVER_RESULT in seen.dossier.allowed(seen.actor, ports.clock())
    if handed and not await applicant_verified(ports, seen.dossier):
        raise not_verified()
    done = await act(
        ports,
        caller,
        seen,
        lambda d, who, at: d.hand_over_result(who, at, note=note),
        request=request,
        etag=etag,
    )
    await settle(ports, done.dossier)
    return done


def _checked_line(line: FeeLine) -> FeeLine:
    if line.currency not in ("", CURRENCY):
        raise wrong("lines", "BAD_CURRENCY", f"fees are in {CURRENCY}")
    if line.amount <= 0 or line.quantity < 0:
        raise wrong("lines", "BAD_AMOUNT", "an amount is a positive number of đồng")
    if line.amount > MOST:
        raise wrong("lines", "AMOUNT_TOO_LARGE", f"at most {MOST} đồng")
    if line.quantity > MOST_UNITS:
        raise wrong("lines", "OUT_OF_RANGE", f"a quantity is 1 to {MOST_UNITS}")
    return FeeLine(
        words("lines.name", line.name, required=True, limit=LONGEST_NAME), line.amount, line.quantity or 1
    )
