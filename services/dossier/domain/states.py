"""The ten national states of a dossier as one typed graph.

An edge says: from this state to that one, by this action, announced as this event, by these parties.
Every method of the aggregate that moves a dossier goes through `step`, so the table is the whole truth.
States 1-10 are those exchanged with the national portal; 20 and 21 are ours, and it never sees them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from kit.errors import FailedPrecondition, Forbidden


class State(IntEnum):
    NEW = 1  # mới đăng ký
    RECEIVED = 2  # được tiếp nhận
    NOT_RECEIVED = 3  # không được tiếp nhận
    IN_PROCESS = 4  # đang xử lý
    SUPPLEMENT_REQUESTED = 5  # yêu cầu bổ sung
    PAYMENT_REQUESTED = 6  # yêu cầu thực hiện nghĩa vụ tài chính
    WITHDRAWAL_REQUESTED = 7  # công dân yêu cầu rút
    STOPPED = 8  # dừng xử lý
    DONE = 9  # đã xử lý xong
    HANDED_OVER = 10  # đã trả kết quả
    DRAFT = 20  # not filed yet
    WITHDRAWN = 21  # taken back before it was received


class Party(StrEnum):
    """In what capacity somebody acts on a dossier."""

    APPLICANT = "applicant"  # the applicant, or whom they delegated to file
    DESK = "desk"  # the reception that filed for an applicant standing before it
    FRONT = "front"  # the reception of the receiving agency, wherever the dossier is now
    RECEPTION = "reception"  # of the agency that holds the dossier now
    EXAMINER = "examiner"  # of the agency that holds the dossier now
    LEADER = "leader"  # of the agency that holds the dossier now
    CLERK = "clerk"  # of the agency that holds the dossier now
    ASKED = "asked"  # of an agency that has it only to give its opinion, and decides nothing
    HOME = "home"  # of the agency whose step it is, while another one is asked: it can take it back
    PAYMENT = "payment"  # the payment service: a charge has been paid


class Action(StrEnum):
    UPDATE = "update"
    SUBMIT = "submit"
    RECEIVE = "receive"
    REJECT = "reject"
    HAND_OFF = "hand_off"
    COMPLETE_STEP = "complete_step"
    REQUEST_SUPPLEMENT = "request_supplement"
    SUPPLEMENT = "supplement"
    REQUEST_PAYMENT = "request_payment"
    SETTLE_PAYMENT = "settle_payment"
    WITHDRAW = "withdraw"
    DECLINE_WITHDRAWAL = "decline_withdrawal"
    STOP = "stop"
    EXTEND_DEADLINE = "extend_deadline"
    SIGN_RESULT = "sign_result"
    HAND_OVER_RESULT = "hand_over_result"
    RATE = "rate"


@dataclass(frozen=True)
class Edge:
    source: State
    target: State
    action: Action
    event: str  # the message of events.proto that announces it; empty: nobody else's business
    who: frozenset[Party]


def _edges(
    sources: Iterable[State], target: State | None, action: Action, event: str, *who: Party
) -> list[Edge]:
    """One edge for each source; without a target the dossier stays where it is."""
    return [Edge(s, s if target is None else target, action, event, frozenset(who)) for s in sources]


_S, _A, _P = State, Action, Party
_HELD = (_S.RECEIVED, _S.IN_PROCESS)  # an agency can work on it
_RUNNING = (*_HELD, _S.SUPPLEMENT_REQUESTED, _S.PAYMENT_REQUESTED)  # received, and no decision yet
_OFFICE = (_P.RECEPTION, _P.EXAMINER, _P.LEADER)

GRAPH: tuple[Edge, ...] = (
    *_edges([_S.DRAFT], None, _A.UPDATE, "", _P.APPLICANT, _P.DESK),
    *_edges([_S.DRAFT], _S.NEW, _A.SUBMIT, "DossierSubmitted", _P.APPLICANT, _P.DESK),
    *_edges([_S.DRAFT], _S.WITHDRAWN, _A.WITHDRAW, "", _P.APPLICANT, _P.DESK),
    *_edges([_S.NEW], _S.WITHDRAWN, _A.WITHDRAW, "DossierWithdrawn", _P.APPLICANT),
    *_edges([_S.NEW], _S.RECEIVED, _A.RECEIVE, "DossierReceived", _P.FRONT),
    *_edges([_S.NEW], _S.NOT_RECEIVED, _A.REJECT, "DossierRejected", _P.FRONT),
    # Refused on examination: it has been received, so it can only be stopped, with form 03 all the same.
    *_edges(_RUNNING, _S.STOPPED, _A.REJECT, "DossierRejected", _P.EXAMINER, _P.LEADER),
    *_edges(_HELD, _S.IN_PROCESS, _A.HAND_OFF, "DossierHandedOff", *_OFFICE, _P.ASKED, _P.HOME),
    *_edges(_HELD, _S.IN_PROCESS, _A.COMPLETE_STEP, "StepCompleted", *_OFFICE, _P.CLERK),
    *_edges(_HELD, _S.SUPPLEMENT_REQUESTED, _A.REQUEST_SUPPLEMENT, "SupplementRequested", *_OFFICE),
    *_edges(
        [_S.SUPPLEMENT_REQUESTED],
        _S.IN_PROCESS,
        _A.SUPPLEMENT,
        "DossierSupplemented",
        _P.APPLICANT,
        _P.DESK,
    ),
    *_edges(_HELD, _S.PAYMENT_REQUESTED, _A.REQUEST_PAYMENT, "PaymentRequested", *_OFFICE),
    # Again, for a fee that was given back after the decision; the clock has stopped for good.
    *_edges([_S.DONE], None, _A.REQUEST_PAYMENT, "PaymentRequested", *_OFFICE),
    *_edges([_S.PAYMENT_REQUESTED], _S.IN_PROCESS, _A.SETTLE_PAYMENT, "PaymentSettled", _P.PAYMENT),
    *_edges(_RUNNING, _S.WITHDRAWAL_REQUESTED, _A.WITHDRAW, "WithdrawalRequested", _P.APPLICANT),
    *_edges([_S.WITHDRAWAL_REQUESTED], _S.STOPPED, _A.STOP, "DossierWithdrawn", _P.FRONT, _P.LEADER),
    # Declined: back to where it was asked from, which the aggregate remembers.
    *(
        edge
        for back in _RUNNING
        for edge in _edges(
            [_S.WITHDRAWAL_REQUESTED],
            back,
            _A.DECLINE_WITHDRAWAL,
            "WithdrawalDeclined",
            _P.FRONT,
            _P.LEADER,
        )
    ),
    *_edges(_RUNNING, _S.STOPPED, _A.STOP, "DossierStopped", _P.EXAMINER, _P.LEADER),
    *_edges(_HELD, None, _A.EXTEND_DEADLINE, "DeadlineExtended", *_OFFICE),
    *_edges([_S.IN_PROCESS], _S.DONE, _A.SIGN_RESULT, "ResultSigned", _P.LEADER),
    *_edges([_S.DONE], _S.HANDED_OVER, _A.HAND_OVER_RESULT, "ResultHandedOver", _P.FRONT, _P.CLERK),
    *_edges([_S.DONE, _S.HANDED_OVER], None, _A.RATE, "DossierRated", _P.APPLICANT),
)

_FROM = {state: tuple(edge for edge in GRAPH if edge.source is state) for state in State}
_BY = {action: tuple(edge for edge in GRAPH if edge.action is action) for action in Action}

TERMINAL = frozenset({State.NOT_RECEIVED, State.STOPPED, State.HANDED_OVER, State.WITHDRAWN})
PAUSED = frozenset({State.SUPPLEMENT_REQUESTED, State.PAYMENT_REQUESTED, State.STOPPED})
RUNNING = frozenset(_RUNNING)
# The agency's clock runs: until it is received, while it is worked on, while a withdrawal is to be answered.
# The dossier's `deadline` says when it also stands still there.
TICKING = frozenset({State.NEW, *_HELD, State.WITHDRAWAL_REQUESTED})
WORK = frozenset({State.NEW, *_RUNNING, State.WITHDRAWAL_REQUESTED, State.DONE})  # somebody has to act


def actions(state: State, parties: frozenset[Party]) -> list[Action]:
    """What these parties may do from a state, as far as the graph says."""
    return list(dict.fromkeys(edge.action for edge in _FROM[state] if not edge.who.isdisjoint(parties)))


def step(state: State, action: Action, parties: frozenset[Party], *, back: State | None = None) -> Edge:
    """The edge that `action` takes from `state` when somebody acts in the capacities `parties`.

    `back` picks the target where an action has several (a declined withdrawal returns to where it was
    asked from). Raises Forbidden NOT_ALLOWED when none of the parties may ever do this, else
    FailedPrecondition WRONG_STATE when it cannot be done from here by them.
    """
    edges = [edge for edge in _BY[action] if edge.who & parties]
    if not edges:
        raise Forbidden("NOT_ALLOWED", f"not yours to {action}", action=action.value)
    for edge in edges:
        if edge.source is state and (back is None or edge.target is back):
            return edge
    raise FailedPrecondition(
        "WRONG_STATE",
        f"cannot {action} from state {state.name}",
        **{"from": state.name, "action": action.value},
    )
