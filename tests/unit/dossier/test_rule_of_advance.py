"""No sequence of acts reaches a signature without each step before it done by its role at its agency."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dossier.domain.dossier import Dossier, draft
from dossier.domain.records import Actor, Channel, Limit, Procedure, Step, TimeUnit
from dossier.domain.states import Action, State
from kit.errors import DomainError

START = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
WARD, JUSTICE, TAX = "H32.15", "H32.05", "H32.07"
AGENCIES = (WARD, JUSTICE, TAX)
ROLES = ("reception", "examiner", "leader", "clerk")

chains = st.lists(
    st.tuples(st.sampled_from(ROLES), st.sampled_from(("", *AGENCIES))), min_size=1, max_size=6
).map(lambda parts: tuple(Step(f"s{n}", f"Bước {n}", role, agency) for n, (role, agency) in enumerate(parts)))
officials = st.tuples(st.sampled_from(AGENCIES), st.sampled_from(ROLES))
acts = st.lists(
    st.tuples(
        officials,
        st.sampled_from(("complete", "hand", "hand", "sign")),
        st.sampled_from(("", *AGENCIES)),
    ),
    max_size=60,
)


def received(steps: tuple[Step, ...]) -> Dossier:
    procedure = Procedure(
        code="1.001193",
        version=2,
        name="Đăng ký khai sinh",
        fileable=True,
        schema={},
        cases={},
        steps=steps,
        limits={Channel.ONLINE: Limit(5, TimeUnit.WORKING_DAY)},
        channels=frozenset(Channel),
    )
    d = draft(
        "d1",
        procedure,
        START,
        applicant="an",
        filed_by="an",
        assisted=False,
        channel=Channel.ONLINE,
        case="",
        form={},
        attachments=[],
        receiving_agency=WARD,
        support_point="",
    )
    d.state = State.NEW
    d.agencies = [WARD]
    d.receive(
        who(d, (WARD, "reception")),
        START,
        code="H32.15-261123-0001",
        due=START + timedelta(days=7),
        supplement_until=START + timedelta(days=3),
        step_due=None,
    )
    return d


def who(d: Dossier, official: tuple[str, str]) -> Actor:
    return Actor(f"{official[1]} of {official[0]}", d.parties([official]), official[0])


def attempt(d: Dossier, official: tuple[str, str], act: str, agency: str) -> bool:
    actor = who(d, official)
    try:
        if act == "complete":
            d.complete_step(actor, START, expected="", note="", step_due=None)
        elif act == "hand":
            d.hand_off(actor, START, agency=agency, official="", note="", step_due=None)
        else:
            d.sign_result(actor, START, document="result", note="")
    except DomainError:
        return False
    return True


@pytest.mark.proof("9.5")
@settings(max_examples=400, deadline=None, report_multiple_bugs=False)
@given(chains, acts)
@example(
    (Step("s0", "Bước 0", "reception", "H32.05"),),
    [((WARD, "reception"), "hand", "H32.05"), (("H32.05", "leader"), "sign", "")],
)
def test_a_signature_follows_on_every_step_done_by_its_role_at_its_agency(
    steps: tuple[Step, ...], wanted: list[tuple[tuple[str, str], str, str]]
) -> None:
    d = received(steps)
    leads = [n for n, step in enumerate(steps) if step.role == "leader"]
    examines = [n + 1 for n, step in enumerate(steps) if step.role == "examiner"]
    decides = leads[-1] if leads else max(examines, default=0)
    done: dict[int, tuple[str, str]] = {}
    for official, act, agency in wanted:
        before = d.step_at
        if not attempt(d, official, act, agency):
            continue
        if d.state is State.DONE:
            for n, step in enumerate(steps[:decides]):
                assert done.get(n) == (step.agency or WARD, step.role), f"step {n} was left out"
            assert before == decides
            assert official == (steps[decides].agency or WARD if leads else WARD, "leader")
            return
        assert d.step_at <= before + 1
        if d.step_at == before + 1:
            done[before] = official
        done = {n: by for n, by in done.items() if n < d.step_at}


@settings(max_examples=200, deadline=None)
@given(chains)
def test_every_chain_can_come_to_its_signature(steps: tuple[Step, ...]) -> None:
    d = received(steps)
    for _ in range(2 * len(steps) + 2):
        everybody = [(agency, role) for agency in AGENCIES for role in ROLES]
        acts = [(official, act, "") for act in ("sign", "complete") for official in everybody]
        if not any(attempt(d, *chosen) for chosen in acts):
            desk = who(d, (d.current_agency, "reception"))
            home = d.route.place(d.step_at)
            d.hand_off(desk, START, agency=home, official="somebody", note="", step_due=None)
        if d.state is State.DONE:
            return
    raise AssertionError(f"it stays at step {d.step_at} of {steps}")


CHAIN = (
    Step("examine", "Thẩm tra", "examiner"),
    Step("approve", "Duyệt", "leader"),
    Step("sign", "Ký", "leader", JUSTICE),
    Step("return", "Trả", "reception"),
)


@pytest.mark.proof("9.5")
def test_an_examiner_does_not_skip_a_leaders_step_by_handing_the_dossier_on() -> None:
    d = received(CHAIN)
    assert attempt(d, (WARD, "examiner"), "complete", "")
    attempt(d, (WARD, "examiner"), "hand", JUSTICE)
    assert (d.step.id if d.step else "") == "approve"
    assert not attempt(d, (JUSTICE, "leader"), "sign", "")


@pytest.mark.proof("9.5")
def test_a_leader_does_not_leave_out_the_signature_by_handing_the_dossier_back() -> None:
    d = received(CHAIN)
    assert attempt(d, (WARD, "examiner"), "complete", "")
    assert attempt(d, (WARD, "leader"), "complete", "")
    assert d.current_agency == JUSTICE
    attempt(d, (JUSTICE, "leader"), "hand", WARD)
    assert not attempt(d, (WARD, "leader"), "sign", "")


@pytest.mark.proof("9.5")
def test_an_agency_that_is_asked_for_its_opinion_gives_the_dossier_back_and_does_nothing_else() -> None:
    d = received(CHAIN)
    assert attempt(d, (WARD, "examiner"), "hand", TAX)
    for role in ROLES:
        assert set(d.allowed(who(d, (TAX, role)), START)) <= {Action.HAND_OFF}
    assert not attempt(d, (TAX, "examiner"), "hand", JUSTICE)
    assert attempt(d, (TAX, "examiner"), "hand", WARD)
    assert (d.current_agency, d.step.id if d.step else "") == (WARD, "examine")


def test_the_agency_whose_step_it_is_takes_the_dossier_back_from_one_that_does_not_answer() -> None:
    d = received(CHAIN)
    assert attempt(d, (WARD, "examiner"), "hand", TAX)
    examiner = who(d, (WARD, "examiner"))
    assert set(d.allowed(examiner, START)) == {Action.HAND_OFF}
    for agency in (JUSTICE, TAX, ""):
        with pytest.raises(DomainError):
            d.hand_off(examiner, START, agency=agency, official="x", note="", step_due=None)
    assert not attempt(d, (JUSTICE, "examiner"), "hand", WARD)
    assert not attempt(d, (WARD, "clerk"), "hand", WARD)
    assert attempt(d, (WARD, "examiner"), "hand", WARD)
    assert (d.current_agency, d.hand_overs[-1].from_agency) == (WARD, TAX)
    assert attempt(d, (WARD, "examiner"), "complete", "")


def test_a_return_says_why_and_the_steps_after_it_are_done_anew() -> None:
    d = received(CHAIN)
    assert attempt(d, (WARD, "examiner"), "complete", "")
    leader = who(d, (WARD, "leader"))

    def back(note: str, step: str = "examine", agency: str = "") -> None:
        d.hand_off(leader, START, agency=agency, official="", note=note, step_due=None, to_step=step)

    for reason, arguments in {
        "INVALID_INPUT": ("",),
        "UNKNOWN_STEP": ("x", "nowhere"),
        "NOT_ITS_AGENCY": ("x", "examine", TAX),
        "STEP_SKIPPED": ("x", "return"),
    }.items():
        with pytest.raises(DomainError) as refused:
            back(*arguments)
        assert refused.value.reason == reason
    back("thiếu xác minh")
    assert (d.step.id if d.step else "", d.hand_overs[-1].note, d.hand_overs[-1].to_role) == (
        "examine",
        "thiếu xác minh",
        "examiner",
    )
    assert not attempt(d, (WARD, "leader"), "complete", "")
    assert attempt(d, (WARD, "examiner"), "complete", "")


def test_the_control_sheet_has_an_end() -> None:
    d = received(CHAIN)
    while attempt(d, (d.current_agency, "examiner"), "hand", TAX if d.current_agency == WARD else WARD):
        assert len(d.hand_overs) <= 500
    if d.current_agency == TAX:
        pytest.fail("the dossier cannot come back")
    assert attempt(d, (WARD, "examiner"), "complete", "")
