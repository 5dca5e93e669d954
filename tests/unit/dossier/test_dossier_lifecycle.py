"""Whatever is done to a dossier in whatever order, its promises hold."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dossier.domain.dossier import (
    Dossier,
    deciding_agency,
    dossier_code,
    draft,
    merged,
    normal_code,
)
from dossier.domain.form import checked_form
from dossier.domain.records import (
    Actor,
    Attachment,
    Channel,
    FeeLine,
    Limit,
    Procedure,
    Step,
    Timeliness,
    TimeUnit,
    timeliness,
)
from dossier.domain.states import GRAPH, RUNNING, TERMINAL, Action, Party, State
from dossier.handlers.overview import NO_DAY, scalars
from dossier.store import announce_dossier
from kit.errors import DomainError, FailedPrecondition, InvalidInput
from kit.mongo import from_plain, to_plain

START = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)  # nine o'clock in Vietnam
WARD, JUSTICE = "H32.15", "H32.05"
PROCEDURE = Procedure(
    code="1.001193",
    version=2,
    name="Đăng ký khai sinh",
    fileable=True,
    schema={},
    cases={},
    steps=(
        Step("examine", "Thẩm tra", "examiner"),
        Step("check", "Đối chiếu", "examiner", JUSTICE),
        Step("sign", "Ký", "leader"),
        Step("return", "Trả", "reception"),
    ),
    limits={Channel.ONLINE: Limit(5, TimeUnit.WORKING_DAY)},
    channels=frozenset(Channel),
    refundable=True,
)
APPLICANT = Actor("an", frozenset({Party.APPLICANT}))
PAYMENT = Actor("payment", frozenset({Party.PAYMENT}))
WHOLE_OFFICE = frozenset({Party.FRONT, Party.RECEPTION, Party.EXAMINER, Party.LEADER, Party.CLERK})
OFFICE = Actor("official", WHOLE_OFFICE, WARD)


def new() -> Dossier:
    return draft(
        "d1",
        PROCEDURE,
        START,
        applicant="an",
        filed_by="an",
        assisted=False,
        channel=Channel.ONLINE,
        case="",
        form={"child": "Bé"},
        attachments=[Attachment("birth_proof", "doc", 1)],
        receiving_agency=WARD,
        support_point="",
    )


def receive(d: Dossier, at: datetime, code: str = "H32.15-261123-0001") -> None:
    d.receive(
        OFFICE,
        at,
        code=code,
        due=at + timedelta(days=7),
        supplement_until=at + timedelta(days=3),
        step_due=None,
    )


class Lifecycle(RuleBasedStateMachine):
    """Anybody tries anything at any time; what is not allowed changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.dossier = new()
        self.at = START
        self.before: Dossier = deepcopy(self.dossier)
        self.done: Action | None = None

    def attempt(self, action: Action, actor: Actor, act: Any) -> None:
        self.before = deepcopy(self.dossier)
        allowed = action in self.dossier.allowed(actor, self.at)
        tried = deepcopy(self.dossier)
        try:
            act(tried)
        except DomainError as error:
            # What `allowed` promises may only fail for what was put in.
            mine = isinstance(error, InvalidInput) or error.reason in (
                *("NOTHING_TO_PAY", "STEP_PASSED"),
                *("ONLY_ASKED", "NOT_YOUR_STEP", "NOT_AT_ITS_STEP", "TOO_MANY_HAND_OVERS"),
            )
            if allowed and not mine:
                raise
            self.done = None
            return
        assert allowed
        self.dossier, self.done = tried, action

    @rule(hours=st.integers(0, 60))
    def time_passes(self, hours: int) -> None:
        self.at += timedelta(hours=hours)

    @rule(actor=st.sampled_from([APPLICANT, OFFICE]))
    def submit(self, actor: Actor) -> None:
        self.attempt(Action.SUBMIT, actor, lambda d: d.submit(actor, self.at))

    @rule()
    def the_usual_way(self) -> None:
        """One step of the main journey, so that the later states are visited often."""
        d = self.dossier
        if d.state is State.DRAFT:
            self.submit(APPLICANT)
        elif d.state is State.NEW:
            self.receive(OFFICE, 1)
        elif d.state is State.SUPPLEMENT_REQUESTED:
            self.supplement()
        elif d.state is State.DONE:
            self.hand_over()
        elif d.step is not None and d.step.role == "leader":
            self.sign()
        else:
            self.complete_step("")

    @rule(actor=st.sampled_from([APPLICANT, OFFICE]))
    def update(self, actor: Actor) -> None:
        self.attempt(
            Action.UPDATE,
            actor,
            lambda d: d.update(
                actor,
                self.at,
                case="",
                form={"child": "Bé Hai"},
                attachments=[],
                receiving_agency=WARD,
                deciding_agency=WARD,
            ),
        )

    @rule(actor=st.sampled_from([APPLICANT, OFFICE]), number=st.integers(1, 3))
    def receive(self, actor: Actor, number: int) -> None:
        code = dossier_code(WARD, self.at, number)
        self.attempt(
            Action.RECEIVE,
            actor,
            lambda d: d.receive(
                actor,
                self.at,
                code=code,
                due=self.at + timedelta(days=7),
                supplement_until=self.at + timedelta(days=3),
                step_due=None,
            ),
        )

    @rule(actor=st.sampled_from([APPLICANT, OFFICE]))
    def reject(self, actor: Actor) -> None:
        self.attempt(Action.REJECT, actor, lambda d: d.reject(actor, self.at, reason="không đủ"))

    @rule(actor=st.sampled_from([APPLICANT, OFFICE]), reason=st.sampled_from(["", "đổi ý"]))
    def withdraw(self, actor: Actor, reason: str) -> None:
        self.attempt(Action.WITHDRAW, actor, lambda d: d.withdraw(actor, self.at, reason=reason))

    @rule(reason=st.sampled_from(["", "dừng"]))
    def stop(self, reason: str) -> None:
        self.attempt(Action.STOP, OFFICE, lambda d: d.stop(OFFICE, self.at, reason=reason))

    @rule()
    def decline(self) -> None:
        self.attempt(
            Action.DECLINE_WITHDRAWAL,
            OFFICE,
            lambda d: d.decline_withdrawal(OFFICE, self.at, reason="đã xong"),
        )

    @rule()
    def ask_supplement(self) -> None:
        self.attempt(
            Action.REQUEST_SUPPLEMENT,
            OFFICE,
            lambda d: d.ask_supplement(OFFICE, self.at, defects=["thiếu"], reason="", guidance=""),
        )

    @rule()
    def supplement(self) -> None:
        self.attempt(
            Action.SUPPLEMENT,
            APPLICANT,
            lambda d: d.answer_supplement(
                APPLICANT,
                self.at,
                form={"child": "Bé"},
                attachments=[],
                due=self.at + timedelta(days=7),
                step_due=None,
            ),
        )

    @rule(amount=st.integers(0, 2))
    def ask_payment(self, amount: int) -> None:
        charge = f"charge-{len(self.dossier.charges)}"
        lines = [FeeLine("Lệ phí", amount * 1000)]
        self.attempt(
            Action.REQUEST_PAYMENT,
            OFFICE,
            lambda d: d.ask_payment(OFFICE, self.at, charge=charge, lines=lines, refundable=True),
        )

    @precondition(lambda self: self.dossier.charges)
    @rule(data=st.data())
    def charge_paid(self, data: st.DataObject) -> None:
        charge = data.draw(st.sampled_from([c.id for c in self.dossier.charges]))
        self.before, self.done = deepcopy(self.dossier), Action.SETTLE_PAYMENT
        due = self.dossier.due
        if due is not None and self.dossier.paused is not None:
            due += max(self.at - self.dossier.paused, timedelta())
        for _ in range(2):
            self.dossier.charge_paid(PAYMENT, self.at, charge=charge, due=due, step_due=None)

    @rule(agency=st.sampled_from(["", WARD, JUSTICE]), official=st.sampled_from(["", "official", "x"]))
    def hand_off(self, agency: str, official: str) -> None:
        self.attempt(
            Action.HAND_OFF,
            OFFICE,
            lambda d: d.hand_off(OFFICE, self.at, agency=agency, official=official, note="", step_due=None),
        )

    @rule(expected=st.sampled_from(["", "examine", "check", "sign"]))
    def complete_step(self, expected: str) -> None:
        self.attempt(
            Action.COMPLETE_STEP,
            OFFICE,
            lambda d: d.complete_step(OFFICE, self.at, expected=expected, note="", step_due=None),
        )

    @rule(days=st.integers(-1, 5))
    def extend(self, days: int) -> None:
        due = (self.dossier.due or self.at) + timedelta(days=days)
        self.attempt(
            Action.EXTEND_DEADLINE,
            OFFICE,
            lambda d: d.extend_deadline(OFFICE, self.at, due=due, reason="chờ"),
        )

    @rule()
    def sign(self) -> None:
        self.attempt(
            Action.SIGN_RESULT,
            OFFICE,
            lambda d: d.sign_result(OFFICE, self.at, document="result", note=""),
        )

    @rule()
    def hand_over(self) -> None:
        self.attempt(Action.HAND_OVER_RESULT, OFFICE, lambda d: d.hand_over_result(OFFICE, self.at, note=""))

    @rule(rating=st.integers(0, 6))
    def rate(self, rating: int) -> None:
        self.attempt(Action.RATE, APPLICANT, lambda d: d.rate(APPLICANT, self.at, rating=rating, comment=""))

    @invariant()
    def it_moves_along_the_graph(self) -> None:
        state = State.DRAFT
        edges = {(edge.source, edge.target, edge.action) for edge in GRAPH}
        for transition in self.dossier.transitions:
            assert transition.source is state
            assert (transition.source, transition.target, transition.action) in edges
            state = transition.target
        assert state is self.dossier.state

    @invariant()
    def history_only_grows_and_never_goes_back_in_time(self) -> None:
        for name in ("transitions", "hand_overs"):
            now, then = getattr(self.dossier, name), getattr(self.before, name)
            assert now[: len(then)] == then
            times = [entry.at for entry in now]
            assert times == sorted(times)

    @invariant()
    def it_has_one_code_from_reception_on(self) -> None:
        if self.before.code:
            assert self.dossier.code == self.before.code
        received = any(t.target is State.RECEIVED for t in self.dossier.transitions)
        assert bool(self.dossier.code) == received == (self.dossier.receipt is not None)

    @invariant()
    def the_due_time_moves_only_by_rule(self) -> None:
        now, then = self.dossier.due, self.before.due
        if now != then:
            assert self.done in (
                Action.RECEIVE,
                Action.SUPPLEMENT,
                Action.SETTLE_PAYMENT,
                Action.EXTEND_DEADLINE,
            )
            if self.done is not Action.SUPPLEMENT and then is not None:
                assert now is not None
                assert now > then

    @invariant()
    def the_clock_stands_still_exactly_while_the_citizen_has_to_act(self) -> None:
        d = self.dossier
        waiting = d.asked_from if d.state is State.WITHDRAWAL_REQUESTED else d.state
        paused = waiting in (State.SUPPLEMENT_REQUESTED, State.PAYMENT_REQUESTED)
        assert (d.paused is not None) == paused

    @invariant()
    def no_result_leaves_unsigned_and_a_closed_one_has_an_end(self) -> None:
        d = self.dossier
        if d.state in (State.DONE, State.HANDED_OVER):
            assert d.results
            assert d.signed_by
            assert d.timeliness is not Timeliness.NONE
        if d.state in TERMINAL:
            assert d.finished
        if d.state in RUNNING:
            assert not d.finished

    @invariant()
    def it_survives_storage_and_can_be_announced(self) -> None:
        d = self.dossier
        stored = to_plain({**vars(d), "events": []})
        assert from_plain(Dossier, stored) == deepcopy_without_events(d)
        for event in d.events:
            assert announce_dossier(d, event).dossier.dossier_id == "d1"  # type: ignore[attr-defined]
        d.events.clear()

    @invariant()
    def statistics_count_it_at_most_once(self) -> None:
        found = scalars(self.dossier)
        handled = found["finished_on"] != NO_DAY
        assert not handled or self.dossier.state in (State.DONE, State.HANDED_OVER, State.STOPPED)
        assert not handled or found["timeliness"]


