"""A dossier from draft to result. Each act goes through the graph of `states`, then its own rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from dossier.domain.records import (
    Actor,
    Apology,
    Attachment,
    Channel,
    Charge,
    FeeLine,
    FeeNeededBy,
    HandOver,
    Happened,
    Limit,
    Procedure,
    Receipt,
    Step,
    Supplement,
    Timeliness,
    Transition,
    apology_deadline,
    rules_on,
    timeliness,
)
from dossier.domain.route import Move, Route
from dossier.domain.states import RUNNING, TERMINAL, TICKING, Action, Edge, Party, State, actions, step
from kit.clock import vietnam_day
from kit.errors import Conflict, DomainError, FailedPrecondition, FieldViolation, InvalidInput
from kit.money import wrong_items
from kit.text import identifier

_CODE = re.compile(r"[A-Z0-9][A-Z0-9.]{0,39}-\d{6}-\d{4,6}")
MOST_CHARGES = 50
MOST_HAND_OVERS = 500  # lines of the control sheet after which it is no longer handed to and fro
_HANDING = ("reception", "examiner", "leader")  # who may take it back from an agency that was asked
_ROLES = {
    "reception": Party.RECEPTION,
    "examiner": Party.EXAMINER,
    "leader": Party.LEADER,
    "clerk": Party.CLERK,
}


@dataclass
class Dossier:
    """One filing of one version of a procedure. Change it only through its methods."""

    id: str
    procedure: str
    version: int
    procedure_name: str
    applicant: str
    filed_by: str
    channel: Channel
    receiving_agency: str
    deciding_agency: str
    current_agency: str
    created: datetime
    updated: datetime
    steps: list[Step]
    limit: Limit | None
    refundable: bool
    fee_needed_by: FeeNeededBy = FeeNeededBy.RESULT
    assisted: bool = False  # filed by an official for an applicant at the desk
    support_point: str = ""
    case: str = ""
    form: dict[str, Any] = field(default_factory=dict)
    attachments: list[Attachment] = field(default_factory=list)
    state: State = State.DRAFT
    code: str = ""
    agencies: list[str] = field(default_factory=list)  # all that hold it or held it
    step_at: int = 0
    step_due: datetime | None = None
    assignee: str = ""
    submitted: datetime | None = None
    reception_due: datetime | None = None  # until when it is to be received or refused
    receipt: Receipt | None = None
    supplement_until: datetime | None = None
    due: datetime | None = None
    paused: datetime | None = None  # since when the clock stands still
    asked_from: State | None = None  # the state in which the withdrawal was asked for
    supplement: Supplement | None = None
    apology: Apology | None = None
    closing_reason: str = ""
    withdrawn: bool = False
    finished: datetime | None = None
    timeliness: Timeliness = Timeliness.NONE
    charges: list[Charge] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    signed_by: str = ""
    rating: int = 0
    rating_comment: str = ""
    hand_overs: list[HandOver] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    # -- what it says of itself

    @property
    def step(self) -> Step | None:
        """The step that it is at; None when the procedure names none."""
        return self.steps[self.step_at] if self.step_at < len(self.steps) else None

    @property
    def route(self) -> Route:
        """The chain of its steps, and who receives and decides."""
        return Route(tuple(self.steps), self.receiving_agency, self.deciding_agency)

    @property
    def away(self) -> bool:
        """Whether the agency that has it was only asked for its opinion on the step that it is at."""
        working = self.state in RUNNING or self.state is State.WITHDRAWAL_REQUESTED
        return working and self.route.is_away(self.step_at, self.current_agency)

    @property
    def deadline(self) -> datetime | None:
        """By when the agency that has it must have acted: received it while it is new, decided it later.
        None without a limit, while the clock stands still for the applicant, and once there is an end.

        Lists, statistics and reminders all ask this: what has no deadline is neither due soon nor overdue.
        """
        if self.state not in TICKING or self.paused is not None:
            return None
        return self.reception_due if self.state is State.NEW else self.due

    @property
    def paid(self) -> bool:
        """Whether something was charged, and all of it is paid and still with us."""
        return bool(self.charges) and not any(map(self._lacks, self.charges))

    @property
    def fee_given_back(self) -> bool:
        """Whether a fee went back and nothing was paid in its place."""
        return any(charge.given_back and self._lacks(charge) for charge in self.charges)

    @property
    def fee_is_needed(self) -> bool:
        """Whether the procedure's rule wants a fee that was given back to be paid again."""
        ended = self.state in TERMINAL
        return self.fee_given_back and not ended and self.fee_needed_by is not FeeNeededBy.NEVER

    def _lacks(self, charge: Charge) -> bool:
        """Whether the money of a charge is not with us. One that went back is made good by a later charge,
        which is then the one to ask about."""
        if charge.refund_asked is None:
            return charge.paid is None
        return not any(later.asked >= charge.refund_asked for later in self.charges if later is not charge)

    @property
    def refundable_charges(self) -> bool:
        return self.refundable and any(charge.held for charge in self.charges)

    def parties(self, roles: Iterable[tuple[str, str]]) -> frozenset[Party]:
        """The capacities that an official's (agency, role) pairs give towards this dossier."""
        found: set[Party] = set()
        for agency, role in roles:
            if role == "reception" and agency == self.receiving_agency:
                found.add(Party.FRONT)
            if (
                role == "reception"
                and self.assisted
                and agency in (self.support_point, self.receiving_agency)
            ):
                found.add(Party.DESK)
            if agency == self.current_agency and self.state is not State.DRAFT and role in _ROLES:
                found.add(Party.ASKED if self.away else _ROLES[role])
            elif role in _HANDING and self.away and agency == self.route.place(self.step_at):
                found.add(Party.HOME)
        if self.state is State.DRAFT:
            found.discard(Party.FRONT)
        return frozenset(found)

    def allowed(self, actor: Actor, at: datetime) -> list[Action]:
        """What this actor could do at this moment, in the order of the graph."""
        possible = []
        for action in actions(self.state, actor.parties):
            try:
                self._may(action, actor, at)
            except DomainError:
                continue
            possible.append(action)
        return possible

    def step_after(self, agency: str | None = None, to_step: str = "") -> Step | None:
        """The step that it comes to when this one is completed or, with an agency, when it is handed there;
        None where it stays at its step, and for what is refused."""
        try:
            if agency is None:
                move = self.route.onward(self.step_at)
            else:
                move = self.route.handed(self.step_at, self.current_agency, agency, to_step)
        except DomainError:
            return None
        return self.steps[move.to] if move.to != self.step_at and move.to < len(self.steps) else None

    # -- acts of the applicant's side

    def update(
        self,
        actor: Actor,
        at: datetime,
        *,
        case: str,
        form: dict[str, Any],
        attachments: list[Attachment],
        receiving_agency: str,
        deciding_agency: str,
    ) -> None:
        """Changes the draft."""
        edge = self._may(Action.UPDATE, actor, at)
        self.case, self.form, self.attachments = case, form, attachments
        self.receiving_agency = self.current_agency = receiving_agency
        self.deciding_agency = deciding_agency
        self._move(edge, actor, at)

    def submit(self, actor: Actor, at: datetime, *, reception_due: datetime | None = None) -> None:
        """Files the draft, to be received by `reception_due`. That form and components are complete has been
        checked against the procedure."""
        edge = self._may(Action.SUBMIT, actor, at)
        self.submitted, self.reception_due = at, reception_due
        self._arrive(self.receiving_agency)
        self._move(edge, actor, at)

    def answer_supplement(
        self,
        actor: Actor,
        at: datetime,
        *,
        form: dict[str, Any],
        attachments: list[Attachment],
        due: datetime | None,
        step_due: datetime | None,
        note: str = "",
    ) -> None:
        """Takes the new form and attachments; `due` is the whole limit again, counted from now."""
        edge = self._may(Action.SUPPLEMENT, actor, at)
        self.form, self.attachments = form, attachments
        if self.supplement is not None:
            self.supplement = replace(self.supplement, answered=at)
        self._resume(due, step_due)
        self._move(edge, actor, at, note)

    def withdraw(self, actor: Actor, at: datetime, *, reason: str) -> None:
        """Takes it back while nobody received it; else asks the agency for it."""
        edge = self._may(Action.WITHDRAW, actor, at)
        if self.state is not State.DRAFT:
            _said(reason)
        self.closing_reason = reason
        if edge.target is State.WITHDRAWN:
            self.withdrawn, self.finished = True, at
        else:
            self.asked_from = self.state
        self._move(edge, actor, at, reason)

    def rate(self, actor: Actor, at: datetime, *, rating: int, comment: str) -> None:
        """One rating, 1-5, once there is a result."""
        edge = self._may(Action.RATE, actor, at)
        if not 1 <= rating <= 5:
            raise InvalidInput("RATING_OUT_OF_RANGE", "a rating is 1 to 5")
        self.rating, self.rating_comment = rating, comment
        self._move(edge, actor, at)

    # -- acts of the agencies

    def receive(
        self,
        actor: Actor,
        at: datetime,
        *,
        code: str,
        due: datetime | None,
        supplement_until: datetime,
        step_due: datetime | None,
        note: str = "",
    ) -> None:
        """Form 01: the code and the due time; the clock starts."""
        edge = self._may(Action.RECEIVE, actor, at)
        if not _CODE.fullmatch(code):
            raise InvalidInput("BAD_CODE", f"not a dossier code: {code}")
        self.code, self.due, self.supplement_until, self.step_due = code, due, supplement_until, step_due
        self.receipt = Receipt(code, at, due, self.receiving_agency, actor.subject)
        self._move(edge, actor, at, note)

    def reject(self, actor: Actor, at: datetime, *, reason: str) -> None:
        """Form 03."""
        edge = self._may(Action.REJECT, actor, at)
        self._close(at, reason)
        self._move(edge, actor, at, reason)

    def stop(self, actor: Actor, at: datetime, *, reason: str) -> None:
        """Form 05; a stop where a withdrawal was asked for accepts it, and the citizen's reason stands."""
        edge = self._may(Action.STOP, actor, at)
        if self.state is State.WITHDRAWAL_REQUESTED:
            self.withdrawn = True
            self.timeliness = timeliness(self.paused or at, self.due)  # the citizen's time is not ours
            reason = self.closing_reason or reason
        else:
            _said(reason)
        self._close(at, reason)
        self._move(edge, actor, at, reason)

    def decline_withdrawal(self, actor: Actor, at: datetime, *, reason: str) -> None:
        """Back to where it was asked from."""
        edge = self._may(Action.DECLINE_WITHDRAWAL, actor, at)
        self.closing_reason, self.asked_from = "", None
        self._move(edge, actor, at, reason)

    def ask_supplement(
        self, actor: Actor, at: datetime, *, defects: list[str], reason: str, guidance: str
    ) -> None:
        """Form 02; the clock stands still until it is answered."""
        edge = self._may(Action.REQUEST_SUPPLEMENT, actor, at)
        self.supplement = Supplement(defects, reason, guidance, at, actor.agency, actor.subject)
        self.paused = at
        self._move(edge, actor, at, reason)

    def ask_payment(
        self, actor: Actor, at: datetime, *, charge: str, lines: list[FeeLine], refundable: bool
    ) -> None:
        """Asks for fees under the id that the charge shall have; the clock stands still until paid."""
        edge = self._may(Action.REQUEST_PAYMENT, actor, at)
        if sum(line.amount for line in lines) == 0:
            raise FailedPrecondition("NOTHING_TO_PAY", "there is no fee to ask for")
        if wrong := wrong_items(lines):
            raise InvalidInput("AMOUNT_NOT_CHARGEABLE", violations=wrong)
        if len(self.charges) >= MOST_CHARGES:
            raise FailedPrecondition("TOO_MANY_CHARGES", f"at most {MOST_CHARGES} requests of a dossier")
        self.charges.append(Charge(charge, lines, refundable, at))
        self.refundable = refundable
        if edge.target is State.PAYMENT_REQUESTED:
            self.paused = at
        self._move(edge, actor, at)

    def charge_paid(
        self, actor: Actor, at: datetime, *, charge: str, due: datetime | None, step_due: datetime | None
    ) -> None:
        """Takes note of a paid charge, once. The dossier goes on when all are paid, also when a withdrawal
        has been asked for meanwhile; a closed one only keeps the note (payment refunds by its own rule)."""
        known = next((c for c in self.charges if c.id == charge), None)
        if known is None:
            raise FailedPrecondition("UNKNOWN_CHARGE", "this dossier asked for no such charge", charge=charge)
        if known.paid is not None:
            return
        known.paid = at
        self.updated = max(self.updated, at)
        if any(c.paid is None and not c.given_back for c in self.charges):
            return
        due = max(due, self.due) if due is not None and self.due is not None else self.due
        if self.state is State.WITHDRAWAL_REQUESTED and self.asked_from is State.PAYMENT_REQUESTED:
            self.asked_from = State.IN_PROCESS
            self._resume(due, step_due)
        elif self.state is State.PAYMENT_REQUESTED:
            edge = self._may(Action.SETTLE_PAYMENT, actor, at)
            self._resume(due, step_due)
            self._move(edge, actor, at, detail={"charge": charge})

    def charge_refunded(self, actor: Actor, at: datetime, *, charge: str, amount: int, done: bool) -> None:
        """Takes note, once each, that the money of a charge is on its way back, or (`done`) went back.

        Whether the note that it was paid came before does not matter. What may be done from now on is the
        procedure's rule (`fee_needed_by`); a dossier that ended keeps its end.
        """
        known = next((c for c in self.charges if c.id == charge), None)
        if known is None:
            raise FailedPrecondition("UNKNOWN_CHARGE", "this dossier asked for no such charge", charge=charge)
        if done and known.refunded is None:
            known.refunded, known.refunded_amount = at, amount
        if known.given_back:
            return
        known.refund_asked = at
        self.updated = max(self.updated, at)
        here = self.step
        self.hand_overs.append(
            HandOver(
                step=here.id if here else "",
                step_name=here.name if here else "",
                from_agency=self.current_agency,
                from_official="",
                to_agency=self.current_agency,
                to_official=self.assignee,
                at=self.updated,
                timeliness=Timeliness.NONE,
                to_role=here.role if here else "",
                refunded=amount,
            )
        )
        detail = {"charge": charge, "amount": str(amount)}
        self.events.append(Happened("FeeGivenBack", actor.subject, "", self.updated, detail))

    def hand_off(
        self,
        actor: Actor,
        at: datetime,
        *,
        agency: str,
        official: str,
        note: str,
        step_due: datetime | None,
        to_step: str = "",
    ) -> None:
        """Hands it to another official, agency or step, as `Route.handed` says. A step that is thereby
        completed must be the actor's to complete; a return to an earlier step says why; the agency whose step
        it is takes it back from one that was only asked. `step_due` is that of the step that it comes to, if
        that is another one."""
        edge = self._may(Action.HAND_OFF, actor, at)
        move = self.route.handed(self.step_at, self.current_agency, agency, to_step)
        if move.to == self.step_at and move.agency == self.current_agency and official in ("", self.assignee):
            raise InvalidInput("NOTHING_CHANGES", "the dossier is there already")
        recalled = Party.HOME in actor.parties and Party.ASKED not in actor.parties
        if recalled and move != Move(self.step_at, self.route.place(self.step_at)):
            raise FailedPrecondition("RECALL_FIRST", "the dossier is taken back before it goes elsewhere")
        if move.completes:
            _step_can_be_completed(self, actor, at)
        elif len(self.hand_overs) >= MOST_HAND_OVERS:
            raise FailedPrecondition(
                "TOO_MANY_HAND_OVERS", "handed to and fro too often", most=MOST_HAND_OVERS
            )
        if move.to < self.step_at:
            _said(note, "note")
        self._go(move, actor, at, official, note, step_due)
        self._move(edge, actor, at, note)

    def complete_step(
        self, actor: Actor, at: datetime, *, expected: str, note: str, step_due: datetime | None
    ) -> None:
        """Completes the current step, which must be the `expected` one, and goes on to the next."""
        edge = self._may(Action.COMPLETE_STEP, actor, at)
        here = self.step
        if expected and here is not None and expected != here.id:
            raise Conflict("STEP_PASSED", "the dossier is at another step", current=here.id)
        self._go(self.route.onward(self.step_at), actor, at, "", note, step_due)
        self._move(edge, actor, at, note)

    def extend_deadline(self, actor: Actor, at: datetime, *, due: datetime, reason: str) -> None:
        """Form 04: once, and at least a day before expiry."""
        edge = self._may(Action.EXTEND_DEADLINE, actor, at)
        if self.due is None or due <= self.due:
            raise InvalidInput("NOT_LATER", "the new due time must be after the old one")
        self.apology = Apology(self.due, due, reason, at, actor.subject)
        self.due = due
        self._move(edge, actor, at, reason)

    def sign_result(self, actor: Actor, at: datetime, *, document: str, note: str) -> None:
        """The leader's signature makes the uploaded file the result; it goes back to the reception."""
        edge = self._may(Action.SIGN_RESULT, actor, at)
        self.results.append(document)
        self.signed_by = actor.subject
        self.finished, self.timeliness = at, timeliness(at, self.due)
        led = self.step is not None and self.step.role == "leader"
        move = Move(self.step_at + 1 if led else self.step_at, self.receiving_agency, completes=True)
        self._go(move, actor, at, "", note, None)
        self._move(edge, actor, at, note, detail={"document": document})

    def hand_over_result(self, actor: Actor, at: datetime, *, note: str) -> None:
        """Closes the dossier."""
        edge = self._may(Action.HAND_OVER_RESULT, actor, at)
        self._move(edge, actor, at, note)

    # -- the common part

    def _may(self, action: Action, actor: Actor, at: datetime) -> Edge:
        back = self.asked_from if action is Action.DECLINE_WITHDRAWAL else None
        edge = step(self.state, action, actor.parties, back=back)
        for rule in _RULES.get(action, ()):
            rule(self, actor, at)
        return edge

    def _move(
        self, edge: Edge, actor: Actor, at: datetime, note: str = "", *, detail: dict[str, str] | None = None
    ) -> None:
        at = max(at, self.updated)
        if edge.source is not edge.target:
            self.transitions.append(
                Transition(edge.source, edge.target, edge.action, at, actor.subject, actor.agency, note)
            )
        self.state, self.updated = edge.target, at
        if edge.event:
            self.events.append(Happened(edge.event, actor.subject, actor.agency, at, detail or {}))

    def _arrive(self, agency: str, official: str = "") -> None:
        self.current_agency, self.assignee = agency, official
        if agency not in self.agencies:
            self.agencies.append(agency)

    def _go(
        self, move: Move, actor: Actor, at: datetime, official: str, note: str, step_due: datetime | None
    ) -> None:
        """Writes a line of the control sheet and is where the move leads."""
        here = self.step
        onward = self.steps[move.to] if move.to < len(self.steps) else None
        self.hand_overs.append(
            HandOver(
                step=here.id if here else "",
                step_name=here.name if here else "",
                from_agency=self.current_agency,
                from_official=actor.subject,
                to_agency=move.agency,
                to_official=official,
                at=max(at, self.updated),
                timeliness=timeliness(at, self.step_due or self.due),
                note=note,
                to_role=onward.role if onward else "",
            )
        )
        if move.completes or move.to != self.step_at:
            self.step_at, self.step_due = move.to, step_due
        self._arrive(move.agency, official)

    def _resume(self, due: datetime | None, step_due: datetime | None) -> None:
        self.due, self.step_due, self.paused = due, step_due, None

    def _close(self, at: datetime, reason: str) -> None:
        self.closing_reason, self.finished, self.paused, self.asked_from = reason, at, None, None


