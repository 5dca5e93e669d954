"""A delivery's life: claimed, sent, tried again, given up; one attempt at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from notify.domain.delivery import ACCEPTED, GRAPH, NEVER, Delivery, Outcome, Retry, State, Step

NOW = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
RETRY = Retry(attempts=3, first=timedelta(seconds=10), most=timedelta(seconds=25), lease=timedelta(minutes=1))
DEFER = Outcome(Step.DEFER, "connection")
REFUSE = Outcome(Step.REFUSE, "recipient_550")


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def test_a_new_delivery_is_claimed_once_and_sent() -> None:
    delivery = Delivery(due=NOW)
    assert delivery.claim(NOW, RETRY) == 1
    assert delivery.claim(NOW, RETRY) == 0, "it is held by the first"
    delivery.settle(1, ACCEPTED, NOW, RETRY, 0)
    assert (delivery.state, delivery.sent, delivery.due, delivery.error) == (State.SENT, NOW, NEVER, "")


def test_a_deferred_delivery_waits_longer_each_time_and_is_abandoned_after_the_last() -> None:
    delivery, at, pauses = Delivery(due=NOW), NOW, []
    for attempt in (1, 2, 3):
        assert delivery.claim(at, RETRY) == attempt
        delivery.settle(attempt, DEFER, at, RETRY, 0.999999)
        pauses.append((delivery.due - at).total_seconds())
        at = delivery.due
    assert [round(pause) for pause in pauses[:2]] == [10, 20]
    assert (delivery.state, delivery.due, delivery.error) == (State.ABANDONED, NEVER, "connection")
    assert delivery.claim(NOW + timedelta(days=1), RETRY) == 0


def test_a_refusal_is_final() -> None:
    delivery = Delivery(due=NOW)
    delivery.settle(delivery.claim(NOW, RETRY), REFUSE, NOW, RETRY, 0)
    assert (delivery.state, delivery.error, delivery.attempts) == (State.FAILED, "recipient_550", 1)


def test_a_delivery_whose_holder_died_is_taken_over_when_the_lease_ends() -> None:
    delivery = Delivery(due=NOW)
    delivery.claim(NOW, RETRY)
    assert delivery.claim(NOW + seconds(59), RETRY) == 0
    assert delivery.claim(NOW + seconds(60), RETRY) == 2
    delivery.settle(1, DEFER, NOW + seconds(61), RETRY, 0)
    assert (delivery.state, delivery.attempts) == (State.SENDING, 2), (
        "the late answer of the first changes nothing"
    )
    delivery.settle(1, ACCEPTED, NOW + seconds(62), RETRY, 0)
    assert delivery.state is State.SENT, "but that it went out is a fact"


def test_a_late_success_spares_the_next_attempt() -> None:
    delivery = Delivery(due=NOW)
    delivery.claim(NOW, RETRY)
    delivery.claim(NOW + seconds(60), RETRY)
    delivery.settle(2, DEFER, NOW + seconds(61), RETRY, 0)
    delivery.settle(1, ACCEPTED, NOW + seconds(62), RETRY, 0)
    assert (delivery.state, delivery.due) == (State.SENT, NEVER)


def test_a_delivery_that_keeps_killing_its_holder_is_abandoned() -> None:
    delivery, at = Delivery(due=NOW), NOW
    for attempt in (1, 2, 3):
        assert delivery.claim(at, RETRY) == attempt
        at += RETRY.lease
    assert delivery.claim(at, RETRY) == 0
    assert (delivery.state, delivery.error) == (State.ABANDONED, "lease_expired")


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_at_least_half_a_step_and_never_over_the_longest(attempt: int, jitter: float) -> None:
    pause = Retry().wait(attempt, jitter)
    assert Retry().first / 2 <= pause <= Retry().most


def test_nothing_leaves_a_final_state() -> None:
    assert {source for source, _ in GRAPH} == {State.PENDING, State.SENDING}
    assert set(GRAPH.values()) == set(State), "and every state can be reached"


class Replicas(RuleBasedStateMachine):
    """Workers claim, send, answer late, die; time passes."""

    @initialize()
    def start(self) -> None:
        self.at = NOW
        self.delivery = Delivery(due=NOW)
        self.running: dict[int, datetime] = {}  # attempt: end of its lease
        self.went_out = 0
        self.final: Delivery | None = None

    @rule(span=st.sampled_from([1, 5, 30, 60, 600]))
    def time_passes(self, span: int) -> None:
        self.at += seconds(span)

    @rule()
    def someone_claims(self) -> None:
        attempt = self.delivery.claim(self.at, RETRY)
        if attempt:
            assert all(end <= self.at for end in self.running.values()), "two hold it at the same time"
            self.running[attempt] = self.at + RETRY.lease

    @rule(data=st.data(), outcome=st.sampled_from([ACCEPTED, DEFER, REFUSE]))
    def someone_answers(self, data: st.DataObject, outcome: Outcome) -> None:
        if self.running:
            attempt = data.draw(st.sampled_from(sorted(self.running)))
            del self.running[attempt]
            self.went_out += outcome is ACCEPTED
            self.delivery.settle(attempt, outcome, self.at, RETRY, 0.5)

    @rule(data=st.data())
    def someone_dies(self, data: st.DataObject) -> None:
        if self.running:
            del self.running[data.draw(st.sampled_from(sorted(self.running)))]

    @invariant()
    def it_makes_sense(self) -> None:
        delivery = self.delivery
        finished = delivery.state in (State.SENT, State.FAILED, State.ABANDONED)
        assert delivery.attempts <= RETRY.attempts
        assert finished == (delivery.due == NEVER)
        assert (delivery.state is State.SENT) == (delivery.sent is not None)
        assert self.went_out or delivery.state is not State.SENT
        if self.final is None and finished:
            self.final = Delivery(**vars(delivery))
        assert self.final is None or self.final == delivery, "what is finished stays as it is"


Replicas.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestReplicas = Replicas.TestCase