def deepcopy_without_events(d: Dossier) -> Dossier:
    copy = deepcopy(d)
    copy.events = []
    return copy


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def at_signing() -> Dossier:
    d = new()
    d.submit(APPLICANT, START)
    receive(d, START)
    d.complete_step(OFFICE, START, expected="examine", note="", step_due=None)
    d.complete_step(OFFICE, START, expected="check", note="", step_due=None)
    return d


def test_a_payment_during_a_withdrawal_request_lets_the_dossier_go_on_when_it_is_declined() -> None:
    d = new()
    d.submit(APPLICANT, START)
    receive(d, START)
    d.ask_payment(OFFICE, START, charge="c", lines=[FeeLine("Lệ phí", 8000)], refundable=True)
    d.withdraw(APPLICANT, START, reason="đổi ý")
    due = d.due
    assert due is not None
    d.charge_paid(PAYMENT, START, charge="c", due=due + timedelta(days=1), step_due=None)
    d.decline_withdrawal(OFFICE, START, reason="đã xong")
    assert (d.state, d.paid, d.due) == (State.IN_PROCESS, True, due + timedelta(days=1))


def test_a_withdrawal_while_the_clock_stands_still_is_not_late_for_the_citizens_delay() -> None:
    d = new()
    d.submit(APPLICANT, START)
    receive(d, START)
    d.ask_supplement(OFFICE, START, defects=["thiếu"], reason="", guidance="")
    late = START + timedelta(days=30)
    d.withdraw(APPLICANT, late, reason="đổi ý")
    d.stop(OFFICE, late, reason="")
    assert d.timeliness is Timeliness.EARLY