def _said(reason: str, field: str = "reason") -> None:
    if not reason:
        raise InvalidInput(violations=[FieldViolation(field, "REQUIRED", "say why")])


def _window_is_open(dossier: Dossier, actor: Actor, at: datetime) -> None:
    if dossier.supplement is not None:
        raise FailedPrecondition("SUPPLEMENT_USED", "one supplement request only")
    if dossier.supplement_until is not None and at > dossier.supplement_until:
        raise FailedPrecondition("SUPPLEMENT_TOO_LATE", "the days for a supplement request are over")


def _apology_is_possible(dossier: Dossier, actor: Actor, at: datetime) -> None:
    if dossier.apology is not None:
        raise FailedPrecondition("APOLOGY_USED", "one new appointment only")
    if dossier.due is None:
        raise FailedPrecondition("NO_LIMIT", "this dossier has no due time")
    if at >= apology_deadline(dossier.due, rules_on(at)):
        raise FailedPrecondition("APOLOGY_TOO_LATE", "an apology is made at least a day before expiry")


def _step_can_be_completed(dossier: Dossier, actor: Actor, at: datetime) -> None:
    here = dossier.step
    if here is None:
        raise FailedPrecondition("LAST_STEP", "there is no step here")
    if dossier.current_agency != dossier.route.place(dossier.step_at):
        raise FailedPrecondition("NOT_AT_ITS_STEP", "this step is for another agency")
    if here.role in _ROLES and _ROLES[here.role] not in actor.parties:
        raise FailedPrecondition("NOT_YOUR_STEP", "this step is for another role", role=here.role)
    dossier.route.onward(dossier.step_at)


