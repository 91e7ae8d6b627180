"""When a shortage of groups is named, and when it ends the run."""

from trainer.starvation import Starvation
from trainer.vote import Action, Decision, StopCause


def waiting(longest_wait_s: float) -> Decision:
    return Decision(Action.WAIT, missing=(1,), longest_wait_s=longest_wait_s)


def notices(starvation: Starvation, waits_s: list[float]) -> list[float]:
    return [s for s in waits_s if starvation.on_round(waiting(s))[1]]


def test_a_shortage_is_named_once_every_while() -> None:
    starvation = Starvation(starve_s=30.0, stop_s=None)
    seconds = [float(second) for second in range(1, 100)]
    assert notices(starvation, seconds) == [30.0, 60.0, 90.0]


def test_a_shortage_that_is_over_starts_anew() -> None:
    starvation = Starvation(starve_s=30.0, stop_s=None)
    assert notices(starvation, [31.0]) == [31.0]
    step = Decision(Action.STEP)
    assert starvation.on_round(step) == (step, False)
    assert notices(starvation, [5.0, 29.0, 30.0]) == [30.0]


def test_it_goes_on_waiting_unless_told_to_stop() -> None:
    patient = Starvation(starve_s=30.0, stop_s=None)
    assert patient.on_round(waiting(1e6))[0].action is Action.WAIT
    strict = Starvation(starve_s=30.0, stop_s=100.0)
    assert strict.on_round(waiting(99.0))[0].action is Action.WAIT
    decision, named = strict.on_round(waiting(101.0))
    assert (decision.action, decision.cause) == (Action.STOP, StopCause.STARVED)
    assert (decision.by, decision.missing) == ((1,), (1,))
    assert named, "whoever is short is named with the end"


def test_another_reason_to_stop_stands() -> None:
    decision = Decision(Action.STOP, cause=StopCause.REQUESTED, by=(0,), longest_wait_s=500.0)
    starvation = Starvation(starve_s=30.0, stop_s=100.0)
    assert starvation.on_round(decision) == (decision, False)
