"""The graph of states as a whole: what can be reached, what is closed, who may do what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dossier.domain.states import GRAPH, PAUSED, TERMINAL, Action, Party, State, step
from dossier.store import _DOSSIER_EVENTS
from kit.errors import FailedPrecondition, Forbidden
from motcua.dossier.v1 import dossier_pb2 as pb
from motcua.dossier.v1 import events_pb2 as ev

NATIONAL = {state for state in State if state.value <= 10}


def reachable() -> set[State]:
    found = {State.DRAFT}
    while more := {edge.target for edge in GRAPH if edge.source in found} - found:
        found |= more
    return found


def test_every_state_and_so_every_edge_can_be_reached_from_a_draft() -> None:
    assert reachable() == set(State)


def test_nothing_leads_out_of_a_terminal_state() -> None:
    assert all(edge.target is edge.source for edge in GRAPH if edge.source in TERMINAL)
    ends = {state for state in State if all(e.target is state for e in GRAPH if e.source is state)}
    assert ends == TERMINAL


def test_a_terminal_state_can_be_reached_from_everywhere() -> None:
    closing = set(TERMINAL)
    while more := {edge.source for edge in GRAPH if edge.target in closing} - closing:
        closing |= more
    assert closing == set(State)


def test_the_ten_national_states_are_numbered_as_the_portal_numbers_them() -> None:
    assert {state.value for state in NATIONAL} == set(range(1, 11))
    assert {State(5), State(6), State(8)} == PAUSED
    numbers = dict(pb.DossierState.items())
    assert {state.value for state in State} == set(numbers.values()) - {0}


def test_an_edge_is_told_once_and_each_names_an_event_that_exists() -> None:
    triples = [(edge.source, edge.target, edge.action) for edge in GRAPH]
    assert len(triples) == len(set(triples))
    for edge in GRAPH:
        assert edge.who
        if edge.event:
            assert hasattr(ev, edge.event)
            assert edge.event in _DOSSIER_EVENTS
        else:
            assert edge.source is State.DRAFT, "only a draft is nobody else's business"


def test_two_edges_of_one_action_and_source_differ_only_where_a_withdrawal_is_declined() -> None:
    for edge in GRAPH:
        twins = [
            other
            for other in GRAPH
            if (other.source, other.action) == (edge.source, edge.action) and other.who & edge.who
        ]
        assert len(twins) == 1 or edge.action is Action.DECLINE_WITHDRAWAL


def test_only_payment_settles_and_only_a_leader_signs() -> None:
    by_action = {
        action: frozenset().union(*(e.who for e in GRAPH if e.action is action)) for action in Action
    }
    assert by_action[Action.SETTLE_PAYMENT] == {Party.PAYMENT}
    assert by_action[Action.SIGN_RESULT] == {Party.LEADER}
    assert by_action[Action.RECEIVE] == {Party.FRONT}
    office = {Party.FRONT, Party.RECEPTION, Party.EXAMINER, Party.LEADER, Party.CLERK}
    for action in (Action.SUBMIT, Action.SUPPLEMENT, Action.WITHDRAW, Action.RATE):
        assert not by_action[action] & office


@given(
    st.sampled_from(State),
    st.sampled_from(Action),
    st.frozensets(st.sampled_from(Party)),
)
def test_a_step_follows_an_edge_of_those_parties_or_says_why_not(
    state: State, action: Action, parties: frozenset[Party]
) -> None:
    mine = [edge for edge in GRAPH if edge.action is action and edge.who & parties]
    if not mine:
        with pytest.raises(Forbidden):
            step(state, action, parties)
    elif state not in {edge.source for edge in mine}:
        with pytest.raises(FailedPrecondition) as error:
            step(state, action, parties)
        assert error.value.reason == "WRONG_STATE"
        assert error.value.metadata == {"from": state.name, "action": action.value}
    else:
        assert step(state, action, parties) in mine