def _result_is_due(dossier: Dossier, actor: Actor, at: datetime) -> None:
    route = dossier.route
    if dossier.step_at != route.decides_at:
        raise FailedPrecondition("NOT_AT_SIGNING", "the dossier has not come to the signing leader yet")
    if dossier.current_agency != route.place(dossier.step_at):
        raise FailedPrecondition("NOT_THE_DECIDING_AGENCY", "the deciding agency signs")


def _result_is_signed(dossier: Dossier, actor: Actor, at: datetime) -> None:
    if not dossier.results or not dossier.signed_by:
        raise FailedPrecondition("RESULT_UNSIGNED", "an unsigned result cannot be handed over")


def _fee_is_there(dossier: Dossier, actor: Actor, at: datetime) -> None:
    """For what the procedure does not let happen while a fee that was given back is not paid again."""
    if dossier.fee_given_back and dossier.fee_needed_by is not FeeNeededBy.NEVER:
        raise FailedPrecondition("FEE_GIVEN_BACK", "the fee was given back: ask for it again first")


def _fee_for_work(dossier: Dossier, actor: Actor, at: datetime) -> None:
    if dossier.fee_needed_by is FeeNeededBy.EXAMINATION:
        _fee_is_there(dossier, actor, at)


def _can_be_asked_for(dossier: Dossier, actor: Actor, at: datetime) -> None:
    if dossier.state is State.DONE and not dossier.fee_given_back:
        raise FailedPrecondition("WRONG_STATE", "only a fee that was given back is asked for so late")


