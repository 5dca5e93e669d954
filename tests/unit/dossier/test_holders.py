"""Which agencies need to know a dossier, and until when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dossier.domain.dossier import Dossier, draft
from dossier.domain.records import Actor, Attachment, Channel, Procedure, Step
from dossier.domain.sight import holders, is_held, subjects
from dossier.domain.states import Party

START = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
WARD, JUSTICE, TAX = "H32.15", "H32.05", "H32.07"
OFFICE = Actor("official", frozenset(Party) - {Party.APPLICANT, Party.PAYMENT}, WARD)
APPLICANT = Actor("an", frozenset({Party.APPLICANT}))
MONTH = timedelta(days=30)


def received() -> Dossier:
    steps = (
        Step("examine", "", "examiner"),
        Step("check", "", "examiner", JUSTICE),
        Step("sign", "", "leader"),
    )
    procedure = Procedure("1.001193", 1, "Khai sinh", True, {}, {}, steps, {}, frozenset(Channel))
    d = draft(
        "d1",
        procedure,
        START,
        applicant="an",
        filed_by="binh",
        assisted=False,
        channel=Channel.ONLINE,
        case="",
        form={},
        attachments=[Attachment("a", "paper", 1)],
        receiving_agency=WARD,
        support_point="",
    )
    assert holders(d) == {}, "a draft is the citizen's own business"
    d.submit(APPLICANT, START)
    code = "H32.15-261123-0001"
    d.receive(OFFICE, START, code=code, due=None, supplement_until=START + MONTH, step_due=None)
    return d


def test_the_agency_that_has_it_and_the_receiving_one_hold_it_until_its_end() -> None:
    d = received()
    assert holders(d) == {WARD: None}
    d.complete_step(OFFICE, START, expected="", note="", step_due=None)
    assert holders(d) == {WARD: None, JUSTICE: None}
    left = START + timedelta(days=1)
    d.complete_step(OFFICE, left, expected="", note="", step_due=None)
    assert holders(d) == {WARD: None, JUSTICE: left + MONTH}
    ended = START + timedelta(days=3)
    d.stop(OFFICE, ended, reason="dừng")
    assert holders(d) == {WARD: ended + MONTH, JUSTICE: left + MONTH}
    assert is_held(d, [JUSTICE], left + MONTH)
    assert not is_held(d, [JUSTICE], left + MONTH + timedelta(seconds=1))
    assert not is_held(d, [TAX], START)


def test_who_was_asked_for_an_opinion_holds_it_as_long_as_it_has_it() -> None:
    d = received()
    d.hand_off(OFFICE, START, agency=TAX, official="", note="", step_due=None)
    assert holders(d)[TAX] is None
    back = START + timedelta(hours=5)
    d.hand_off(OFFICE, back, agency=WARD, official="", note="", step_due=None)
    assert holders(d)[TAX] == back + MONTH


def test_there_is_the_dossier_its_people_and_its_papers_to_see() -> None:
    assert subjects(received()) == ["d1", "an", "binh", "paper"]