@pytest.mark.parametrize("end", ["signed", "withdrawn", "stopped"])
def test_a_dossier_without_a_limit_is_handled_on_time_when_it_ends_in_a_result_or_a_withdrawal(
    end: str,
) -> None:
    d = at_signing()
    d.due = None
    if end == "signed":
        d.sign_result(OFFICE, START, document="r", note="")
    else:
        if end == "withdrawn":
            d.withdraw(APPLICANT, START, reason="đổi ý")
        d.stop(OFFICE, START, reason="dừng")
    found = scalars(d)
    handled = ("2026-11-23", "on_time") if end != "stopped" else (NO_DAY, "")
    assert (found["finished_on"], found["timeliness"]) == handled


def test_a_payment_that_comes_after_the_end_is_noted_and_reopens_nothing() -> None:
    d = new()
    d.submit(APPLICANT, START)
    receive(d, START)
    d.ask_payment(OFFICE, START, charge="c", lines=[FeeLine("Lệ phí", 8000)], refundable=True)
    d.stop(OFFICE, START, reason="dừng")
    d.events.clear()
    d.charge_paid(PAYMENT, START, charge="c", due=d.due, step_due=None)
    assert (d.state, d.paid, d.events) == (State.STOPPED, True, [])


def test_a_payment_of_a_charge_that_was_never_asked_for_is_an_error() -> None:
    d = new()
    with pytest.raises(FailedPrecondition) as error:
        d.charge_paid(PAYMENT, START, charge="other", due=None, step_due=None)
    assert error.value.reason == "UNKNOWN_CHARGE"


