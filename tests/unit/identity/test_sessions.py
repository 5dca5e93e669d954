"""The family of refresh tokens, as a machine: every order of use, loss, theft and time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from identity.domain.sessions import GRACE, Limits, Session, SessionRevoked, session_in
from kit.errors import Unauthenticated

NOW = datetime(2026, 11, 23, 5, tzinfo=UTC)
LIMITS = Limits(idle=timedelta(minutes=30), absolute=timedelta(hours=2))


def begun(session: str = "s1") -> tuple[Session, str]:
    return Session.begun(
        session, "a1", key=f"key of {session}", seed="seed", limits=LIMITS, user_agent="x" * 500, now=NOW
    )


class Family(RuleBasedStateMachine):
    """A model that knows every token given out, in order, against the session that keeps two hashes."""

    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.session, first = begun()
        self.given = [first]
        self.now = NOW
        self.rotated = NOW
        self.used = NOW
        self.ended = ""

    @rule(minutes=st.sampled_from([0.1, 0.25, 1, 10, 29, 31]))
    def time_passes(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(back=st.sampled_from([0, 0, 0, 1, 1, 2, 5]))
    def a_token_is_used(self, back: int) -> None:
        """Somebody, owner or thief, presents the newest token or one from before."""
        at = max(len(self.given) - 1 - back, 0)
        back = len(self.given) - 1 - at
        if self.ended:
            with pytest.raises(Unauthenticated, match="SESSION_ENDED"):
                self.session.rotate(self.given[at], limits=LIMITS, now=self.now)
            return
        answer = self.session.rotate(self.given[at], limits=LIMITS, now=self.now)
        if self.now >= min(self.used + LIMITS.idle, NOW + LIMITS.absolute):
            self.ended = "EXPIRED"
        elif back == 0:
            assert answer is not None
            assert answer not in self.given
            self.given.append(answer)
            self.rotated = self.used = self.now
        elif back == 1 and self.now < self.rotated + GRACE:
            assert answer == self.given[-1], "the family never forks"
        else:
            self.ended = "REUSED"
        if self.ended:
            assert answer is None

    @rule(noise=st.text("abc123.-_", max_size=60))
    def something_else_is_used(self, noise: str) -> None:
        with pytest.raises(Unauthenticated):
            self.session.rotate(noise, limits=LIMITS, now=self.now)
        _session, generation, secret, proof = self.given[-1].split(".")
        with pytest.raises(Unauthenticated, match="REFRESH_TOKEN_INVALID"):
            self.session.rotate(f"s1.{int(generation) + 1}.{secret}.{proof}", limits=LIMITS, now=self.now)

    @precondition(lambda self: len(self.given) > 2)
    @rule()
    def the_owner_signs_out(self) -> None:
        self.session.revoke("SIGNED_OUT", self.now)
        self.ended = self.ended or "SIGNED_OUT"

    @invariant()
    def it_ended_when_the_model_did_and_said_so_once(self) -> None:
        assert self.session.revoked_reason == self.ended
        assert self.session.live == (not self.ended)
        assert self.session.events == ([SessionRevoked(self.ended)] if self.ended else [])

    @invariant()
    def no_token_can_be_read_from_what_is_stored(self) -> None:
        stored = repr(self.session)
        for token in self.given:
            assert token.split(".")[2] not in stored


Family.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
test_a_family_of_refresh_tokens = Family.TestCase


def test_a_token_of_one_session_means_nothing_to_another() -> None:
    mine, _ = begun("s1")
    _theirs, token = begun("s2")
    with pytest.raises(Unauthenticated, match="REFRESH_TOKEN_INVALID"):
        mine.rotate(token, limits=LIMITS, now=NOW)
    with pytest.raises(Unauthenticated, match="REFRESH_TOKEN_INVALID"):
        mine.rotate(token.replace("s2", "s1", 1), limits=LIMITS, now=NOW)
    assert mine.live


def test_two_sessions_with_the_same_key_would_still_differ_by_their_seeds() -> None:
    tokens = {
        Session.begun("s", "a", key="k", seed=seed, limits=LIMITS, user_agent="", now=NOW)[1] for seed in "xy"
    }
    assert len(tokens) == 2


def test_a_thief_within_the_grace_time_is_exposed_by_the_next_rotation() -> None:
    session, stolen = begun()
    owner = session.rotate(stolen, limits=LIMITS, now=NOW)
    thief = session.rotate(stolen, limits=LIMITS, now=NOW + timedelta(seconds=5))
    assert owner is not None
    assert thief == owner
    assert session.rotate(thief, limits=LIMITS, now=NOW + timedelta(minutes=5))
    assert session.rotate(owner, limits=LIMITS, now=NOW + timedelta(minutes=6)) is None
    assert session.revoked_reason == "REUSED"


def test_the_session_of_a_token_is_read_only_from_what_looks_like_one() -> None:
    _session, token = begun()
    assert session_in(token) == "s1"
    for other in ("", "s1", "s1.1.x", "s1.1.x.y.z", "s1.1." + "x" * 300 + ".y", "ấ.1.x.y"):
        assert session_in(other) == ""