def _not_rated(dossier: Dossier, actor: Actor, at: datetime) -> None:
    if dossier.rating:
        raise FailedPrecondition("RATED_ALREADY", "rated already")


_RULES: dict[Action, tuple[Callable[[Dossier, Actor, datetime], None], ...]] = {
    Action.REQUEST_SUPPLEMENT: (_window_is_open,),
    Action.REQUEST_PAYMENT: (_can_be_asked_for,),
    Action.EXTEND_DEADLINE: (_apology_is_possible,),
    Action.HAND_OFF: (_fee_for_work,),
    Action.COMPLETE_STEP: (_step_can_be_completed, _fee_for_work),
    Action.SIGN_RESULT: (_result_is_due, _fee_for_work),
    Action.HAND_OVER_RESULT: (_result_is_signed, _fee_is_there),
    Action.RATE: (_not_rated,),
}


def draft(
    id: str,
    procedure: Procedure,
    at: datetime,
    *,
    applicant: str,
    filed_by: str,
    assisted: bool,
    channel: Channel,
    case: str,
    form: dict[str, Any],
    attachments: list[Attachment],
    receiving_agency: str,
    support_point: str,
) -> Dossier:
    """A new draft that pins this version of the procedure: its name, steps, limit and refund rule."""
    return Dossier(
        id=id,
        procedure=procedure.code,
        version=procedure.version,
        procedure_name=procedure.name,
        applicant=applicant,
        filed_by=filed_by,
        assisted=assisted,
        channel=channel,
        support_point=support_point,
        receiving_agency=receiving_agency,
        deciding_agency=deciding_agency(procedure, receiving_agency),
        current_agency=receiving_agency,
        created=at,
        updated=at,
        steps=list(procedure.steps),
        limit=procedure.limit(channel),
        refundable=procedure.refundable,
        fee_needed_by=procedure.fee_needed_by,
        case=case,
        form=form,
        attachments=attachments,
    )


def deciding_agency(procedure: Procedure, receiving_agency: str) -> str:
    """The agency of the last leader's step; without one, the receiving agency."""
    agencies = [s.agency for s in procedure.steps if s.role == "leader"]
    return (agencies[-1] if agencies else "") or receiving_agency


def merged(old: list[Attachment], new: list[Attachment]) -> list[Attachment]:
    """The new attachments, and the old ones of components that the new do not name."""
    named = {attachment.component for attachment in new}
    return [a for a in old if a.component not in named] + new


def dossier_code(agency: str, at: datetime, number: int) -> str:
    """`H32.15-261121-0001`: agency, day of reception in Vietnam, order in that day."""
    return f"{agency}-{vietnam_day(at):%y%m%d}-{number:04d}"


def normal_code(text: str) -> str:
    """A code as typed or scanned; InvalidInput BAD_CODE when it cannot be one."""
    code = identifier(text).upper()
    if not _CODE.fullmatch(code):
        raise InvalidInput("BAD_CODE", "a code looks like H32.15-261121-0001")
    return code


def is_open(dossier: Dossier) -> bool:
    """Whether results may still be prepared for it."""
    return dossier.state in RUNNING