def test_the_result_goes_back_to_the_reception_that_took_the_dossier_in() -> None:
    d = at_signing()
    d.hand_off(OFFICE, START, agency=JUSTICE, official="", note="", step_due=None)
    with pytest.raises(FailedPrecondition) as error:
        d.sign_result(OFFICE, START, document="r", note="")
    assert error.value.reason == "NOT_THE_DECIDING_AGENCY"
    d.hand_off(OFFICE, START, agency=WARD, official="", note="", step_due=None)
    d.sign_result(OFFICE, START, document="r", note="")
    assert (d.current_agency, d.agencies) == (WARD, [WARD, JUSTICE])
    assert d.step is not None
    assert d.step.id == "return"


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        (0, Timeliness.EARLY),
        (24 * 7 - 3, Timeliness.ON_TIME),
        (24 * 7, Timeliness.ON_TIME),
        (24 * 7 + 1, Timeliness.OVERDUE),
    ],
)
def test_early_is_a_day_before_and_overdue_is_after_the_due_time(hours: int, said: Timeliness) -> None:
    assert timeliness(START + timedelta(hours=hours), START + timedelta(days=7)) is said


def test_the_agency_of_the_leaders_last_step_decides() -> None:
    assert deciding_agency(PROCEDURE, WARD) == WARD
    steps = (*PROCEDURE.steps, Step("sign2", "Ký", "leader", JUSTICE))
    assert deciding_agency(Procedure(**{**vars(PROCEDURE), "steps": steps}), WARD) == JUSTICE


def test_a_code_has_the_day_in_vietnam_and_grows_past_9999() -> None:
    evening = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)  # already the 21st in Vietnam
    assert dossier_code(WARD, evening, 1) == "H32.15-261121-0001"
    assert dossier_code("000.00.12.H29", evening, 12345) == "000.00.12.H29-261121-12345"
    assert normal_code("  h32.15-261121-0001 ") == "H32.15-261121-0001"
    with pytest.raises(InvalidInput):
        normal_code("H32.15")


def test_new_attachments_replace_those_of_their_component() -> None:
    old = [Attachment("a", "1", 1), Attachment("b", "2", 1)]
    assert merged(old, [Attachment("b", "3", 2)]) == [old[0], Attachment("b", "3", 2)]


def test_a_form_is_held_within_limits_and_keeps_whole_numbers_whole() -> None:
    assert checked_form({"n": 3.0, "x": 1.5, "s": "e\u0301"}) == {"n": 3, "x": 1.5, "s": "é"}
    deep: Any = {}
    for _ in range(20):
        deep = {"a": deep}
    for form, reason in (
        (deep, "FORM_TOO_DEEP"),
        ({"a": "x" * 300_000}, "FORM_TOO_LARGE"),
        ({"$where": 1}, "BAD_FIELD_NAME"),
        ({"a": [{"b.c": 1}]}, "BAD_FIELD_NAME"),
    ):
        with pytest.raises(InvalidInput) as error:
            checked_form(form)
        assert error.value.reason == reason
