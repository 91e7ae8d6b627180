"""When starved trainers are named, and when the run stops for lack of groups; pure.

It sees decisions of the vote alone, which are the same on every trainer: so all name, or stop, in
the same round, and may use collectives to do so.
"""

from dataclasses import replace

from trainer.vote import Action, Decision, StopCause


class Starvation:
    """Follows the rounds of one attempt.

    Args:
        starve_s: a shortage is named when it has lasted so long, and once more each time it has
            lasted so long again.
        stop_s: a shortage that has lasted so long stops the run; None: it never does.
    """

    def __init__(self, *, starve_s: float, stop_s: float | None) -> None:
        self._starve_s = starve_s
        self._stop_s = stop_s
        self._times_named = 0

    def on_round(self, decision: Decision) -> tuple[Decision, bool]:
        """The decision as it stands after looking at the shortage; whether all trainers name it."""
        if decision.action is not Action.WAIT:
            self._times_named = 0
            return decision, False
        stops = self._stop_s is not None and decision.longest_wait_s >= self._stop_s
        if stops:
            decision = replace(
                decision, action=Action.STOP, cause=StopCause.STARVED, by=decision.missing
            )
        return decision, self._is_news(decision) or stops

    def _is_news(self, decision: Decision) -> bool:
        lasted = int(decision.longest_wait_s / self._starve_s)
        is_news = lasted > self._times_named
        self._times_named = lasted
        return is_news
