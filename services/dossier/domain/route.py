"""The one rule by which a dossier goes from step to step and from agency to agency.

The steps of the procedure are a chain. A dossier stands at one of them, and only the role of that step at the
agency of that step completes it; then the next one is reached, and none is left out. The deciding step is the
leader's last one: it ends with the signature and with nothing else. Beside the chain a dossier may be sent to
any agency for its opinion, which changes no step, and it may be returned to a step that it has passed.
"""

from __future__ import annotations

from dataclasses import dataclass

from dossier.domain.records import Step
from kit.errors import FailedPrecondition, InvalidInput

_AFTER_THE_DECISION = ("reception", "clerk")  # roles of steps that hand over what has been decided


@dataclass(frozen=True)
class Move:
    """Where a dossier goes: the step that it is at then, by its place in the chain, the agency that has it,
    and whether the step that it comes from is completed thereby."""

    to: int
    agency: str
    completes: bool = False


@dataclass(frozen=True)
class Route:
    """The chain of a dossier's steps; a step without an agency is the receiving one's."""

    steps: tuple[Step, ...]
    receiving: str
    deciding: str

    @property
    def decides_at(self) -> int:
        """Where it is decided: at the leader's last step. Without one, once all is done but handing over."""
        leads = [index for index, step in enumerate(self.steps) if step.role == "leader"]
        if leads:
            return leads[-1]
        done = [index for index, step in enumerate(self.steps) if step.role not in _AFTER_THE_DECISION]
        return done[-1] + 1 if done else 0

    def place(self, at: int) -> str:
        """The agency that a dossier belongs to at a step. Who decides, past the last one, and where it is
        decided without a leader's step: the step that is next then is for afterwards."""
        decided = at >= len(self.steps) or (at == self.decides_at and self.steps[at].role != "leader")
        return self.deciding if decided else self.steps[at].agency or self.receiving

    def is_away(self, at: int, current: str) -> bool:
        """Whether the agency that has the dossier was only asked for its opinion. The receiving agency is
        never so before the first step, which may be another's."""
        return current != self.place(at) and not (at == 0 and current == self.receiving)

    def onward(self, at: int) -> Move:
        """The move that completes a step. Raises FailedPrecondition LAST_STEP, or SIGN_REQUIRED where only
        the signature completes it."""
        if at >= len(self.steps) or at > self.decides_at:
            raise FailedPrecondition("LAST_STEP", "there is no step after this one")
        if at == self.decides_at:
            raise FailedPrecondition("SIGN_REQUIRED", "this step is completed by signing the result")
        return Move(at + 1, self.place(at + 1), completes=True)

    def handed(self, at: int, current: str, agency: str, step: str) -> Move:
        """What handing it from the `current` agency to an agency, or to a step, comes to.

        An empty agency is the one that has it. An agency that was only asked gives it back and to nobody
        else. Raises InvalidInput UNKNOWN_STEP or NOT_ITS_AGENCY, FailedPrecondition STEP_SKIPPED where a step
        would be left out, ONLY_ASKED, and what `onward` raises.
        """
        if step:
            return self._to_step(at, agency, step)
        agency, home = agency or current, self.place(at)
        if agency == current:
            shift = at < min(self.decides_at, len(self.steps)) and self.steps[at].role == "reception"
            if shift and current == home and self.place(at + 1) == agency:
                return self.onward(at)
            return Move(at, agency)
        if agency == home:
            return Move(at, agency)
        if self.is_away(at, current):
            raise FailedPrecondition(
                "ONLY_ASKED", "an agency that was asked for its opinion gives the dossier back", agency=home
            )
        if current == home and at < self.decides_at and self.place(at + 1) == agency:
            return self.onward(at)
        return Move(at, agency)

    def _to_step(self, at: int, agency: str, step: str) -> Move:
        to = next((index for index, known in enumerate(self.steps) if known.id == step), None)
        if to is None:
            raise InvalidInput("UNKNOWN_STEP", "the procedure has no such step", step=step)
        if agency and agency != self.place(to):
            raise InvalidInput("NOT_ITS_AGENCY", "that step belongs to another agency", agency=self.place(to))
        if to > at + 1:
            raise FailedPrecondition("STEP_SKIPPED", "no step is left out", step=self.steps[at + 1].id)
        return self.onward(at) if to == at + 1 else Move(to, self.place(to))
